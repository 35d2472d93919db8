"""An entity as a stream: what comes, where it goes on after a break, what it may cost, and how it ends."""

import asyncio
import contextlib
import gc
import json
import sys
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from perdure.api import GatewayClient, SyncClient
from perdure.api import streams as streaming
from perdure.api.protocol import BoundedHeadProtocol
from perdure.api.serve import serving
from perdure.entities import EntityChange, InvalidArguments, NotConnected, watch
from perdure.entities import watching as looking
from perdure.entities.archive import ambient_archive
from perdure.entities.client import use
from perdure.entities.ids import EntityId
from perdure.entities.store.archive import Archive, Snapshot
from perdure.entities.testing import LocalCluster

from .bank import OPEN, Account, BehindState, bank

PATH = "/entities/Account/a/-/events"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    assert watch.__kwdefaults__ is not None
    monkeypatch.setitem(watch.__kwdefaults__, "poll", 0.01)


@pytest.fixture
async def app() -> AsyncGenerator[BehindState]:
    async with bank() as (_, app):
        yield app


@pytest.fixture
async def url(app: BehindState) -> AsyncGenerator[str]:
    async with serving(app, OPEN) as address:
        yield address


class Reader:
    """Reads a stream as a browser does."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self._lines = answer.aiter_lines()
        self.comments = 0

    async def next(self) -> tuple[str, dict[str, Any]]:
        """(id, data) of the next event."""
        found: dict[str, str] = {}
        async for line in self._lines:
            name, _, value = line.partition(": ")
            self.comments += line.startswith(":")
            if line:
                found[name] = value
            elif "data" in found:
                assert found["event"] == "change"
                return found["id"], json.loads(found["data"])
            else:
                found = {}
        raise EOFError


@contextlib.asynccontextmanager
async def reading(url: str, path: str = PATH, **headers: str) -> AsyncGenerator[Reader]:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    async with (
        asyncio.timeout(30),
        httpx.AsyncClient(base_url=url, timeout=20) as http,
        http.stream("GET", path, headers=sent) as answer,
    ):
        yield Reader(answer)


async def test_first_the_state_then_each_change(url: str) -> None:
    account = Account.ref("a")
    await account.deposit(10)
    async with reading(url) as reader:
        assert reader.answer.headers["content-type"].startswith("text/event-stream")
        assert reader.answer.headers["cache-control"] == "no-store"
        version, first = await reader.next()
        assert (version, first["state"]["balance"], first["events"]) == ("1", 10, [])
        await account.deposit(5)
        version, second = await reader.next()
        assert (version, second["state"]["balance"]) == ("2", 15)
        assert [(event["name"], event["output"]) for event in second["events"]] == [("deposit", 15)]
        await account.save(1)
        seen: list[str] = []
        while "ended" not in seen:
            seen += [event["what"] for event in (await reader.next())[1]["events"]]
        assert "started" in seen


async def test_a_reader_that_comes_back_is_told_what_it_missed(url: str) -> None:
    for amount in (1, 2, 3):
        await Account.ref("a").deposit(amount)
    for headers, path in (({"Last_Event_ID": "1"}, PATH), ({}, f"{PATH}?after=1")):
        async with reading(url, path, **headers) as reader:
            version, missed = await reader.next()
        assert (version, missed["state"]["balance"]) == ("3", 6)
        assert [event["output"] for event in missed["events"]] == [3, 6]


async def test_an_entity_that_is_not_there_yet_can_be_waited_for(url: str) -> None:
    async with reading(url) as reader:
        assert (await reader.next())[1]["state"] is None
        await Account.ref("a").deposit(1)
        assert (await reader.next())[1]["state"]["balance"] == 1


@pytest.mark.parametrize("given", ["1", "99", "-1", "x", "1.5", "²", "9" * 30])
async def test_an_id_that_is_none_of_the_streams_is_refused(url: str, given: str) -> None:
    async with httpx.AsyncClient(base_url=url) as http:
        answer = await http.get(PATH, params={"after": given})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_cursor")


async def test_only_so_many_are_open_at_a_time(url: str) -> None:
    async with reading(url) as first:
        await first.next()
        async with reading(url) as second:
            await second.next()
            async with reading(url) as third:
                await third.answer.aread()
                assert (third.answer.status_code, third.answer.json()["limit"]) == (429, 2)
        async with asyncio.timeout(10):
            while True:
                async with reading(url) as again:
                    if again.answer.status_code == 200:
                        return
                await asyncio.sleep(0)


async def test_a_silent_stream_has_heartbeats_and_an_end(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "HEARTBEAT_S", 0.01)
    monkeypatch.setattr(streaming, "STREAM_S_MAX", 0.1)
    async with reading(url) as reader:
        await reader.next()
        with pytest.raises(EOFError):
            await reader.next()
    assert reader.comments > 0


async def test_a_reader_that_does_not_read_loses_its_place_and_its_connection(
    app: BehindState, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(streaming, "HEARTBEAT_S", 0.1)
    monkeypatch.setattr(streaming, "STREAM_S_MAX", 0.1)
    monkeypatch.setattr(streaming, "event_of", lambda _: b": " + b"x" * 100_000_000 + b"\n\n")  # fits no buffer
    sockets: list[asyncio.BaseTransport] = []
    made = BoundedHeadProtocol.connection_made
    lost = BoundedHeadProtocol.connection_lost
    is_lost = asyncio.Event()

    def note_made(self: BoundedHeadProtocol, transport: asyncio.Transport) -> None:
        sockets.append(transport)
        made(self, transport)

    def note_lost(self: BoundedHeadProtocol, exc: Exception | None) -> None:
        lost(self, exc)
        is_lost.set()

    monkeypatch.setattr(BoundedHeadProtocol, "connection_made", note_made)
    monkeypatch.setattr(BoundedHeadProtocol, "connection_lost", note_lost)
    async with asyncio.timeout(60), serving(app, OPEN) as address:
        host, _, port = address.removeprefix("http://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1_024)
        writer.write(f"GET {PATH} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert b"200" in await reader.readline()
        await is_lost.wait()
        assert all(one.is_closing() for one in sockets)
        writer.close()
        async with reading(address) as one, reading(address) as other:
            assert (one.answer.status_code, other.answer.status_code) == (200, 200)
    assert [record for record in caplog.records if record.name.startswith("uvicorn")] == []


async def test_the_servers_end_ends_the_streams_at_once(app: BehindState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[serving.__module__], "END_S", 1_000)
    stack = contextlib.AsyncExitStack()
    address = await stack.enter_async_context(serving(app, OPEN))
    async with reading(address) as reader:
        await reader.next()
        ending = asyncio.create_task(stack.aclose())
        with pytest.raises(EOFError):
            await reader.next()
    async with asyncio.timeout(20):
        await ending


async def test_a_reader_that_leaves_leaves_nothing_behind(url: str) -> None:
    async with reading(url) as reader:
        await reader.next()
        assert looking_on()
    async with asyncio.timeout(10):
        while looking_on():
            await asyncio.sleep(0.005)


def looking_on() -> int:
    """Generators that look at an entity."""
    return sum(
        isinstance(one, AsyncGenerator) and one.__name__ == "watch" and one.ag_frame is not None  # type: ignore[attr-defined]
        for one in gc.get_objects()
    )


# --- In Python --------------------------------------------------------------------------------------------------------


async def take(count: int, changes: AsyncGenerator[EntityChange]) -> list[EntityChange]:
    async with asyncio.timeout(30), contextlib.aclosing(changes):
        return [await anext(changes) for _ in range(count)]


async def test_watching_beside_the_hosts_and_over_http_is_the_same(url: str) -> None:
    for amount in (1, 2):
        await Account.ref("a").deposit(amount)
    here = await take(1, watch(Account.ref("a"), after=0))
    async with GatewayClient(url, is_default=False) as client:
        with use(client):
            there = await take(1, watch(Account.ref("a"), after=0))
    assert here == there
    assert [event.output for event in there[0].events] == [1, 3]


async def test_watching_over_http_goes_on_after_a_break(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "STREAM_S_MAX", 0.02)
    async with GatewayClient(url, is_default=False) as client:
        with use(client):
            changes = watch(Account.ref("a"))
            assert (await anext(changes)).version == 0
            for number in range(1, 4):
                await Account.ref("a").deposit(1)
                seen: list[Any] = []
                while not seen:
                    seen = (await anext(changes)).events
                assert [event.output for event in seen] == [number]
            await changes.aclose()


@pytest.mark.usefixtures("app")
async def test_watching_from_a_version_to_come_is_refused() -> None:
    with pytest.raises(InvalidArguments, match="at version 0"):
        await anext(watch(Account.ref("a"), after=1))
    with pytest.raises(InvalidArguments, match="0 or more"):
        await anext(watch(Account.ref("a"), after=-1))
    with pytest.raises(InvalidArguments, match="poll"):
        await anext(watch(Account.ref("a"), poll=0))


async def test_watching_from_a_version_to_come_is_refused_alike_over_http(url: str) -> None:
    async with GatewayClient(url, is_default=False) as client:
        with use(client):
            for version in (1, 10**30):
                with pytest.raises(InvalidArguments) as refused:
                    await take(1, watch(Account.ref("a"), after=version))
                assert refused.value.details == {"errors": []}


class CommitsBetweenReads:
    """An archive whose entity changes just after each of its first snapshots."""

    def __init__(self, archive: Archive, changes: int) -> None:
        self._archive = archive
        self._changes = changes

    async def snapshot(self, entity: EntityId) -> Snapshot | None:
        found = await self._archive.snapshot(entity)
        if self._changes:
            self._changes -= 1
            await Account.ref(entity.key).deposit(1)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._archive, name)


@pytest.mark.usefixtures("app")
@pytest.mark.parametrize("changes", [1, 2, 3])
async def test_a_change_never_holds_a_state_older_than_its_version(changes: int) -> None:
    await Account.ref("a").deposit(1)
    archive: Any = CommitsBetweenReads(ambient_archive(), changes)
    outputs: list[int] = []
    following = watch(Account.ref("a"), after=0, archive=archive)
    async with asyncio.timeout(30), contextlib.aclosing(following):
        async for change in following:
            assert change.state["balance"] >= change.version  # each turn adds one
            outputs += [event.output for event in change.events]
            if change.version == 1 + changes:
                break
    assert outputs == list(range(1, 2 + changes))


async def test_watching_without_a_client_says_how_to_connect() -> None:
    with pytest.raises(NotConnected):
        await anext(watch(Account.ref("a")))


@pytest.mark.usefixtures("app")
async def test_more_than_fits_into_one_change_comes_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking, "EVENTS_MAX", 2)
    for _ in range(5):
        await Account.ref("a").deposit(1)
    pieces = await take(3, watch(Account.ref("a"), after=0))
    assert [event.output for piece in pieces for event in piece.events] == [1, 2, 3, 4, 5]
    assert [piece.is_last for piece in pieces] == [False, False, True]
    assert [piece.state and piece.state["balance"] for piece in pieces] == [None, None, 5]


def test_scripts_watch_too() -> None:
    with SyncClient(lambda: LocalCluster([Account])) as client:
        changes = client.each(watch, Account.ref("a"), poll=0.01)
        assert next(changes).version == 0
        client.call(Account.ref("a").deposit, 3)
        assert next(changes).state["balance"] == 3
        changes.close()  # type: ignore[attr-defined]
