"""Hosts, leases and shards, of every store."""

import asyncio

import pytest

from perdure.entities.store.port import HostFenced
from perdure.entities.store.rows import ShardOwner

from .conftest import SHARDS, World, host
from .rows import A


async def test_new_host_is_active_with_a_lease_from_now(world: World) -> None:
    now = await world.store.clock_us()
    await world.store.register(host("h2"), lease_s=30)
    found = {row.incarnation: row for row in await world.store.hosts()}
    assert found["h2"]._replace(lease_us=0) == host("h2")
    assert 30_000_000 <= found["h2"].lease_us - now < 40_000_000
    assert await world.store.shard_count() == SHARDS


async def test_incarnation_names_are_never_used_again(world: World) -> None:
    with pytest.raises(HostFenced):
        await world.store.register(host("h1"), lease_s=1)
    await world.store.retire("h1")
    with pytest.raises(HostFenced):
        await world.store.register(host("h1"), lease_s=1)


async def test_renewal_extends_the_lease_even_after_it_ran_out(world: World) -> None:
    await world.store.register(host("h2"), lease_s=-5)
    now = await world.store.renew("h2", lease_s=20)
    (row,) = [row for row in await world.store.hosts() if row.incarnation == "h2"]
    assert abs(row.lease_us - now - 20_000_000) < 1_000_000


@pytest.mark.parametrize("how", ["fenced", "stopped", "unknown"])
async def test_host_that_is_gone_cannot_renew_or_claim(world: World, how: str) -> None:
    if how == "fenced":
        await world.store.fence("h1", is_dead=True)
    if how == "stopped":
        await world.store.retire("h1")
    name = "nobody" if how == "unknown" else "h1"
    with pytest.raises(HostFenced):
        await world.store.renew(name, lease_s=5)
    with pytest.raises(HostFenced):
        await world.store.claim(name, [1])


async def test_draining_host_keeps_its_shards_and_gets_nothing_new(world: World) -> None:
    await world.store.release("h1", [3])
    await world.store.set_draining("h1")
    with pytest.raises(HostFenced):
        await world.store.claim("h1", [3])
    await world.store.renew("h1", lease_s=5)
    assert (await world.store.owners())[4].owner == "h1"
    assert [row.status for row in await world.store.hosts()] == ["draining"]
    await world.store.retire("h1")
    await world.store.set_draining("h1")
    assert [row.status for row in await world.store.hosts()] == ["stopped"]


async def test_owned_shard_is_not_for_others_until_it_is_released(world: World) -> None:
    await world.store.register(host("h2"), lease_s=60)
    assert await world.store.claim("h2", range(SHARDS)) == {}
    await world.store.release("h1", [5, 6, 99])
    await world.store.release("h2", [7])  # not its own: ignored
    assert await world.store.claim("h2", [5, 7, 5, -1, SHARDS]) == {5: 2}
    owners = await world.store.owners()
    assert [row.shard for row in owners] == list(range(SHARDS))
    assert owners[5:8] == [ShardOwner(5, "h2", 2), ShardOwner(6, "", 1), ShardOwner(7, "h1", 1)]


@pytest.mark.parametrize("how", ["fenced", "stopped"])
async def test_survivors_take_over_the_shards_of_a_host_that_is_gone(world: World, how: str) -> None:
    await world.store.register(host("h2"), lease_s=60)
    if how == "fenced":
        assert await world.store.fence("h1", is_dead=True)
    else:
        await world.store.retire("h1")
    assert await world.store.claim("h2", range(4)) == dict.fromkeys(range(4), 2)


async def test_that_a_shard_was_taken_over_is_known_to_whoever_has_it_next(world: World) -> None:
    for name in ("h2", "h3"):
        await world.store.register(host(name), lease_s=60)
    await world.store.release("h1", [0])
    assert await world.store.fence("h1", is_dead=True)
    before = await world.store.clock_us()
    assert await world.store.claim("h2", [0, 1]) == {0: 2, 1: 2}
    after = await world.store.clock_us()
    in_order, taken = (await world.store.owners())[:2]
    assert in_order == ShardOwner(0, "h2", 2, 0)
    assert before <= taken.taken_us <= after
    await world.store.settle("h2", {1: 2})
    await world.store.release("h2", [1])
    await world.store.claim("h3", [1])
    assert (await world.store.owners())[1] == ShardOwner(1, "h3", 4, taken.taken_us)


