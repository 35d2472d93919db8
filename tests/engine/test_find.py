"""Searching among entities that live: committed state only, asleep or not, nobody is woken (promise P8)."""

import asyncio
from typing import Literal

import pytest

from perdure.entities import DefinitionError, Entity, NotConnected, find, handler, workflow
from perdure.entities import search as module
from perdure.entities.client import set_default
from perdure.entities.engine.settings import EngineSettings
from perdure.entities.testing import LocalCluster

from .faults import FaultyStore


class Request(Entity, index=["status"]):
    status: Literal["waiting", "approved"] = "waiting"
    amount: int = 0

    @handler
    async def ask(self, amount: int) -> None:
        self.amount = amount

    @handler
    async def approve(self) -> None:
        self.status = "approved"

    @workflow
    async def run(self) -> None:
        await asyncio.sleep(3600)


async def keys(**conditions: object) -> list[str]:
    return sorted(match.key for match in (await find(Request, conditions, limit=1_000)).matches)


async def test_requests_that_wait_for_a_person_are_found_asleep_or_not() -> None:
    async with LocalCluster([Request], settings=EngineSettings(evict_after_every_turn=True)) as cluster:
        for number in range(20):
            await Request.ref(f"r{number}").ask(number)
        await cluster.drained()
        assert not cluster.engines[0].active
        for number in range(0, 20, 2):
            await Request.ref(f"r{number}").approve()
        await cluster.drained()
        assert await keys(status="waiting") == sorted(f"r{number}" for number in range(1, 20, 2))
        assert await keys(status="waiting", amount__ge=17) == ["r17", "r19"]
        assert not cluster.engines[0].active, "a search wakes nobody"


async def test_a_search_sees_nothing_that_is_not_committed() -> None:
    store = FaultyStore()
    async with LocalCluster([Request], store=store) as cluster:
        await Request.ref("r").ask(1)
        store.hold_commits()
        approving = asyncio.create_task(Request.ref("r").approve())
        await store.waiting.wait()
        assert await keys(status="approved") == []
        store.let_commits_go()
        await approving
        assert await keys(status="approved") == ["r"], "a caller finds what it has done"
        await cluster.drained()


async def test_an_entity_with_a_run_under_way_is_found_by_what_it_has_committed() -> None:
    async with LocalCluster([Request]):
        await Request.ref("r").run.start()
        assert await keys(status="waiting") == ["r"]


async def test_a_page_stops_after_so_many_entities_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXAMINE_MAX", 10)
    async with LocalCluster([Request]):
        await asyncio.gather(*(Request.ref(f"r{number}").ask(number) for number in range(35)))
        found: list[str] = []
        pages, after = 0, None
        while True:
            page = await find(Request, amount=34, after=after)
            assert page.examined <= 10
            found += [match.key for match in page.matches]
            pages, after = pages + 1, page.next
            if after is None:
                break
        assert found == ["r34"]
        assert pages == 4, "empty pages are pages"


async def test_each_page_is_of_its_own_moment() -> None:
    """Not one snapshot: what changes between two pages is seen by the second, and each page is consistent in itself."""
    async with LocalCluster([Request]):
        await asyncio.gather(*(Request.ref(f"r{number}").ask(number) for number in range(4)))
        first = await find(Request, {"status": "waiting"}, limit=2)
        seen = [match.key for match in first.matches]
        approved, left = sorted({"r0", "r1", "r2", "r3"} - set(seen))
        await Request.ref(seen[0]).approve()
        await Request.ref(approved).approve()
        second = await find(Request, {"status": "waiting"}, limit=2, after=first.next)
        assert [match.key for match in second.matches] == [left]


async def test_without_a_connection_it_says_how_to_connect() -> None:
    set_default(None)
    with pytest.raises(NotConnected, match="connect"):
        await find(Request)


def test_an_index_on_a_field_that_is_not_there_is_refused_at_import() -> None:
    with pytest.raises(DefinitionError, match=r"test_find\.py.*no field `colour`"):

        class Wrong(Entity, index=["colour"]):  # pyright: ignore[reportUnusedClass]
            size: int = 0
