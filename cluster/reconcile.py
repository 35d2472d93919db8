"""What the supervisor does next, given what should run and what it sees. Pure.

Any number of supervisors may act on this at once: fencing is idempotent, a drain of a draining host is nothing, and
hosts that two of them started for one vacancy are drained again as surplus. A plan is made afresh at each
look; no step relies on an earlier one having worked.
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
    """Replace the dead; replace hosts of other revisions one by one, newcomer first; drain what is too much.

    The number of hosts exceeds the wanted one by at most one, during a replacement.
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
    # Incarnations sort by age: of the old ones the oldest leaves, of the current ones the newest.
    leaving = (sorted(old) + sorted(current, reverse=True))[:surplus]
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
