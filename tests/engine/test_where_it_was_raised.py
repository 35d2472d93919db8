"""Where an activity that failed for good raised its error: told to people, not to code (P7), never with a codec."""

import asyncio
from typing import Any

import msgspec
import pytest

from perdure.entities import ApplicationError, Entity, EntityId, Mailbox, RetryPolicy, activity, history, workflow
from perdure.entities.definition import Registry
from perdure.entities.encryption import EncryptionCodec
from perdure.entities.engine.activities import ERROR_BYTES_MAX, encode_error
from perdure.entities.engine.journal import decode_entry, encode_entry
from perdure.entities.errors import ErrorBody, error_body
from perdure.entities.history import What
from perdure.entities.messages import decode_error
from perdure.entities.store.encoded import EncodedStore
from perdure.entities.store.memory import MemoryStore
from perdure.entities.store.rows import Loaded
from perdure.entities.testing import LocalCluster
from perdure.entities.testing.replay import replay

SECRET = "card 4711"
CAUGHT: list[dict[str, Any]] = []
"""What the workflow's code could see of each error that it caught, live or in a replay."""


class Declined(Exception):
    pass


def ask_bank(card: str) -> None:
    raise Declined(f"{card} is declined")


@activity(retry=RetryPolicy(attempts=1))
async def charge(card: str) -> None:
    ask_bank(card)


@activity(retry=RetryPolicy(non_retryable=[ApplicationError]))
async def bill(card: str) -> None:
    try:
        ask_bank(card)
    except Declined as declined:
        raise ApplicationError("no bill", amount=7) from declined


class Payment(Entity):
    nudges = Mailbox(str)

    @workflow
    async def run(self, card: str) -> str:
        for step in (charge, bill):
            try:
                await step(card)
            except (Declined, ApplicationError) as error:
                cause = error.__cause__
                CAUGHT.append(
                    {
                        "type": type(error),
                        "args": error.args,
                        "attributes": dict(vars(error)),
                        "body": error_body(error),
                        "cause": None if cause is None else (type(cause), cause.args, dict(vars(cause))),
                    }
                )
        return await self.nudges.receive()


@pytest.fixture(autouse=True)
def nothing_caught() -> None:
    CAUGHT.clear()


async def failures(key: str) -> list[Any]:
    return [event.error for event in (await history(Payment.ref(key))).events if event.what is What.FAILED]


async def both_failed() -> None:
    """Both have failed, and that is committed."""
    async with asyncio.timeout(30):
        while len(await failures("p")) < 2:
            await asyncio.sleep(0.005)


async def test_an_activity_that_failed_for_good_tells_where() -> None:
    async with LocalCluster([Payment]):
        await Payment.ref("p").run.start(SECRET)
        await Payment.ref("p").nudges.send("go on")
        assert await Payment.ref("p").run.result() == "go on"
        declined, no_bill = await failures("p")
    assert declined["traceback"].startswith("Declined, raised in (innermost last):\n")
    assert declined["traceback"].splitlines()[-1].endswith("in ask_bank")
    assert __file__ in declined["traceback"]
    assert "in bill\nbecause of Declined" in no_bill["traceback"]
    assert SECRET not in declined["traceback"] + no_bill["traceback"]


async def test_code_that_catches_the_error_sees_the_same_live_and_in_a_replay_and_no_trace() -> None:
    async with LocalCluster([Payment]) as cluster:
        await Payment.ref("p").run.start(SECRET)
        await both_failed()
        live = CAUGHT[:]
        CAUGHT.clear()
        await cluster.crash()
        await Payment.ref("p").nudges.send("go on")
        assert await Payment.ref("p").run.result() == "go on"
        assert live == CAUGHT
        assert [one["type"] for one in live] == [Declined, ApplicationError]
        assert live[1]["attributes"]["details"] == {"amount": 7}
        assert "test_where_it_was_raised.py" not in str(live)


async def test_journals_without_traces_fit_as_before() -> None:
    store = MemoryStore()
    async with LocalCluster([Payment], store=store):
        await Payment.ref("p").run.start(SECRET)
        await both_failed()
        [loaded] = await store.load([EntityId("Payment", "p")], inbox_max=0)
    live = CAUGHT[:]
    CAUGHT.clear()
    older = without_traces(loaded)
    report = replay(Registry([Payment]), [older])
    assert (report.runs, report.misfits) == (1, [])
    assert live == CAUGHT


def without_traces(loaded: Loaded) -> Loaded:
    """As the last release would have written it."""
    dropped = 0
    for at, row in enumerate(loaded.journal):
        entry = decode_entry(row.entry)
        for place, event in enumerate(entry.events):
            if event.kind == "error":
                body: ErrorBody = decode_error(bytes(event.value))
                dropped += bool(body.traceback)
                plain = msgspec.json.encode(msgspec.structs.replace(body, traceback=""))
                entry.events[place] = msgspec.structs.replace(event, value=msgspec.Raw(plain))
        loaded.journal[at] = row._replace(entry=encode_entry(entry))
    assert dropped == 2
    return loaded


async def test_where_texts_are_encrypted_none_is_stored() -> None:
    codec = EncryptionCodec({"k1": bytes(range(32))})
    store: Any = EncodedStore(MemoryStore(), codec, namespace="tests")
    async with LocalCluster([Payment], store=store):
        await Payment.ref("p").run.start(SECRET)
        await both_failed()
        declined, no_bill = await failures("p")
    assert declined["message"] == f"{SECRET} is declined"
    assert "traceback" not in declined
    assert "traceback" not in no_bill


def test_a_trace_costs_an_error_nothing_that_code_can_read() -> None:
    room = ERROR_BYTES_MAX - len(encode_error(ApplicationError("full", text="")))
    error = ApplicationError("full", text="x" * room)
    plain, traced = encode_error(error), encode_error(error, "t" * 4_000)
    assert len(plain) == ERROR_BYTES_MAX
    told = decode_error(traced)
    assert told.traceback == "t" * 4_000
    assert msgspec.structs.replace(told, traceback="") == decode_error(plain)
    broken = encode_error(ApplicationError("too full", text="x" * (room + 1_000)), "t" * 4_000)
    assert (decode_error(broken).details, decode_error(broken).traceback) == ({}, "t" * 4_000)
