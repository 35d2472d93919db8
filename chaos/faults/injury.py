"""One fault as it happened."""

import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from campaigns.harness import HostSeen
from chaos.ops import Op
from chaos.world import World
from perdure.entities.shard import shard_of

SHARDS = 256
READS = {"peek", "read"}
"""Answered from memory: they would do without most of what can break."""


@dataclass
class Injury:
    """When it was done and undone, what it touched, and what shows that it happened."""

    kind: str
    at: float = field(default_factory=time.time)
    undone_at: float = 0.0
    """When a fault that lasts was ended; recovery counts from there. 0: it happened at once."""
    healed_at: float = 0.0
    shards: frozenset[int] = frozenset()
    """Operations on these needed the injured part; empty: on any."""
    via: str = ""
    """Operations that took this way did; empty: any way."""
    evidence: list[str] = field(default_factory=list[str])
    recovery_s: float = 0.0
    """Measured by the fault itself, where no operation of a client needs the injured part."""

    @property
    def is_proven(self) -> bool:
        """Whether anything shows that it happened."""
        return bool(self.evidence) and all(self.evidence)

    def shows(self, evidence: str) -> None:
        """Note a piece of evidence."""
        self.evidence.append(evidence)

    def touches(self, hosts: Iterable[HostSeen]) -> None:
        """It was done to these hosts."""
        self.shards |= frozenset(shard for host in hosts for shard in host.shards)

    def is_needed_by(self, op: Op, via: str) -> bool:
        """Whether the operation, over that way, needed the injured part."""
        if (self.via and via != self.via) or op.kind in READS:
            return False
        return not self.shards or shard_of(op.type, op.key, SHARDS) in self.shards


Inflict = Callable[[World, Injury], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A kind of fault."""

    kind: str
    inflict: Inflict
    weight: int
    """How often in one bag of faults; 0: only in the first one, which holds each kind once."""
    seconds: float
    """About how long on a quiet machine, healing included."""
    needs: str = ""
    """Program without which it cannot be done."""
