"""Every limit, period and patience of the cluster, named and defaulted in one place.

Times are seconds. The values travel to hosts and the supervisor inside the targets, so that one `up()` decides them.
"""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class ExchangeSettings(BaseModel):
    """The wire between routers and hosts: see exchange.py and link.py."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    frame_bytes_max: int = Field(default=90 * 1024, ge=1024)
    """Bytes of messages in one Ray call. Ray carries up to 100 KiB inline; above that it takes the object store."""
    frames_max: int = Field(default=1_000, ge=1)
    """Messages in one Ray call: bounds how long one call occupies either event loop."""
    park_s: float = Field(default=10.0, gt=0)
    """How long a host keeps a call open that has nothing to bring back."""
    parked_max: int = Field(default=4, ge=1)
    """Calls that one link keeps open; above that the oldest returns empty-handed."""
    nagle_s: float = Field(default=0.002, ge=0)
    """With `parked_max` calls open, new messages wait this long for one of them to return before another is opened."""
    gap_s: float = Field(default=5.0, gt=0)
    """How long a host waits for a call that was overtaken by later ones before it declares the link broken."""
    link_idle_s: float = Field(default=60.0, gt=0)
    """A host forgets a link that has been silent and without outstanding messages for so long."""
    silent_s: float = Field(default=15.0, gt=0)
    """A client that has heard nothing from a host for so long, with calls open, looks whether the host still exists."""
    in_flight_max: int = Field(default=8_192, ge=1)
    """Unanswered messages per link; further ones wait in the client."""
    queued_max: int = Field(default=32_768, ge=1)
    """Messages that wait in the client for one host or for a route; above that the caller gets Busy."""
    retry_initial_s: float = Field(default=0.025, gt=0)
    retry_max_s: float = Field(default=0.5, gt=0)
    """Back-off between attempts to send a message again: doubles from the one to the other."""


class ClusterSettings(BaseModel):
    """Hosts, leases and the supervisor."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lease_s: float = Field(default=5.0, gt=0)
    """A host that could not renew for so long may be declared dead by anybody."""
    lease_renewals: int = Field(default=4, ge=2)
    """Renewals per lease: so many attempts before it runs out."""
    lease_margin_s: float = Field(default=0.2, ge=0)
    """A host stops trusting its lease so much earlier: clocks of different machines run at slightly different
    speeds."""
    blocked_warn_s: float = Field(default=1.0, gt=0)
    """Code that blocks a host's event loop for so long is logged, with the stack."""
    blocked_max_s: float | None = Field(default=None, gt=0)
    """Code that blocks it for so long is charged with it, and the process ends. More than the lease, which is lost by
    then; by default 10 s, or twice the lease if that is more."""
    settle_s: float = Field(default=1.0, gt=0)
    """How often a host compares what it owns with what it should own."""
    move_max: int = Field(default=32, ge=1)
    """Shards that a host gives up in one go: their entities pause together while they move."""
    reconcile_s: float = Field(default=0.5, gt=0)
    """How often the supervisor compares what runs with what should run, when nothing pokes it."""
    spawn_backoff_initial_s: float = Field(default=0.2, gt=0)
    spawn_backoff_max_s: float = Field(default=20.0, gt=0)
    """Pause after a host failed to start: doubles from the one to the other."""
    spawn_backoff_young_s: float = Field(default=1.0, gt=0)
    """The longest pause after a host that had started died young."""
    spawn_timeout_s: float = Field(default=60.0, gt=0)
    """A host that has not registered by then is killed."""
    young_s: float = Field(default=10.0, gt=0)
    """A host that dies before this age died young: its successor is started after a pause."""
    guard_s: float = Field(default=3.0, gt=0)
    """How often a host looks whether there is a supervisor."""
    long_poll_s: float = Field(default=20.0, gt=0)
    """How long the supervisor keeps a question for newer routes open."""
    drain_s: float = Field(default=25.0, gt=0)
    """A host that has not drained by then is left to its fate: its shards are taken over as if it had died."""
    exchange: ExchangeSettings = ExchangeSettings()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.blocked_max_s is not None and self.blocked_max_s <= self.lease_s:
            raise ValueError(f"blocked_max_s ({self.blocked_max_s:g}) must be more than lease_s ({self.lease_s:g})")
        return self

    @property
    def blocked_end_s(self) -> float:
        """`blocked_max_s`, whoever has chosen it."""
        return self.blocked_max_s if self.blocked_max_s is not None else max(10.0, 2 * self.lease_s)
