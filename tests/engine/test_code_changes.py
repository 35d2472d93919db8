"""Code changes under live runs: patches, upgrades of state, parked runs, long journals (P7, P9)."""

import asyncio
import logging
from datetime import timedelta
from typing import Any

import pytest

from perdure.entities import (
    DefinitionError,
    Entity,
    EntityId,
    EntityParked,
    JournalTooLong,
    Mailbox,
    NotInWorkflow,
    RunParked,
    condition,
    deprecate_patch,
    handler,
    patched,
    query,
    upgrade,
    workflow,
)
from perdure.entities.engine.settings import EngineSettings
from perdure.entities.store.rows import RunStatus
from perdure.entities.testing import LocalCluster

from .conftest import QUICK
from .faults import FaultyStore
from .programs import charge
from .scenes import world
from .waiting import becomes, eventually

EVICTING = EngineSettings(handler_grace_s=0.05, mail_poll_s=0.05, evict_after_every_turn=True)


# --- patches ---


class Before(Entity, name="Trip"):
    log: list[str] = []
    go: int = 0

    @workflow
    async def run(self) -> list[str]:
        for number in range(3):
            receipt = await charge(number)
            self.log.append(receipt)
            await condition(lambda number=number: self.go > number)  # type: ignore[misc]
        return self.log

    @handler
    async def open(self) -> None:
        self.go += 1

    @query
    async def lines(self) -> list[str]:
        return self.log


class Patched(Before, name="Trip"):
    @workflow
    async def run(self) -> list[str]:
        for number in range(3):
            if patched("cheaper"):
                receipt = "cheap " + await charge(100 + number)
                receipt += " " + str(patched("cheaper"))
            else:
                receipt = await charge(number)
            self.log.append(receipt)
            await condition(lambda number=number: self.go > number)  # type: ignore[misc]
        return self.log


class PatchedAtTheEnd(Before, name="Trip"):
    @workflow
    async def run(self) -> list[str]:
        for number in range(3):
            receipt = await charge(number)
            self.log.append(receipt)
            await condition(lambda number=number: self.go > number)  # type: ignore[misc]
        if patched("farewell"):
            self.log.append(await charge(55))
        return self.log


class Deprecated(Before, name="Trip"):
    @workflow
    async def run(self) -> list[str]:
        for number in range(3):
            deprecate_patch("cheaper")
            receipt = "cheap " + await charge(100 + number)
            self.log.append(receipt + " True")
            await condition(lambda number=number: self.go > number)  # type: ignore[misc]
        return self.log


class Cleaned(Before, name="Trip"):
    @workflow
    async def run(self) -> list[str]:
        for number in range(3):
            receipt = "cheap " + await charge(100 + number)
            self.log.append(receipt + " True")
            await condition(lambda number=number: self.go > number)  # type: ignore[misc]
        return self.log


OLD = [f"receipt {number}" for number in range(3)]
NEW = [f"cheap receipt {number} True" for number in range(100, 103)]


async def steps(store: FaultyStore, *classes: type[Before]) -> list[str]:
    """Start under the first class; go on by a step under each of the others."""
    for index, cls in enumerate(classes):
        async with LocalCluster([cls], store=store, settings=EVICTING) as cluster:
            trip = cls.ref("t")
            if index == 0:
                await trip.run.start()
            else:
                await trip.open()
            if index < 3:
                await eventually(lambda number=index: _lines(store) > number)  # type: ignore[misc]
                await cluster.crash()
                assert len(await trip.lines()) == index + 1
            else:
                return await trip.run.result(timeout=30)
    raise AssertionError


def _lines(store: FaultyStore) -> int:
    return store.state("Trip/t").count(b"receipt")


async def test_a_run_from_before_a_patch_takes_the_old_branch_for_ever(store: FaultyStore) -> None:
    assert await steps(store, Before, Patched, Patched, Patched) == OLD


async def test_a_run_from_after_a_patch_takes_the_new_branch_and_may_lose_the_patch(store: FaultyStore) -> None:
    assert await steps(store, Patched, Patched, Deprecated, Cleaned) == NEW