async def test_two_claimers_get_a_shard_once(world: World) -> None:
    names = [f"c{number}" for number in range(4)]
    stores = [world.as_host(name) for name in names]
    for name in names:
        await world.store.register(host(name), lease_s=60)
    await world.store.release("h1", range(SHARDS))
    claims = await asyncio.gather(
        *(store.claim(name, range(SHARDS)) for name, store in zip(names, stores, strict=True))
    )
    taken = [shard for claim in claims for shard in claim]
    assert sorted(taken) == list(range(SHARDS))
    owners = await world.store.owners()
    for name, claim in zip(names, claims, strict=True):
        assert all(owners[shard] == ShardOwner(shard, name, epoch) for shard, epoch in claim.items())


async def test_only_an_expired_lease_lets_others_fence_a_host_that_may_live(world: World) -> None:
    assert not await world.store.fence("h1", is_dead=False)
    await world.store.renew("h1", lease_s=5)
    await world.store.register(host("h2"), lease_s=-1)
    assert await world.store.fence("h2", is_dead=False)
    assert await world.store.fence("h2", is_dead=False)
    assert await world.store.fence("nobody", is_dead=False)
    assert {row.incarnation: row.status for row in await world.store.hosts()} == {"h1": "active", "h2": "fenced"}


async def test_a_lease_that_was_waited_out_lets_others_fence_though_the_clock_says_no(world: World) -> None:
    """The database's clock may have been set back since the lease was granted; a renewal in between saves its host."""
    await world.store.register(host("h2"), lease_s=3_600)
    before = {row.incarnation: row.lease_us for row in await world.store.hosts()}
    assert not await world.store.fence("h2", is_dead=False, waited_out_us=before["h2"] - 1)
    await world.store.renew("h2", lease_s=7_200)
    assert not await world.store.fence("h2", is_dead=False, waited_out_us=before["h2"])
    after = {row.incarnation: row.lease_us for row in await world.store.hosts()}
    assert await world.store.fence("h2", is_dead=False, waited_out_us=after["h2"])
    assert {row.incarnation: row.status for row in await world.store.hosts()} == {"h1": "active", "h2": "fenced"}


async def test_fenced_host_that_retires_stays_fenced(world: World) -> None:
    await world.store.fence("h1", is_dead=True)
    await world.store.retire("h1")
    assert [row.status for row in await world.store.hosts()] == ["fenced"]
    await world.store.retire("nobody")


async def test_once_settled_no_commit_at_the_old_epoch_happens(world: World) -> None:
    old = dict(world.epochs)
    shard = world.write(A).shard
    assert await world.store.settle("h1", {shard: old[shard]}) == {shard: old[shard] + 1}
    with pytest.raises(HostFenced):
        await world.commit(world.write(A))
    await world.commit(world.write(A), epochs=old | {shard: old[shard] + 1})
    assert (await world.store.load([A]))[0].version == 1


async def test_settling_can_be_repeated_and_a_late_repeat_changes_nothing(world: World) -> None:
    old = {shard: world.epochs[shard] for shard in (2, 5)}
    raised = {shard: epoch + 1 for shard, epoch in old.items()}
    assert await world.store.settle("h1", old) == raised
    assert await world.store.settle("h1", old) == raised
    twice = {shard: epoch + 1 for shard, epoch in raised.items()}
    assert await world.store.settle("h1", raised) == twice
    assert await world.store.settle("h1", old) == {}
    assert {row.shard: row.epoch for row in await world.store.owners() if row.shard in twice} == twice


async def test_only_its_owner_settles_a_shard(world: World) -> None:
    await world.store.register(host("h2"), lease_s=60)
    assert await world.store.settle("h2", {3: world.epochs[3]}) == {}
    await world.store.release("h1", [3])
    assert await world.store.settle("h1", {3: world.epochs[3], 4: world.epochs[4]}) == {4: world.epochs[4] + 1}
    await world.store.fence("h1", is_dead=True)
    with pytest.raises(HostFenced):
        await world.store.settle("h1", {5: world.epochs[5]})
