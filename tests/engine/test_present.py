"""`present`: what is going on at an entity, told from what is committed (P8), with no host alive."""

import asyncio
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from perdure.entities import (
    ApplicationError,
    Entity,
    Mailbox,
    RetryPolicy,
    activity,
    condition,
    handler,
    history,
    workflow,
)
from perdure.entities.encryption import EncryptionCodec
from perdure.entities.errors import InvalidArguments, NoSuchEntity
from perdure.entities.history import What
from perdure.entities.ids import EntityId
from perdure.entities.present import present
from perdure.entities.store.encoded import EncodedStore
from perdure.entities.store.memory import MemoryStore
from perdure.entities.testing import LocalCluster, PerdureTest


@activity(retry=RetryPolicy(initial=timedelta(hours=1), maximum=timedelta(hours=1)))
async def open_gate(place: str) -> str:
    raise ApplicationError(f"the gate of {place} does not answer")


class Gate(Entity):
    opened: bool = False
    keys = Mailbox(str)

    @workflow
    async def run(self, place: str) -> str:
        return await open_gate(place)

    @workflow
    async def guard(self) -> str:
        for _ in range(3):
            await condition(lambda: self.opened, timeout=timedelta(days=1))
        return await self.keys.receive()

    @handler
    async def open(self) -> None:
        self.opened = True

    @handler(retry=RetryPolicy(attempts=1))
    async def inspect(self) -> None:
        raise ApplicationError("no inspector")


class Walk(Entity):
    @workflow
    async def go(self, gate: str) -> None:
        await Gate.ref(gate).open()


async def test_a_failing_activity_is_told_with_its_attempts_error_and_next_try() -> None:
    async with PerdureTest([Gate]) as world:
        await Gate.ref("north").run.start("North Field")
        await world.advance(minutes=1)
        async with world.outage():
            now = await present(EntityId("Gate", "north"), archive=world.archive)
        [run] = now.runs
        [operation] = run.operations
        assert (run.workflow, run.status) == ("run", "running")
        assert (operation.number, operation.kind, operation.name, operation.status) == (
            0,
            "activity",
            "open_gate",
            "retrying",
        )
        assert operation.attempts == 1
        assert operation.last_error["message"] == "the gate of North Field does not answer"
        assert operation.next_at is not None
        assert operation.since is not None
        assert operation.next_at - operation.since >= timedelta(minutes=59)


async def test_what_was_given_up_is_not_waited_for() -> None:
    async with PerdureTest([Gate]) as world:
        await Gate.ref("north").guard.start()
        await world.advance(days=1, hours=1)  # the first wait has timed out, the second one runs
        [run] = (await present(Gate.ref("north"))).runs
        assert sorted(one.kind for one in run.operations) == ["condition", "timer"]
        assert {one.number for one in run.operations} == {2, 3}
        [timer] = [one for one in run.operations if one.kind == "timer"]
        [reminder] = (await present(Gate.ref("north"))).reminders
        assert timer.next_at == reminder.due_at
        await Gate.ref("north").open()
        await world.settled()
        [run] = (await present(Gate.ref("north"))).runs
        assert [(one.kind, one.name) for one in run.operations] == [("receive", "keys")]
        await Gate.ref("north").keys.send("brass")
        [run] = (await present(Gate.ref("north"))).runs
        assert (run.status, run.operations) == ("completed", [])


async def test_items_and_dead_letters_are_shown_and_lists_are_cut() -> None:
    async with PerdureTest([Gate]) as world:
        for number in range(3):
            await Gate.ref("south").keys.send(f"key {number}")
            with pytest.raises(ApplicationError):
                await Gate.ref("south").inspect.send()
        await world.settled()
        now = await present(Gate.ref("south"), limit=2)
        assert [bytes(one.item) for one in now.items] == [b'"key 0"', b'"key 1"']
        assert [one.name for one in now.dead_letters] == ["inspect", "inspect"]
        assert now.rows_max == 2
        assert now.version > 0


async def test_what_is_not_there_is_told() -> None:
    async with PerdureTest([Gate]):
        with pytest.raises(NoSuchEntity):
            await present(Gate.ref("nowhere"))
        with pytest.raises(InvalidArguments):
            await present(Gate.ref("nowhere"), limit=0)


async def test_the_history_names_whom_a_run_has_called() -> None:
    async with PerdureTest([Gate, Walk]):
        await Walk.ref("w").go("east")
        events = (await history(Walk.ref("w"))).events
        [asked] = [event for event in events if event.what is What.SCHEDULED]
        assert asked.details == {"target": "Gate/east"}
        [received] = (await history(Gate.ref("east"))).events
        assert received.sender == "Walk/w"


# --- Where errors came from -------------------------------------------------------------------------------------------


async def test_errors_of_attempts_and_dead_letters_tell_where_they_were_raised() -> None:
    async with PerdureTest([Gate]) as world:
        await Gate.ref("north").run.start("North Field")
        with pytest.raises(ApplicationError) as answered:
            await Gate.ref("north").inspect()
        assert answered.value.body().traceback == ""
        with pytest.raises(ApplicationError):
            await Gate.ref("north").inspect.send()
        await world.settled()
        now = await present(Gate.ref("north"))
        [operation] = now.runs[0].operations
        assert operation.last_error["traceback"].splitlines()[-1].endswith("in open_gate")
        [letter] = now.dead_letters
        told = msgspec.json.decode(msgspec.json.encode(letter.error))
        assert told["traceback"].splitlines()[-1].endswith("in Gate.inspect")
        assert __file__ in told["traceback"]
        told_since = await history(Gate.ref("north"))
        assert "traceback" not in str([event.error for event in told_since.events if event.what is What.MESSAGE])


async def test_where_texts_are_encrypted_none_is_stored() -> None:
    codec = EncryptionCodec({"k1": bytes(range(32))})
    store: Any = EncodedStore(MemoryStore(), codec, namespace="tests")
    async with LocalCluster([Gate], store=store):
        await Gate.ref("north").run.start("North Field")
        with pytest.raises(ApplicationError):
            await Gate.ref("north").inspect.send()
        async with asyncio.timeout(30):
            while not (now := await present(Gate.ref("north"))).runs[0].operations[0].attempts:
                await asyncio.sleep(0.005)
        [operation] = now.runs[0].operations
        assert operation.last_error["message"] == "the gate of North Field does not answer"
        assert "no inspector" in str(bytes(msgspec.json.encode(now.dead_letters)))
        assert "traceback" not in operation.last_error
        assert b"traceback" not in msgspec.json.encode(now.dead_letters)