async def test_a_deprecated_patch_can_be_rolled_back(store: FaultyStore) -> None:
    assert await steps(store, Deprecated, Patched, Deprecated, Patched) == NEW


async def test_a_patch_ahead_of_a_run_is_taken(store: FaultyStore) -> None:
    assert await steps(store, Before, PatchedAtTheEnd, PatchedAtTheEnd, PatchedAtTheEnd) == [*OLD, "receipt 55"]


async def test_a_run_from_before_the_patch_does_not_fit_code_without_its_branch(store: FaultyStore) -> None:
    with pytest.raises(RunParked, match="recorded #0 activity charge"):
        await half(store)


async def half(store: FaultyStore) -> None:
    class Renamed(Before, name="Trip"):
        @workflow
        async def run(self) -> list[str]:
            deprecate_patch("cheaper")
            await asyncio.sleep(1)
            return []

    async with LocalCluster([Before], store=store, settings=QUICK):
        await Before.ref("t").run.start()
        await becomes(Before.ref("t").lines, ["receipt 0"])
    async with LocalCluster([Renamed], store=store, settings=QUICK):
        await Renamed.ref("t").run.result(timeout=30)


def test_patched_outside_a_workflow() -> None:
    assert patched("x"), "in a unit test of the function"
    with pytest.raises(ValueError, match="printable"):
        patched("")


class PatchInHandler(Entity):
    @handler
    async def asks(self) -> bool:
        return patched("x")


async def test_handlers_need_no_patches() -> None:
    async with LocalCluster([PatchInHandler]):
        with pytest.raises(NotInWorkflow, match="PatchInHandler/p: a handler called patched"):
            await PatchInHandler.ref("p").asks()


# --- parked runs ---


@pytest.mark.unfit("evict", reason="it looks for an activation in memory")
async def test_a_parked_run_refuses_to_be_cancelled_and_is_tried_again_by_the_next_host(store: FaultyStore) -> None:
    async with LocalCluster([Before], store=store, settings=QUICK):
        await Before.ref("t").run.start()
        await becomes(Before.ref("t").lines, ["receipt 0"])
    async with LocalCluster([Cleaned], store=store, settings=QUICK):
        with pytest.raises(RunParked, match=r"cannot clean up, so it is not cancelled.*terminate"):
            await Cleaned.ref("t").run.cancel()
    stored = store._entities[EntityId("Trip", "t")]
    assert stored.runs["run"].status is RunStatus.PARKED
    before = stored.version
    async with LocalCluster([Cleaned], store=store, settings=QUICK) as cluster:
        await eventually(lambda: bool(cluster.engines[0].active))
        assert (stored.runs["run"].status, stored.version) == (RunStatus.PARKED, before), "nothing is written anew"
    async with LocalCluster([Before], store=store, settings=QUICK):  # nobody calls it
        await eventually(lambda: stored.runs["run"].status is RunStatus.RUNNING)
        await Before.ref("t").open()
        await Before.ref("t").run.cancel()


# --- upgrades ---


class One(Entity, name="Person"):
    first: str = "Ada"
    last: str = "Lovelace"
    steps: int = 0
    letters = Mailbox(str)

    @workflow
    async def run(self) -> str:
        self.steps += 1
        await self.letters.receive()
        seen = self.first
        await self.letters.receive()
        self.steps += 1
        await self.letters.receive()
        return f"{seen} {self.first} {self.steps}"

    @handler
    async def rename(self, name: str) -> None:
        self.first = name

    @query
    async def full(self) -> str:
        return f"{self.first} {self.last} {self.steps}"


class Three(Entity, name="Person", version=3):
    """Names are in one field, and `steps` counts in tens."""

    name: str = "nobody"
    steps: int = 0
    letters = Mailbox(str)

    @upgrade(from_version=2)
    @staticmethod
    def by_tens(state: dict[str, Any]) -> dict[str, Any]:
        return state | {"steps": state["steps"] * 10}

    @upgrade(from_version=1)
    @staticmethod
    def names_join(state: dict[str, Any]) -> dict[str, Any]:
        world.ran["names join"] += 1
        return {"name": f"{state['first']} {state['last']}", "steps": state["steps"]}

    @workflow
    async def run(self) -> str:
        self.steps += 10
        await self.letters.receive()
        seen = self.name.split()[0]
        await self.letters.receive()
        self.steps += 10
        await self.letters.receive()
        return f"{seen} {self.name.split()[0]} {self.steps}"

    @handler
    async def rename(self, name: str) -> None:
        self.name = f"{name} {self.name.split()[1]}"

    @query
    async def full(self) -> str:
        return f"{self.name} {self.steps}"


