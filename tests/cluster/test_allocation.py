"""Who should own which shard: balanced, little movement, the same answer for everybody, and it settles."""

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from perdure.cluster.allocation import allocate, shares

names = st.sampled_from([f"h{number}" for number in range(8)])
owner_lists = st.lists(st.one_of(st.just(""), st.just("gone"), names), min_size=0, max_size=64)
weights = st.dictionaries(names, st.integers(1, 5), min_size=1)
equal_weights = st.sets(names, min_size=1).map(lambda hosts: dict.fromkeys(hosts, 1))


@given(owner_lists, weights)
def test_every_shard_gets_a_living_host(owners: list[str], capacity: dict[str, int]) -> None:
    desired = allocate(owners, capacity)
    assert len(desired) == len(owners)
    assert set(desired) <= capacity.keys()


@given(owner_lists)
def test_without_hosts_nobody_is_desired(owners: list[str]) -> None:
    assert allocate(owners, {}) == [""] * len(owners)


@given(owner_lists, equal_weights)
def test_equal_hosts_differ_by_one_shard_at_most(owners: list[str], capacity: dict[str, int]) -> None:
    counts = Counter(dict.fromkeys(capacity, 0)) + Counter()
    counts.update(allocate(owners, capacity))
    sizes = [counts[host] for host in capacity]
    assert max(sizes) - min(sizes) <= 1


@given(owner_lists, weights)
def test_shares_follow_capacity(owners: list[str], capacity: dict[str, int]) -> None:
    share = shares(shard_count=len(owners), capacity=capacity, held=Counter(owners))
    total = sum(capacity.values())
    assert sum(share.values()) == len(owners)
    for host, weight in capacity.items():
        assert 0 <= share[host] - len(owners) * weight // total <= 1


@given(owner_lists, weights)
def test_an_allocation_is_a_fixpoint(owners: list[str], capacity: dict[str, int]) -> None:
    desired = allocate(owners, capacity)
    assert allocate(desired, capacity) == desired


@given(owner_lists, equal_weights)
def test_movement_is_minimal(owners: list[str], capacity: dict[str, int]) -> None:
    """No balanced allocation keeps more shards where they are."""
    desired = allocate(owners, capacity)
    held = Counter(owner for owner in owners if owner in capacity)
    floor, extra = divmod(len(owners), len(capacity))
    # At best each host keeps up to floor, and `extra` of those with more keep one more.
    best = sum(min(held[host], floor) for host in capacity) + min(extra, sum(held[host] > floor for host in capacity))
    assert sum(was == will for was, will in zip(owners, desired, strict=True)) == best


@given(owner_lists, weights, st.randoms(use_true_random=False))
def test_the_order_of_hosts_does_not_matter(owners: list[str], capacity: dict[str, int], chance: Random) -> None:
    shuffled = list(capacity.items())
    chance.shuffle(shuffled)
    assert allocate(owners, dict(shuffled)) == allocate(owners, capacity)


@given(owner_lists, weights, st.integers(1, 10), st.randoms(use_true_random=False))
def test_hosts_that_act_one_by_one_on_stale_views_settle(
    owners: list[str], capacity: dict[str, int], move_max: int, chance: Random
) -> None:
    """Each acts on its own part of a view that may be old; claims are compare-and-set, releases its own only."""
    truth = list(owners)
    views = {host: list(truth) for host in capacity}

    def act(host: str) -> None:
        desired = allocate(views[host], capacity)
        for shard, owner in enumerate(desired):
            if owner == host and truth[shard] not in capacity:
                truth[shard] = host
        surplus = [shard for shard, owner in enumerate(truth) if owner == host and desired[shard] != host]
        for shard in surplus[:move_max]:
            truth[shard] = ""

    for _ in range(40):
        host = chance.choice(sorted(capacity))
        if chance.random() < 0.5:
            views[host] = list(truth)
        act(host)
    for _ in range(len(owners) // move_max + 2):
        for host in chance.sample(sorted(capacity), len(capacity)):
            views[host] = list(truth)
            act(host)
    assert allocate(truth, capacity) == truth
