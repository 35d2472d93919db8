"""The client's side of one link to one host incarnation (protocol: wire.py).

Owns: the messages that wait for being sent or answered on this link, in order. Knows nothing of routes and retries:
it reports each reply, and once at most that it was lost.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

import msgspec

from ..entities.ids import new_message_id
from ..entities.messages import Envelope, Kind, Reply
from .settings import ExchangeSettings
from .wire import Offer, decode_answer, encode, envelope_size

CALLS_MAX = 32
"""Calls open at once on one link. A live host returns the oldest of `parked_max`; only one that hangs lets them pile
up."""


class Pending:
    """One request of a caller, from the first attempt to its reply."""

    __slots__ = (
        "attempts",
        "carrier",
        "envelope",
        "future",
        "has_left",
        "is_lost",
        "is_sent",
        "is_wait",
        "losses",
        "order",
        "shard",
        "size",
        "where",
    )

    def __init__(self, envelope: Envelope, *, order: int, shard: int, future: "asyncio.Future[Reply]") -> None:
        self.envelope = envelope
        self.order = order
        """Over all requests of this process."""
        self.shard = shard
        self.future = future
        self.size = envelope_size(envelope)
        self.is_wait = envelope.kind is Kind.RESULT
        """Waits for something that may take for ever, and is no work for the host."""
        self.attempts = 0
        """Sends that came to nothing."""
        self.losses = 0
        """Hosts that were lost while they had it."""
        self.has_left = False
        """It was sent at least once."""
        self.is_sent = False
        """A send of it is unanswered: it may have been applied."""
        self.is_lost = False
        """An earlier send was never answered and never will be, or by a host that does not know (IN_DOUBT)."""
        self.carrier: Link | None = None
        """Link that it was given to, until its reply or the link's end; the router's note."""
        self.where: tuple[Link, int] | None = None
        """Link and number, while it is unanswered there."""

    @property
    def may_be_applied(self) -> bool:
        """Whether nobody can say that it was not applied."""
        return self.is_sent or self.is_lost


class LinkEvents(Protocol):
    """Whoever owns the links."""

    def replied(self, link: "Link", pending: Pending, reply: Reply) -> None:
        """A reply came."""
        ...

    def lost(self, link: "Link", error: BaseException | None) -> None:
        """The link is closed and does nothing more; `take_back()` gives its messages. None: broken or too old."""
        ...

    def silent(self, link: "Link") -> None:
        """The host has not returned any call for long."""
        ...


Send = Callable[[bytes], "asyncio.Future[bytes]"]
"""Makes one Ray call; it is under way when this returns its future."""


class Link:
    """See the module. Everything on one event loop."""

    def __init__(self, incarnation: str, events: LinkEvents, settings: ExchangeSettings) -> None:
        self.incarnation = incarnation
        self._events = events
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._name = new_message_id()
        self._send: Send | None = None
        self._queue: deque[Pending] = deque()
        self._unanswered: dict[int, Pending] = {}
        self._working = 0
        """Unanswered messages that are work for the host."""
        self._calls = 0
        self._next_call = 0
        self._next_number = 0
        self._heard = 0
        self._ahead: set[int] = set()
        self._is_pump_due = False
        self._nagle: asyncio.TimerHandle | None = None
        self._silence: asyncio.TimerHandle | None = None
        self._used_at = self._heard_at = self._loop.time()
        self.is_closed = False

    def connect(self, send: Send) -> None:
        """The host was found: from now on messages are sent."""
        self._send = send
        self._pump_soon()

    @property
    def queued(self) -> int:
        """Messages that have not been sent."""
        return len(self._queue)

    @property
    def is_stale(self) -> bool:
        """Idle for so long that the host may soon forget it."""
        idle_s = self._loop.time() - self._used_at
        return not self._unanswered and not self._queue and idle_s > self._settings.link_idle_s / 2

    def push(self, pending: Pending) -> None:
        """Send as soon as possible, after everything pushed before."""
        self._queue.append(pending)
        self._pump_soon()

    def forget(self, pending: Pending) -> None:
        """Nobody waits for it any more."""
        if pending.where is not None:
            number = pending.where[1]
            pending.where = None
            if self._unanswered.pop(number, None) is not None and not pending.is_wait:
                self._working -= 1

    def take_queued(self, shard: int) -> list[Pending]:
        """Remove and return the unsent messages of a shard."""
        taken = [pending for pending in self._queue if pending.shard == shard]
        if taken:
            self._queue = deque(pending for pending in self._queue if pending.shard != shard)
        return taken

    def close(self, *, is_host_lost: bool = False) -> list[Pending]:
        """Stop; returns everything that was not answered, in order. What had been sent is marked as lost.

        `is_host_lost`: the host died or was fenced, maybe of one of these: counted for each but those that only wait.
        """
        self.is_closed = True
        for timer in (self._nagle, self._silence):
            if timer is not None:
                timer.cancel()
        unanswered = list(self._unanswered.values())
        for pending in unanswered:
            pending.is_lost = True
            pending.losses += is_host_lost and not pending.is_wait
            pending.is_sent = False
            pending.where = None
        left = unanswered + [pending for pending in self._queue if not pending.future.done()]
        self._unanswered.clear()
        self._queue.clear()
        return left

    def _pump_soon(self) -> None:
        if not self._is_pump_due and not self.is_closed:
            self._is_pump_due = True
            self._loop.call_soon(self._pump)

    def _pump(self, *, is_patient: bool = True) -> None:
        """Send what can be sent; keep a call open while something is unanswered."""
        self._is_pump_due = False
        if self.is_closed or self._send is None:
            return
        settings = self._settings
        while self._queue and self._calls < CALLS_MAX:
            if self._calls >= settings.parked_max and is_patient:
                if self._nagle is None:
                    self._nagle = self._loop.call_later(settings.nagle_s, self._nagle_over)
                return
            batch = self._next_batch()
            if not batch:
                break
            self._call(batch)
            is_patient = True
        if self._unanswered and not self._calls:
            self._call([])

    def _nagle_over(self) -> None:
        self._nagle = None
        self._pump(is_patient=False)

    def _next_batch(self) -> list[Pending]:
        settings = self._settings
        batch: list[Pending] = []
        room = settings.frame_bytes_max
        queue = self._queue
        while queue and len(batch) < settings.frames_max:
            pending = queue[0]
            if pending.future.done():
                queue.popleft()
                continue
            if not pending.is_wait and self._working >= settings.in_flight_max:
                break
            if batch and pending.size > room:
                break
            queue.popleft()
            room -= pending.size
            batch.append(pending)
            if not pending.is_wait:
                self._working += 1
        return batch

    def _call(self, batch: list[Pending]) -> None:
        first = self._next_number
        envelopes: list[Envelope] = []
        for number, pending in enumerate(batch, first):
            if pending.has_left and (not pending.envelope.is_retry or pending.losses > pending.envelope.losses):
                losses = max(pending.losses, pending.envelope.losses)
                pending.envelope = msgspec.structs.replace(pending.envelope, is_retry=True, losses=losses)
            pending.has_left = pending.is_sent = True
            pending.where = (self, number)
            self._unanswered[number] = pending
            envelopes.append(pending.envelope)
        self._next_number += len(batch)
        offer = Offer(self._name, self._next_call, first, envelopes, self._heard)
        self._next_call += 1
        self._used_at = self._loop.time()
        if not self._calls:
            self._heard_at = self._used_at
        self._calls += 1
        assert self._send is not None
        try:
            call = self._send(encode(offer))
        except Exception as error:  # noqa: BLE001 - Ray raises many things; all mean that the call failed
            self._lose(error)
            return
        call.add_done_callback(self._returned)
        if self._silence is None:
            self._silence = self._loop.call_later(self._settings.silent_s, self._too_silent)

    def _returned(self, call: "asyncio.Future[bytes]") -> None:
        self._calls -= 1
        if self.is_closed:
            if not call.cancelled():
                call.exception()  # seen; it came too late to matter
            return
        try:
            answer = decode_answer(call.result())
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - as above
            self._lose(error)
            return
        if answer.is_broken:
            self._lose(None)
            return
        self._used_at = self._heard_at = self._loop.time()
        self._hear(answer.serial)
        for number, reply in zip(answer.numbers, answer.replies, strict=True):
            pending = self._unanswered.pop(number, None)
            if pending is None:
                continue
            pending.where = None
            pending.is_sent = False
            if not pending.is_wait:
                self._working -= 1
            self._events.replied(self, pending, reply)
        if self._nagle is not None and self._calls < self._settings.parked_max:
            self._nagle.cancel()
            self._nagle = None
        # After the callers that were just woken have sent what they send next.
        self._pump_soon()

    def _hear(self, serial: int) -> None:
        """Calls may return out of order: count only answers without a gap."""
        if serial >= 0:
            self._ahead.add(serial)
            while self._heard in self._ahead:
                self._ahead.remove(self._heard)
                self._heard += 1

    def _too_silent(self) -> None:
        self._silence = None
        if self.is_closed or not self._calls:
            return
        quiet_s = self._loop.time() - self._heard_at
        if quiet_s >= self._settings.silent_s:
            self._events.silent(self)
            quiet_s = 0.0
        self._silence = self._loop.call_later(self._settings.silent_s - quiet_s, self._too_silent)

    def _lose(self, error: BaseException | None) -> None:
        if not self.is_closed:
            self.is_closed = True
            self._events.lost(self, error)