class Gap(Three, name="Person", version=5):
    pass


class Failing(Three, name="Person", version=4):
    @upgrade(from_version=3)
    @staticmethod
    def fails(state: dict[str, Any]) -> dict[str, Any]:
        return state["nonsense"]  # type: ignore[no-any-return]


async def test_a_state_is_upgraded_in_steps_when_its_entity_wakes_and_written_with_its_next_turn(
    store: FaultyStore,
) -> None:
    async with LocalCluster([One], store=store, settings=QUICK):
        await One.ref("p").rename("Grace")
    stored = store._entities[EntityId("Person", "p")]
    async with LocalCluster([Three], store=store, settings=QUICK) as cluster:
        assert stored.schema_version == 1, "not eagerly"
        assert await Three.ref("p").full() == "Grace Lovelace 0"
        assert stored.schema_version == 1
        await cluster.crash()
        await Three.ref("p").rename("Ida")
        assert stored.schema_version == 3
        await cluster.crash()
        before = world.ran["names join"]
        assert await Three.ref("p").full() == "Ida Lovelace 0"
        assert world.ran["names join"] == before
    async with LocalCluster([One], store=store, settings=QUICK):
        with pytest.raises(EntityParked, match="written by schema version 3, this code knows 1"):
            await One.ref("p").full()
    for cls, reason in ((Gap, r"version 3.*version 5 but no @upgrade\(from_version=3\)"), (Failing, "KeyError")):
        async with LocalCluster([cls], store=store, settings=QUICK):
            with pytest.raises(EntityParked, match=reason):
                await cls.ref("p").full()
    assert stored.schema_version == 3


@pytest.mark.parametrize("migrate_at", [1, 2, 3])
@pytest.mark.parametrize("is_renamed", [False, True])
async def test_live_runs_go_on_across_a_migration(store: FaultyStore, migrate_at: int, is_renamed: bool) -> None:
    """The journal holds states of the old version: of the start, and where a handler had changed it."""
    async with LocalCluster([One], store=store, settings=EVICTING):
        person = One.ref("p")
        await person.rename("Augusta")
        await person.run.start()
        for number in range(1, migrate_at):
            if is_renamed:
                await person.rename(f"Name{number}")
            await person.letters.send("x")
    async with LocalCluster([Three], store=store, settings=EVICTING) as cluster:
        later = Three.ref("p")
        for number in range(migrate_at, 4):
            if is_renamed:
                await later.rename(f"Name{number}")
            await cluster.crash()
            await later.letters.send("x")
        first, last = ("Name1", "Name3") if is_renamed else ("Augusta", "Augusta")
        assert await later.run.result(timeout=30) == f"{first} {last} 20"


class OtherDefault(One, name="Person"):
    first: str = "Eve"


async def test_another_default_does_not_rewrite_what_a_run_has_seen(store: FaultyStore) -> None:
    async with LocalCluster([One], store=store, settings=QUICK):
        await One.ref("p").run.start()
        await One.ref("p").letters.send("x")
    async with LocalCluster([OtherDefault], store=store, settings=QUICK):
        for _ in range(2):
            await OtherDefault.ref("p").letters.send("x")
        assert await OtherDefault.ref("p").run.result(timeout=30) == "Ada Ada 2"


