"""Commits and fences exclude each other, whatever the processes believe (Postgres only: it takes two sessions)."""

import asyncio
import time

import psycopg
import pytest

from perdure.entities.store.port import HostFenced

from .blocking import HOLD_HOST, really_blocked, transaction_of
from .conftest import World, host
from .rows import A


async def test_fence_waits_for_a_commit_under_way(postgres: World) -> None:
    async with transaction_of(postgres) as commit:
        await commit.execute(HOLD_HOST)
        fence = asyncio.create_task(postgres.as_host("").fence("h1", is_dead=True))
        await really_blocked(postgres)
        assert not fence.done()
        await commit.commit()
        assert await fence


async def test_fence_ends_a_commit_that_hangs(postgres: World) -> None:
    async with transaction_of(postgres, application_name="perdure:h1") as zombie:
        await zombie.execute(HOLD_HOST)
        await zombie.execute("update shards set epoch = epoch")
        started = time.monotonic()
        assert await postgres.as_host("").fence("h1", is_dead=True)
        assert 0.9 < time.monotonic() - started < 60
        with pytest.raises(psycopg.OperationalError):
            await zombie.commit()
    with pytest.raises(HostFenced):
        await postgres.commit(postgres.write(A))


async def test_fence_spares_the_sessions_of_others(postgres: World) -> None:
    async with transaction_of(postgres, application_name="perdure:h11") as other:
        await other.execute("select 1")
        async with transaction_of(postgres, application_name="perdure:h1") as zombie:
            await zombie.execute(HOLD_HOST)
            assert await postgres.as_host("").fence("h1", is_dead=True)
        await other.execute("select 1")


async def test_fence_of_a_host_in_good_health_does_not_touch_it(postgres: World) -> None:
    async with transaction_of(postgres, application_name="perdure:h1") as commit:
        await commit.execute(HOLD_HOST)
        assert not await asyncio.wait_for(postgres.as_host("").fence("h1", is_dead=False), 30)
        await commit.commit()


async def test_commit_waits_for_a_fence_and_then_fails(postgres: World) -> None:
    async with transaction_of(postgres) as fence:
        await fence.execute("select from hosts where incarnation = 'h1' for update")
        await fence.execute("update hosts set status = 'fenced' where incarnation = 'h1'")
        commit = asyncio.create_task(postgres.commit(postgres.write(A)))
        await really_blocked(postgres)
        await fence.commit()
        with pytest.raises(HostFenced):
            await commit
    assert (await postgres.store.load([A]))[0].version == 0


async def test_renewals_do_not_wait_for_commits(postgres: World) -> None:
    async with transaction_of(postgres) as commit:
        await commit.execute(HOLD_HOST)
        await asyncio.wait_for(postgres.store.renew("h1", lease_s=5), 30)
        # … and a fence still sees the commit, although the row has a newer version now.
        fence = asyncio.create_task(postgres.as_host("").fence("h1", is_dead=True))
        await really_blocked(postgres)
        await commit.commit()
        assert await fence


async def test_commits_do_not_wait_for_renewals(postgres: World) -> None:
    async with transaction_of(postgres) as renewal:
        await renewal.execute("update hosts set lease_until = now() where incarnation = 'h1'")
        await asyncio.wait_for(postgres.commit(postgres.write(A)), 30)


@pytest.mark.parametrize("how", ["release", "retire"])
async def test_giving_up_shards_waits_for_a_commit_under_way(postgres: World, how: str) -> None:
    async with transaction_of(postgres) as commit:
        await commit.execute(HOLD_HOST)
        store = postgres.as_host("")
        leaving = asyncio.create_task(store.retire("h1") if how == "retire" else store.release("h1", [1]))
        await really_blocked(postgres)
        await commit.commit()
        await leaving


async def test_claimer_that_waited_sees_who_came_first(postgres: World) -> None:
    await postgres.store.release("h1", [3])
    await postgres.store.register(host("h2"), lease_s=60)
    async with transaction_of(postgres) as first:
        await first.execute("select from shards where shard = 3 for update")
        second = asyncio.create_task(postgres.as_host("h2").claim("h2", [3]))
        await really_blocked(postgres)
        # A host that the second claimer cannot have seen when its transaction began.
        await first.execute(
            "insert into hosts select 'h3', address, node, pid, status, capacity, now(), now() from hosts limit 1"
        )
        await first.execute("update shards set owner = 'h3', epoch = epoch + 1 where shard = 3")
        await first.commit()
        assert await second == {}


async def test_two_commits_of_one_version_cannot_both_win(postgres: World) -> None:
    await postgres.commit(postgres.write(A))
    other = postgres.as_host("h1")
    results = await asyncio.gather(
        postgres.commit(postgres.write(A, 1)),
        other.commit(postgres.batch(postgres.write(A, 1))),
        return_exceptions=True,
    )
    assert sorted(isinstance(result, int) for result in results) == [False, True]
    assert (await postgres.store.load([A]))[0].version == 2


async def test_settling_waits_for_a_commit_under_way(postgres: World) -> None:
    async with transaction_of(postgres) as commit:
        await commit.execute(HOLD_HOST)
        settling = asyncio.create_task(postgres.store.settle("h1", {1: postgres.epochs[1]}))
        await really_blocked(postgres)
        assert not settling.done()
        await commit.commit()
        assert await settling == {1: postgres.epochs[1] + 1}


async def test_settling_ends_a_commit_that_hangs(postgres: World) -> None:
    async with transaction_of(postgres, application_name="perdure:h1") as stuck:
        await stuck.execute(HOLD_HOST)
        assert await postgres.store.settle("h1", {1: postgres.epochs[1]}) == {1: postgres.epochs[1] + 1}
        with pytest.raises(psycopg.OperationalError):
            await stuck.commit()
    await postgres.store.renew("h1", lease_s=5)  # the host itself goes on
