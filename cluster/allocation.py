"""Who should own which shard. Pure and deterministic: equal views give equal answers to every host that asks.

Nobody is told what to own. Each host computes this function from what the directory says, takes the shards that are
its own by the answer and free, and gives up those it owns and should not. Two hosts that look at different moments
may see different owners, and still do no harm: a claim succeeds only for a free shard, at most one claimer gets it,
and a host gives up only its own surplus. It settles because

* an allocation that is balanced is returned unchanged (fixpoint), so no shard moves without need;
* a shard leaves a host that may keep it only if that host holds more than its share;
* a host's share depends on nothing but the hosts and the number of shards, up to one shard of rounding, and rounding
  favours whoever holds more already.
"""

from collections.abc import Mapping, Sequence


def shares(*, shard_count: int, capacity: Mapping[str, int], held: Mapping[str, int]) -> dict[str, int]:
    """How many shards each host should own: in proportion to its capacity, rounded down or up.

    What rounding leaves goes first to hosts that hold more than their rounded-down share already, then by remainder,
    then by name.
    """
    total = sum(capacity.values())
    if total <= 0:
        return {}
    share = {host: shard_count * weight // total for host, weight in capacity.items()}
    left = shard_count - sum(share.values())

    def claim_on_rounding(host: str) -> tuple[bool, int, str]:
        return (held.get(host, 0) <= share[host], -(shard_count * capacity[host] % total), host)

    for host in sorted(capacity, key=claim_on_rounding)[:left]:
        share[host] += 1
    return share


def allocate(owners: Sequence[str], capacity: Mapping[str, int]) -> list[str]:
    """The desired owner of each shard, given the present ones (by shard number; empty or a host that is gone = free).

    `capacity`: the hosts that may own shards, with their weights (at least 1). With no host at all every shard is
    desired by nobody ("").
    """
    if not capacity:
        return [""] * len(owners)
    held = dict.fromkeys(capacity, 0)
    for owner in owners:
        if owner in held:
            held[owner] += 1
    room = shares(shard_count=len(owners), capacity=capacity, held=held)
    desired = [""] * len(owners)
    homeless: list[int] = []
    for shard, owner in enumerate(owners):
        if room.get(owner, 0) > 0:
            room[owner] -= 1
            desired[shard] = owner
        else:
            homeless.append(shard)
    takers = [host for host in sorted(room) for _ in range(room[host])]
    for shard, host in zip(homeless, takers, strict=True):
        desired[shard] = host
    return desired