def test_mistakes_in_upgrades_are_told_at_definition() -> None:
    class TooNew(Entity, version=2):
        @upgrade(from_version=2)
        @staticmethod
        def one(state: dict[str, Any]) -> dict[str, Any]:
            return state

    class Twice(Entity, version=2):
        @upgrade(from_version=1)
        @staticmethod
        def one(state: dict[str, Any]) -> dict[str, Any]:
            return state

        @upgrade(from_version=1)
        @staticmethod
        def two(state: dict[str, Any]) -> dict[str, Any]:
            return state

    for cls, reason in ((TooNew, r"version=3\)"), (Twice, "two upgrades from version 1")):
        with pytest.raises(DefinitionError, match=reason):
            LocalCluster([cls])
    with pytest.raises(DefinitionError, match="nothing else"):

        @upgrade(from_version=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        def takes_self(self: object, state: dict[str, Any]) -> dict[str, Any]:
            return state

    with pytest.raises(DefinitionError, match="count from 1"):

        @upgrade(from_version=0)
        def zero(state: dict[str, Any]) -> dict[str, Any]:
            return state


# --- long journals ---


class Long(Entity):
    letters = Mailbox(int)

    @workflow
    async def run(self) -> int:
        total = 0
        while True:
            total += await self.letters.receive()


@pytest.mark.unfit("evict", reason="a long journal is logged once per activation")
async def test_a_long_journal_warns_once_and_then_ends_its_run(
    store: FaultyStore, caplog: pytest.LogCaptureFixture
) -> None:
    settings = EngineSettings(mail_poll_s=0.1, journal_warn_entries=10, journal_max_entries=30)
    runs = store._entities
    async with LocalCluster([Long], store=store, settings=settings):
        with caplog.at_level(logging.WARNING, "perdure.workflow"):
            await Long.ref("l").run.start()
            for number in range(15):
                await Long.ref("l").letters.send(number)
            assert "receive letters (long journal, let it" in runs[EntityId("Long", "l")].runs["run"].waiting
            for number in range(20):
                await Long.ref("l").letters.send(number)
        with pytest.raises(JournalTooLong, match=r"30 entries.*continue_as_new"):
            await Long.ref("l").run.result(timeout=timedelta(seconds=5))
    warned = [record for record in caplog.records if "its journal has" in record.getMessage()]
    assert len(warned) == 1
    assert "11 entries" in warned[0].getMessage()


class Answers(Entity):
    asked: int = 0
    is_open: bool = False

    @workflow
    async def answer(self, text: str) -> str:
        await condition(lambda: self.is_open)
        return f"answer to {text}"

    @handler
    async def open(self) -> None:
        self.is_open = True


class Asks(Entity, name="Asks"):
    got: list[str] = []

    @workflow
    async def run(self) -> list[str]:
        answer = await Answers.ref("a").answer("one")
        self.got.append(answer)
        return self.got

    @query
    async def all_got(self) -> list[str]:
        return self.got


class AsksOtherwise(Asks, name="Asks"):
    @workflow
    async def run(self) -> list[str]:
        await asyncio.sleep(1)
        return []


@pytest.mark.parametrize("is_paused", [False, True])
async def test_an_answer_that_comes_while_a_run_is_parked_is_there_when_it_goes_on(
    store: FaultyStore, is_paused: bool
) -> None:
    """Nobody sends it again: it would wait for ever."""
    async with LocalCluster([Asks, Answers], store=store, settings=EVICTING) as cluster:
        await Asks.ref("q").run.start()
        await eventually(lambda: EntityId("Answers", "a") in store._entities)
        if is_paused:
            await Asks.ref("q").run.pause()
        await cluster.drained()
    async with LocalCluster([AsksOtherwise, Answers], store=store, settings=EVICTING) as cluster:
        with pytest.raises(RunParked):
            await AsksOtherwise.ref("q").run.result()
        await Answers.ref("a").open()
        await eventually(lambda: not store.waiting_messages())
        await cluster.crash()
        assert await AsksOtherwise.ref("q").all_got() == []
    async with LocalCluster([Asks, Answers], store=store, settings=EVICTING) as cluster:
        if is_paused:
            await Asks.ref("q").run.resume()
        assert await Asks.ref("q").run.result(timeout=timedelta(seconds=3)) == ["answer to one"]
        assert not store.waiting_messages()
        await cluster.drained()
        assert not store._entities[EntityId("Asks", "q")].items
