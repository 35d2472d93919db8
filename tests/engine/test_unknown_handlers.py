"""I23: in a rolling upgrade hosts with old code meet messages for handlers of the new one; they keep them for it."""

from dataclasses import replace
from datetime import timedelta

import pytest

from perdure.entities import Entity, handler, query, remind
from perdure.entities.engine.settings import EngineSettings
from perdure.entities.testing import LocalCluster

from .conftest import QUICK
from .faults import FaultyStore
from .waiting import becomes, eventually


class Old(Entity, name="Shelf"):
    notes: list[str] = []

    @handler
    async def note(self, text: str) -> None:
        self.notes.append(text)

    @query
    async def all(self) -> list[str]:
        return self.notes


class New(Entity, name="Shelf"):
    notes: list[str] = []

    @handler
    async def note(self, text: str) -> None:
        self.notes.append(text)

    @handler
    async def shout(self, text: str) -> None:
        self.notes.append(text.upper())

    @handler
    async def shout_later(self) -> None:
        remind(self.shout_hello, after=timedelta(milliseconds=100))

    @handler
    async def shout_hello(self) -> None:
        self.notes.append("HELLO")

    @query
    async def all(self) -> list[str]:
        return self.notes


class Clock(Entity):
    ticks: int = 0

    @handler
    async def wind(self) -> None:
        remind(self.tick, after=timedelta(milliseconds=150))

    @handler
    async def tick(self) -> None:
        self.ticks += 1

    @query
    async def ticked(self) -> int:
        return self.ticks


class Sender(Entity):
    @handler
    async def speak(self) -> None:
        await New.ref("s").note.send("a")
        await New.ref("s").shout.send("b")
        await New.ref("s").note.send("c")


IMPATIENT = replace(QUICK, unknown_handler_s=0.02, timer_window_s=0.1)


@pytest.mark.parametrize("settings", [QUICK, replace(QUICK, evict_after_every_turn=True)], ids=["kept", "evicted"])
async def test_a_message_for_a_handler_of_newer_code_waits_for_it_and_so_does_what_came_later(
    settings: EngineSettings,
) -> None:
    store = FaultyStore()
    async with LocalCluster([Old, Sender], store=store, settings=settings):
        await Sender.ref("x").speak()
        await becomes(Old.ref("s").all, ["a"])
        await Old.ref("s").note("of somebody else")
        assert await Old.ref("s").all() == ["a", "of somebody else"]
        assert [envelope.name for envelope in store.waiting_messages()] == ["shout", "note"]
    assert store.dead_letters == []
    async with LocalCluster([New, Sender], store=store, settings=settings):
        await becomes(New.ref("s").all, ["a", "of somebody else", "B", "c"])


async def test_without_newer_code_it_becomes_a_dead_letter_in_the_end() -> None:
    store = FaultyStore()
    async with LocalCluster([Old, Sender], store=store, settings=IMPATIENT):
        await Sender.ref("x").speak()
        await becomes(Old.ref("s").all, ["a", "c"])
        [letter] = store.dead_letters
        assert (letter.envelope.name, letter.envelope.key) == ("shout", "s")
        assert not store.waiting_messages()


async def test_a_reminder_of_a_handler_of_newer_code_waits_for_it() -> None:
    store = FaultyStore()
    async with LocalCluster([New], store=store, settings=QUICK):
        await New.ref("s").shout_later()
    async with LocalCluster([Old], store=store, settings=QUICK) as cluster:
        await eventually(lambda: any(engine.wheel.left_alone for engine in cluster.engines))
        assert await Old.ref("s").all() == []
    assert store.dead_letters == []
    async with LocalCluster([New], store=store, settings=QUICK):
        await becomes(New.ref("s").all, ["HELLO"])


async def test_a_reminder_of_a_handler_that_is_gone_becomes_a_dead_letter_in_the_end() -> None:
    store = FaultyStore()
    async with LocalCluster([New], store=store, settings=QUICK):
        await New.ref("s").shout_later()
    async with LocalCluster([Old], store=store, settings=IMPATIENT):
        await eventually(lambda: not store.reminder_rows())
    assert [letter.envelope.name for letter in store.dead_letters] == ["shout_hello"]


async def test_many_reminders_that_wait_for_code_hold_up_no_others() -> None:
    store = FaultyStore()
    few = replace(QUICK, timer_batch=3, timer_window_s=0.2)
    async with LocalCluster([New, Clock], store=store, settings=few):
        for number in range(12):
            await New.ref(f"s{number}").shout_later()
        await Clock.ref("c").wind()
    async with LocalCluster([Old, Clock], store=store, settings=few) as cluster:
        await becomes(Clock.ref("c").ticked, 1)
        assert len(store.reminder_rows()) == 12
        assert cluster.engines[0].wheel.handed_out == 0
    assert store.dead_letters == []
