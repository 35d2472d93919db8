"""Holding an entity for a transaction (protocol: `perdure.entities.transactions`): its owner's side.

A hold stands where a handler under way would stand (`busy`): messages wait, one-way ones are acknowledged by their
inbox rows. Unlike during a handler, queries wait as well: the transaction may commit at any moment without this host
knowing, and what it then still has in memory would be stale (promise P8).

A hold ends in one of three ways. *Aborted*: nothing can have changed, turns go on. *Committed*: the activation is
dropped and the entity loaded again. *Expired* or unknown: the owner first commits an empty turn. If that succeeds, the
version that the transaction wants to replace is gone, so it can never commit; if it conflicts, the transaction had
committed, and the entity is loaded again. So a hold that nobody ends costs time and a version, never a promise.
"""

import asyncio
import logging
from typing import TYPE_CHECKING

from ...errors import TransactionTimeout
from ...ids import fingerprint, new_message_id
from ...messages import Envelope, Kind, Status, encode_json
from ...store.rows import STATE_UNCHANGED, HistoryRow
from ...transaction_messages import Held, Hold, decode, encode
from ..deliveries import Delivery, Respond, refused
from .requests import Requests

if TYPE_CHECKING:
    from ..engine import Engine

log = logging.getLogger("perdure.engine")

HOLD_MAX_S = 60.0
"""No hold lasts longer, whatever was asked."""


class HoldDelivery(Delivery):
    """A HOLD in the mailbox."""

    __slots__ = ("attempt", "hold_s", "until")

    def __init__(self, envelope: Envelope, respond: Respond, engine: "Engine") -> None:
        super().__init__(envelope, respond)
        request = decode(envelope.args, Hold)
        self.attempt = request.attempt
        self.hold_s = request.hold_s if 0.0 <= request.hold_s <= HOLD_MAX_S else HOLD_MAX_S  # it may be NaN
        self.until = engine.monotonic() + (envelope.timeout_us / 1e6 or HOLD_MAX_S)
        """Then its caller has given up: holding the entity would be for nobody."""
        self.needs_lookup = False


class EntityHold:
    """Why an entity makes no turns. Stands in `busy`."""

    __slots__ = ("attempt", "is_ending", "is_granted", "timer")

    def __init__(self, attempt: str) -> None:
        self.attempt = attempt
        self.is_granted = False
        self.is_ending = False
        self.timer: asyncio.TimerHandle | None = None

    def cancel(self) -> None:
        """The activation leaves memory."""
        if self.timer is not None:
            self.timer.cancel()


class Holding(Requests):
    """Being held, and going on afterwards."""

    __slots__ = ()

    @property
    def hold(self) -> EntityHold | None:
        """The transaction's hold on this entity, if there is one."""
        return self.busy if isinstance(self.busy, EntityHold) else None

    def _begin_hold(self, delivery: HoldDelivery) -> None:
        """The mailbox has come to it: no turn from here on; the answer waits until the state is durable."""
        if delivery.until <= self.engine.monotonic():
            self._forget(delivery)
            refused(delivery, TransactionTimeout(f"{self.id}: the transaction had given up before the entity was free"))
            return
        hold = EntityHold(delivery.attempt)
        self.busy = hold
        if self.mailbox:
            self._persist_soon()
        self._gate(delivery, lambda: self._grant(delivery, hold))

    def _grant(self, delivery: HoldDelivery, hold: EntityHold) -> None:
        if self.busy is not hold:
            delivery.reply(Status.NOT_OWNER, b"null", 0)
            return
        self.engine.holds.unsettled[self.id] = self.version
        hold.is_granted = True
        hold.timer = self.engine.call_later(delivery.hold_s, lambda: self._expire(hold))
        delivery.reply(Status.OK, self.held(), self.version)

    def held(self) -> bytes:
        """The answer to a HOLD."""
        return encode(
            Held(
                version=self.version,
                epoch=self.engine.epochs_held[self.shard],
                state=self.snapshot if self.version else b"",
                schema_version=self.definition.version,
                clock=self.clock.last,
                now_us=self.engine.now_us(),
                runs=[run.row for run in self.runs.values()],
            )
        )

    def _expire(self, hold: EntityHold) -> None:
        if self.busy is hold and not hold.is_ending:
            log.warning("%s: transaction %s did not end in time; its hold is lifted", self.id, hold.attempt)
            self.rule_out(hold)

    def rule_out(self, hold: EntityHold) -> None:
        """Make sure that the transaction cannot commit on the present version any more, then go on."""
        self.busy = hold
        hold.is_ending = True
        problem = TransactionTimeout(f"{self.id}: transaction {hold.attempt} did not end in time")
        self._enter(None)
        write = self._turn()
        write.history.append(
            HistoryRow(
                message_id=new_message_id(),
                version=self.version,
                kind=Kind.TRANSACTION,
                name="expired",
                sender="",
                fingerprint=fingerprint(hold.attempt.encode()),
                args=b"{}",
                ok=False,
                outcome=encode_json(problem.body()),
                state=STATE_UNCHANGED if self.snapshot is self.kept else self._state_to_keep(),
            )
        )
        self._output(None, self.end_hold)

    def end_hold(self) -> None:
        """Turns go on: what the entity is here is what it is in the store."""
        self.engine.holds.unsettled.pop(self.id, None)
        if self.hold is not None:
            self.hold.cancel()
            self.busy = None
            self.engine.ready(self)
