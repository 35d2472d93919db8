"""What a host may believe about its own lease, and when others may doubt it. Pure: seconds in, answers out.

Protocol
--------
* The database grants a lease of `lease_s` seconds at some instant between the moment the host *started* to ask and the
  moment it saw the answer. The host counts from the start, less a margin, so a slow round trip shortens its trust and
  never stretches it. Others count by the database's clock from the grant. Hence whoever finds the lease expired by
  the database's clock knows that its host has stopped trusting it, provided that clocks advance at the same speed
  (the margin pays for a 4 % difference at the defaults).
* A lease is no licence to write: commits are fenced by the store. It only decides when a host stops answering
  queries and when others may fence it without knowing that its process is gone.
* Lost renewals: the host asks again at once after a failure. Past its trust it answers NOT_OWNER; as long as nobody
  has fenced it, the next renewal that succeeds makes it whole again.
* Doubt: an observer acts on an expired lease only after having seen it expired, and not renewed, for a while of its own
  monotonic time. After a suspended laptop wakes up, every lease in the database has expired, and each host needs
  a moment to renew; without that patience whoever wakes first would fence all the others.
* A database's clock that is set back leaves every lease from before with an end that is far away. Whoever lives renews,
  and has an ordinary one; of a host that does not, the observer counts by its own clock as well: from when it first saw
  this very end, for as long as the lease then had to go, and a whole lease at least. What it waited out like that it
  may fence although the database's clock says no, if the lease still is the same one. (An observer that never saw the
  lease before the step waits for the database's clock: it cannot know when it was granted.)
* A machine that was suspended: the host counts by a clock that goes on meanwhile (steady.py), so on waking it trusts
  nothing until the next renewal. Where there is no such clock (not Linux), or a hypervisor stopped that one, too, trust
  may be stale until then (at most lease_s / renewals). Writes are safe; a query may be answered from a state that is as
  old as the suspension.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from ..entities.store.rows import HostRow


@dataclass(frozen=True, kw_only=True)
class LeaseTerms:
    """How long a lease is and how often it is renewed."""

    lease_s: float
    renewals: int
    margin_s: float

    @property
    def period_s(self) -> float:
        """Between the starts of two renewals."""
        return self.lease_s / self.renewals

    def trusted_until(self, asked_at: float) -> float:
        """Until when (by the clock of `asked_at`) a lease may be trusted that was asked for then, and granted."""
        return asked_at + self.lease_s - min(self.margin_s, self.lease_s / 4)

    def pause_s(self, *, asked_at: float, now: float, failed: bool) -> float:
        """How long to wait before asking again."""
        if failed:
            return min(0.1, self.period_s)
        return max(0.0, asked_at + self.period_s - now)


@dataclass(slots=True)
class _Seen:
    """A lease, as an observer knows it; times by the observer's own monotonic clock."""

    lease_us: int
    ends_at: float
    """When it is over whatever becomes of the database's clock."""
    expired_since: float | None = None


@dataclass(slots=True)
class Doubts:
    """Which hosts an observer has seen with an expired lease, since when (its own monotonic clock)."""

    lease_s: float
    """Of the observer: the least that it takes a lease to last."""
    patience_s: float
    _seen: dict[str, _Seen] = field(default_factory=dict[str, _Seen])

    def expired(self, hosts: Iterable[HostRow], *, database_us: int, now: float) -> list[str]:
        """Incarnations that may be fenced now: expired by the database's clock or waited out by ours, for `patience_s`.

        `now` is to be read after `database_us`: then a slow answer lengthens the wait, and never shortens it.
        """
        known, self._seen = self._seen, {}
        ripe: list[str] = []
        for host in hosts:
            if host.status not in {"active", "draining"}:
                continue
            seen = known.get(host.incarnation)
            if seen is None or seen.lease_us != host.lease_us:
                seen = _Seen(host.lease_us, now + max(self.lease_s, (host.lease_us - database_us) / 1e6))
            self._seen[host.incarnation] = seen
            if host.lease_us > database_us and now < seen.ends_at:
                seen.expired_since = None
                continue
            if seen.expired_since is None:
                seen.expired_since = now
            if now - seen.expired_since >= self.patience_s:
                ripe.append(host.incarnation)
        return ripe
