"""The synchronous client: one connection for all threads, equal results and exceptions, clear refusals elsewhere."""

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from perdure.api import GatewayClient, SyncClient
from perdure.entities import (
    ApplicationError,
    CallTimeout,
    DurableAwaitInHandler,
    Entity,
    HandlerFailed,
    NotConnected,
    OutcomeUnknown,
    Unavailable,
    find,
    handler,
    transaction,
)
from perdure.entities.testing import LocalCluster

from .bank import Account, bank
from .conftest import HERE


@pytest.fixture
def client() -> Generator[SyncClient]:
    with SyncClient(lambda: LocalCluster([Account])) as client:
        yield client


def test_whatever_can_be_awaited_can_be_called(client: SyncClient) -> None:
    account = Account.ref("a")
    assert client.call(account.deposit, 10) == 10
    client.call(account.deposit.send, amount=5)
    client.call(account.deposit.options(idempotency_key="k").send, 1)
    client.call(account.deposit.options(idempotency_key="k").send, 1)
    assert client.call(account.total) == 16
    run_id = client.call(account.save.start, 4)
    assert client.call(account.save.result, timeout=5) == 20
    assert client.call(account.save.start, 4) == run_id
    client.call(account.wait_for_note.start)
    client.call(account.notes.send, "hello")
    assert client.call(account.wait_for_note.result) == "hello"
    assert [match.key for match in client.call(lambda: find(Account, balance=20)).matches] == ["a"]


def test_a_coroutine_function_of_ones_own_does_several_things(client: SyncClient) -> None:
    async def both(first: str, second: str) -> list[int]:
        async with transaction(Account.ref(first), Account.ref(second)) as (a, b):
            await a.deposit(1)
            await b.deposit(2)
        return list(await asyncio.gather(Account.ref(first).total(), Account.ref(second).total()))

    assert client.call(both, "a", second="b") == [1, 2]


def test_errors_are_the_same_exceptions(client: SyncClient) -> None:
    with pytest.raises(ApplicationError, match="not enough"):
        client.call(Account.ref("a").withdraw, 1)
    with pytest.raises(HandlerFailed):
        client.call(Account.ref("a").crash)
    with pytest.raises(CallTimeout):
        client.call(Account.ref("a").wait_for_note.options(timeout=0.01))
    with pytest.raises(TypeError, match="await"):
        client.call(len, "no coroutine")  # type: ignore[arg-type]


@pytest.mark.parametrize("pooled", ["true", "false"])
def test_in_the_cluster_the_environment_says_whether_there_is_a_pooler(
    monkeypatch: pytest.MonkeyPatch, pooled: str
) -> None:
    given: dict[str, Any] = {}

    async def connect(**settings: Any) -> LocalCluster:
        given.update(settings)
        return LocalCluster([Account])

    monkeypatch.setattr("perdure.cluster.connect.connect", connect)
    monkeypatch.setenv("PERDURE_POOLED", pooled)
    with SyncClient.in_cluster(dsn="postgresql://db.example/shop") as client:
        assert client.call(Account.ref("a").deposit, 1) == 1
    assert (given["dsn"], given["is_pooled"]) == ("postgresql://db.example/shop", pooled == "true")


def test_many_threads_share_one_connection() -> None:
    opened: list[LocalCluster] = []

    def connect() -> LocalCluster:
        opened.append(LocalCluster([Account]))
        return opened[-1]

    with ThreadPoolExecutor(16) as pool:
        client = SyncClient(connect)
        assert opened == []
        done = list(pool.map(lambda _: client.call(Account.ref("a").deposit, 1), range(64)))
        client.close()
    assert sorted(done) == list(range(1, 65))
    assert len(opened) == 1


async def test_it_works_beside_a_running_loop_as_in_a_notebook() -> None:
    with SyncClient(lambda: LocalCluster([Account])) as client:
        assert client.call(Account.ref("a").deposit, 1) == 1


def test_over_http() -> None:
    async def total() -> int:
        return await Account.ref("a").total()

    @asynccontextmanager
    async def connect() -> AsyncGenerator[GatewayClient]:
        """A gateway and its client, in one thread."""
        async with (
            bank() as (_, app),
            GatewayClient(HERE, transport=httpx.ASGITransport(app), is_default=False) as client,
        ):
            yield client

    with SyncClient(connect) as client:
        assert client.call(Account.ref("a").deposit, 10) == 10
        assert client.call(total) == 10


def test_no_gateway_there_is_told_at_once_and_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    with pytest.raises(Unavailable, match="no gateway at"):
        SyncClient.over_http("http://127.0.0.1:9").open()
    assert set(threading.enumerate()) == before


def test_a_closed_client_ends_its_thread_and_connects_again(client: SyncClient) -> None:
    assert "perdure-client" in {thread.name for thread in threading.enumerate()}
    client.close()
    client.close()
    assert "perdure-client" not in {thread.name for thread in threading.enumerate()}
    assert client.call(Account.ref("a").total) == 0


def test_what_is_under_way_when_it_is_closed_is_told_as_unknown(client: SyncClient) -> None:
    begun = threading.Event()

    async def wait() -> None:
        begun.set()
        await asyncio.Event().wait()

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.call, wait)
        begun.wait()
        client.close()
        with pytest.raises(OutcomeUnknown, match="same idempotency key"):
            waiting.result()


def test_what_is_no_longer_iterated_over_ends(client: SyncClient) -> None:
    ended = threading.Event()

    async def count() -> AsyncGenerator[int]:
        try:
            for number in range(10):
                yield number
        finally:
            ended.set()

    assert list(client.each(count)) == list(range(10))
    ended.clear()
    numbers = client.each(count)
    assert next(numbers) == 0
    numbers.close()  # type: ignore[attr-defined]
    assert ended.is_set()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_an_open_client_is_refused_in_a_fork_and_an_unopened_one_is_not(client: SyncClient) -> None:
    fresh = SyncClient(lambda: LocalCluster([Account]))
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        told = "nothing"
        try:
            client.call(Account.ref("a").total)
        except NotConnected as error:
            told = f"{error} / {fresh.call(Account.ref('a').deposit, 7)}"
        finally:
            os.write(write, told.encode())
            os._exit(0)
    os.waitpid(child, 0)
    told = os.read(read, 4_096).decode()
    assert "call it only after" in told
    assert told.endswith("/ 7")
    assert client.call(Account.ref("a").total) == 0


def test_inside_itself_it_is_refused(client: SyncClient) -> None:
    async def nested() -> None:
        client.call(Account.ref("a").total)

    with pytest.raises(NotConnected, match="event loop thread"):
        client.call(nested)


def test_in_a_turn_it_is_refused() -> None:
    client = SyncClient(lambda: LocalCluster([Account]))

    class Blocking(Entity):
        @handler
        async def block(self) -> None:
            client.call(Account.ref("a").total)

    with (
        SyncClient(lambda: LocalCluster([Blocking])) as outside,
        pytest.raises(DurableAwaitInHandler, match=r"Blocking/b: a handler used a SyncClient"),
    ):
        outside.call(Blocking.ref("b").block)
