"""What the supervisor does next, given what should run and what it sees. Pure.

Any number of supervisors may act on this at once: fencing is idempotent, a drain of a draining host is nothing, and
hosts that two of them started for one vacancy are drained again as surplus. A plan is made afresh at each
look; no step relies on an earlier one having worked.

A host leaves in order for one of two reasons
---------------------------------------------
* It is too much, or of another revision: the plan says so, the host marks itself as draining when it is asked.
* An operator has ordered it out: its row says `draining` before anybody has asked it (Survey.drain_host). Until then it
  serves what it owns and takes nothing new.

Both look the same in the directory, and are treated alike: a draining host is a vacancy, for which a newcomer is
started at once, and it is asked to go once the active hosts are as many as are wanted. So whoever is ordered out waits
for its successor, for as long as that takes (a release that does not start, a back-off): what serves never falls below
what is wanted because somebody asked. Of several the oldest goes first, one for each newcomer. Where no host is wanted
all go at once. It is asked again at each look, and by each supervisor: the one that asked first may be gone, and
somebody has to end a host that hangs (supervisor.py).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from ..entities.store.rows import HostRow
from .addresses import HostAddress


@dataclass(frozen=True, kw_only=True)
class Observed:
    """One look at the namespace."""

    hosts: Sequence[HostRow]
    """As the directory lists them, those that are gone included."""
    dead: Collection[str] = ()
    """Incarnations whose process is known to be gone."""
    expired: Collection[str] = ()
    """Incarnations whose lease ran out for long enough (lease.Doubts)."""
    spawning: int = 0
    """Hosts of the wanted revision that were started and have not registered yet."""
    may_spawn: bool = True
    """False while backing off after failures."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do now."""

    fence: tuple[tuple[str, bool], ...] = ()
    """(incarnation, is it known to be dead)."""
    spawn: int = 0
    drain: tuple[str, ...] = ()
    watch: tuple[str, ...] = ()
    """Incarnations that live and should be watched."""


def plan(*, host_count: int, revision: str, observed: Observed) -> Plan:
    """Replace the dead, the draining, and one by one hosts of other revisions, newcomer first; drain what is too much.

    The active hosts exceed the wanted number by at most one, while hosts of another revision are replaced. Those that
    drain come on top.
    """
    live = [host for host in observed.hosts if host.status in {"active", "draining"}]
    fence = tuple(
        (host.incarnation, host.incarnation in observed.dead)
        for host in live
        if host.incarnation in observed.dead or host.incarnation in observed.expired
    )
    lost = {incarnation for incarnation, _ in fence}
    alive = [host for host in live if host.status == "active" and host.incarnation not in lost]
    old = [host.incarnation for host in alive if HostAddress.parse(host.address).revision != revision]
    current = [host.incarnation for host in alive if host.incarnation not in old]
    surge = 1 if old and host_count else 0
    wanted = min(host_count - len(current), host_count + surge - len(alive)) - observed.spawning
    surplus = max(0, len(alive) - host_count)
    draining = [host.incarnation for host in live if host.status == "draining" and host.incarnation not in lost]
    needed = max(0, host_count - len(alive))
    # Incarnations sort by age: of the old and the draining ones the oldest leaves, of the current ones the newest.
    leaving = (sorted(old) + sorted(current, reverse=True))[:surplus]
    leaving += sorted(draining)[: max(0, len(draining) - needed)]
    return Plan(
        fence=fence,
        spawn=max(0, wanted) if observed.may_spawn else 0,
        drain=tuple(leaving),
        watch=tuple(host.incarnation for host in live if host.incarnation not in lost),
    )


@dataclass(slots=True, kw_only=True)
class Backoff:
    """A pause that doubles with each failure in a row and is forgotten after a success."""

    initial_s: float
    max_s: float
    failures: int = 0
    _until: float = field(default=0.0)

    def failed(self, now: float, *, at_most_s: float = float("inf")) -> float:
        """Note a failure; returns the pause before the next attempt."""
        pause_s = min(self.max_s, at_most_s, self.initial_s * 2.0 ** min(self.failures, 32))
        self.failures += 1
        self._until = now + pause_s
        return pause_s

    def succeeded(self) -> None:
        """Forget the failures."""
        self.failures = 0
        self._until = 0.0

    def is_over(self, now: float) -> bool:
        """Whether another attempt may be made."""
        return now >= self._until
