"""Messages that have to wait inside their entity: behind a retry of their sender's, for room in a durable mailbox, for
code that has their handler, behind mail that has not been read yet.

Promises P5 and P9: whatever waits keeps the order of its sender and holds up nobody else. All of it is in the inbox as
well, so that nothing acknowledged is in memory only. While a mailbox is full, senders from outside are refused before
anything is accepted; messages of entities, which are committed by their senders already, wait here in `blocked`.

Answers to calls of this entity's runs wait behind nothing: what they belong to is the call, and the run that waits for
one may be the very reader that a full mailbox needs.
"""

import logging
from collections import deque

from ...errors import PerdureError, UnknownHandler
from ...messages import Kind
from ..deliveries import Delivery
from ..left import PARKED_RETRY_S
from .record import Record

log = logging.getLogger("perdure.engine")

LOOK_AGAIN_S = 30.0
"""How long a timer may keep an activation in memory that has ended meanwhile."""


class Held(Record):
    """Holding messages back, and letting them go on."""

    __slots__ = ()

    def _hold_back(self, delivery: Delivery) -> None:
        """This message has to wait, and so has what its sender sent later: order per sender (P5).

        They are acknowledged by their inbox rows meanwhile, first the one that they wait for.
        """
        sender = delivery.envelope.sender
        if delivery.fired is None:
            self.engine.persist(self, delivery)
        later = [
            item
            for item in self.mailbox
            if isinstance(item, Delivery)
            and item.is_one_way
            and item.envelope.sender == sender
            and item.envelope.kind is not Kind.REPLY
        ]
        for item in later:
            self.mailbox.remove(item)
            self.engine.persist(self, item)
        self.blocked.setdefault(sender, deque()).extendleft(reversed([delivery, *later]))

    def take_in(self, delivery: Delivery) -> None:
        """It waits for its turn now: in the mailbox, or behind what its sender sent before it."""
        envelope = delivery.envelope
        if envelope.sender in self.blocked and delivery.is_one_way and envelope.kind is not Kind.REPLY:
            self.blocked[envelope.sender].append(delivery)
            self.engine.persist(self, delivery)
            return
        self.mailbox.append(delivery)
        if self.busy is not None and delivery.is_one_way:
            self._persist_soon()
        self.engine.ready(self)

    def mail_read(self, *, is_all: bool) -> None:
        """A page of the inbox has been delivered. After the last one, those that were late have their place."""
        self.has_more_mail = not is_all
        if is_all:
            late, self.late = self.late, {}
            for delivery in late.values():
                self.take_in(delivery)

    def _unblock(self, sender: str) -> None:
        held = self.blocked.pop(sender, None)
        if held and not self.is_dead:
            self.mailbox.extendleft(reversed(held))
            self.engine.ready(self)

    def _awaits_code(self, delivery: Delivery, problem: PerdureError) -> bool:
        """Hold back what was accepted, if only this code does not know its member: newer code may be on its way."""
        patience_s = self.engine.settings.unknown_handler_s
        if not isinstance(problem, UnknownHandler):
            return False
        if delivery.fired is not None:
            wait_s = patience_s - (self.engine.now_us() - delivery.fired.due_us) / 1e6
            if wait_s > 0.0:
                self.engine.leave_alone(delivery.fired, min(wait_s, PARKED_RETRY_S))
            return wait_s > 0.0
        if not (delivery.is_one_way and (delivery.is_stored or delivery.is_storing)):
            return False
        now = self.engine.monotonic()
        if not delivery.waits_until:
            delivery.waits_until = now + patience_s
            log.warning("%s: %s; the message waits %g s for code that knows it", self.id, problem.message, patience_s)
        wait_s = delivery.waits_until - now
        if wait_s <= 0.0:
            return False
        sender = delivery.envelope.sender
        self._hold_back(delivery)
        self.engine.call_later(min(wait_s, LOOK_AGAIN_S), lambda: self._unblock(sender))
        return True

    @property
    def held_back(self) -> int:
        """Messages that wait for a retry, for room in a durable mailbox, or for code."""
        return sum(map(len, self.blocked.values())) if self.blocked else 0

    def is_full(self, mailbox: str) -> bool:
        """Whether a durable mailbox holds as many items as it may."""
        return len(self.items.get(mailbox, ())) >= self.definition.mailboxes[mailbox].max_items

    def _let_in(self, mailbox: str) -> None:
        """An item has been taken: what waited for that goes on, in the order in which each sender sent it."""
        senders = self.crowded.pop(mailbox, None)
        room = self.definition.mailboxes[mailbox].max_items - len(self.items.get(mailbox, ()))
        for sender in list(senders or ()):
            held = self.blocked.get(sender)
            let_in: list[Delivery] = []
            while held:
                envelope = held[0].envelope
                if envelope.kind is Kind.SIGNAL and envelope.name == mailbox:
                    if room <= 0:
                        self.crowded.setdefault(mailbox, {})[sender] = None
                        break
                    room -= 1
                let_in.append(held.popleft())
            if held is not None and not held:
                del self.blocked[sender]
            self._go_first(sender, let_in)
        self.engine.ready(self)

    def _go_first(self, sender: str, deliveries: list[Delivery]) -> None:
        """Put these before everything that waits, but behind what the same sender sent before them."""
        mine = [
            place
            for place, item in enumerate(self.mailbox)
            if isinstance(item, Delivery) and item.is_one_way and item.envelope.sender == sender
        ]
        for place, delivery in enumerate(deliveries, mine[-1] + 1 if mine else 0):
            self.mailbox.insert(place, delivery)
