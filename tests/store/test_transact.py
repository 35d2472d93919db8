"""What the commit of a transaction over several owners' entities promises, of every store (P1, P2, P4, P8)."""

import asyncio
from typing import Any

import pytest

from perdure.entities.shard import shard_of
from perdure.entities.store.port import HostFenced, NotStorable, WriteConflict
from perdure.entities.store.rows import EntityWrite

from .blocking import really_blocked, transaction_of
from .conftest import SHARDS, World, host, meaning
from .rows import A, B, C, envelope, history, reminder, run


async def transact(world: World, *writes: EntityWrite, incarnation: str = "h2", **more: Any) -> int:
    return await world.as_host(incarnation).transact(world.batch(*writes, incarnation=incarnation, **more))


@pytest.fixture
async def world(world: World) -> World:
    """With `h2`, which owns nothing and may write all the same."""
    await world.store.register(host("h2"), lease_s=60)
    return world


@pytest.fixture
async def postgres(postgres: World) -> World:
    """As `world`."""
    await postgres.store.register(host("h2"), lease_s=60)
    return postgres


async def version(world: World) -> list[int]:
    return [loaded.version for loaded in await world.store.load([A, B, C])]


async def test_everything_of_all_entities_is_there(world: World) -> None:
    await world.commit(world.write(A))
    row = reminder(B)
    await transact(
        world,
        world.write(A, 1, history=[history("t", 2)], outbox=[envelope(C, "m7")], runs=[run()], clock=9),
        world.write(B, 0, history=[history("t", 1)], reminders_set=[row]),
    )
    a, b = await world.store.load([A, B])
    assert (a.version, b.version, a.clock) == (2, 1, 9)
    assert [meaning(loaded.state) for loaded in (a, b)] == [{"n": 2}, {"n": 1}]
    assert a.runs[0].in_flight
    assert set(await world.store.outcomes([(A, "t"), (B, "t")])) == {(A, "t"), (B, "t")}
    assert [message.id for message in await world.store.inbox([C])] == ["m7"]
    _, due = await world.store.due(range(SHARDS), until_us=row.due_us, limit=9)
    assert [found.name for found in due] == [row.name]


@pytest.mark.parametrize("what", ["version", "new", "message"])
async def test_any_difference_refuses_all_of_it(world: World, what: str) -> None:
    await world.commit(world.write(A, history=[history("t")]), world.write(B))
    before = world.everything()
    wrong = {
        "version": world.write(B, 2),
        "new": world.write(B, 0),
        "message": world.write(A, 1, history=[history("t", 2)]),
    }[what]
    other = world.write(C, history=[history("t")])
    with pytest.raises(WriteConflict):
        await transact(world, wrong, other)
    assert world.everything() == before


async def test_a_shard_that_changed_hands_refuses_it(world: World) -> None:
    await world.commit(world.write(A), world.write(B))
    await world.store.release("h1", [shard_of(*B, SHARDS)])
    await world.as_host("h2").claim("h2", [shard_of(*B, SHARDS)])
    with pytest.raises(WriteConflict) as refused:
        await transact(world, world.write(A, 1), world.write(B, 1))
    assert set(refused.value.entities) >= {B}
    assert await version(world) == [1, 1, 0]


async def test_a_fenced_host_cannot_write(world: World) -> None:
    await world.store.fence("h2", is_dead=True)
    with pytest.raises(HostFenced):
        await transact(world, world.write(A))
    with pytest.raises(HostFenced):
        await transact(world, world.write(A), incarnation="nobody")
    assert await version(world) == [0, 0, 0]


async def test_a_fenced_owner_does_not_matter_until_somebody_claims(world: World) -> None:
    """Nobody answers from memory for it, and versions decide."""
    await world.commit(world.write(A))
    await world.store.fence("h1", is_dead=True)
    await transact(world, world.write(A, 1), world.write(B))
    with pytest.raises(HostFenced):
        await world.commit(world.write(A, 2))
    assert await version(world) == [2, 1, 0]


async def test_values_that_cannot_be_stored(postgres: World) -> None:
    with pytest.raises(NotStorable):
        await transact(postgres, postgres.write(A, state=b'"\\u0000"'), postgres.write(B))
    assert await version(postgres) == [0, 0, 0]


async def test_an_owners_commit_and_a_transaction_cannot_both_win(world: World) -> None:
    await world.commit(world.write(A), world.write(B))
    for expected in range(1, 21):
        now = [loaded.version for loaded in await world.store.load([A, B])]
        results = await asyncio.gather(
            world.commit(world.write(B, now[1])),
            transact(world, world.write(A, now[0]), world.write(B, now[1])),
            return_exceptions=True,
        )
        assert sorted(isinstance(result, int) for result in results) == [False, True], (expected, results)
        assert isinstance(next(r for r in results if not isinstance(r, int)), WriteConflict)
        a, b, _ = await version(world)
        assert (a - now[0], b - now[1]) in ((0, 1), (1, 1))


async def test_crossing_transactions_and_commits_end(world: World) -> None:
    """Rows of several entities, in whatever order: every one succeeds or is refused; none waits for ever."""
    await world.commit(world.write(A), world.write(B), world.write(C))
    for _ in range(10):
        a, b, c = await version(world)
        results = await asyncio.gather(
            transact(world, world.write(A, a), world.write(C, c)),
            transact(world, world.write(C, c), world.write(B, b)),
            transact(world, world.write(B, b), world.write(A, a)),
            world.commit(world.write(C, c), world.write(A, a), world.write(B, b)),
            return_exceptions=True,
        )
        assert all(isinstance(result, int | WriteConflict) for result in results), results
        assert sum(isinstance(result, int) for result in results) == 1


async def test_a_claim_waits_for_a_transaction_under_way(postgres: World) -> None:
    shard = shard_of(*A, SHARDS)
    await postgres.store.fence("h1", is_dead=True)
    async with transaction_of(postgres) as other:
        await other.execute("select from shards where shard = %s for share", (shard,))
        claim = asyncio.create_task(postgres.as_host("h2").claim("h2", [shard]))
        await really_blocked(postgres)
        await transact(postgres, postgres.write(A))  # transactions do not wait for each other
        await other.commit()
        assert list(await claim) == [shard]
    assert await version(postgres) == [1, 0, 0]


async def test_a_transaction_waits_for_a_claim_under_way_and_is_refused(postgres: World) -> None:
    shard = shard_of(*A, SHARDS)
    async with transaction_of(postgres) as claim:
        await claim.execute("select from shards where shard = %s for update", (shard,))
        await claim.execute("update shards set epoch = epoch + 1 where shard = %s", (shard,))
        late = asyncio.create_task(transact(postgres, postgres.write(A), postgres.write(B)))
        await really_blocked(postgres)
        await claim.commit()
        with pytest.raises(WriteConflict):
            await late
    assert await version(postgres) == [0, 0, 0]
