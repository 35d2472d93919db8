"""The host's side of all links (protocol: wire.py). Lives on the host's event loop, next to the engine."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from ..entities.errors import Busy, error_body
from ..entities.messages import IN_DOUBT, Envelope, Kind, Reply, Status, encode_json
from .settings import ExchangeSettings
from .wire import Answer, Offer, decode_offer, encode, reply_size

log = logging.getLogger("perdure.exchange")

Deliver = Callable[[Envelope, Callable[[Reply], None]], None]

REFUSED_MAX = 20_000
"""Entities that one link remembers as refused; with more it starts afresh."""
INLINE_BYTES_MAX = 100 * 1024
"""Ray keeps larger arguments in its small object store until their call returns: such a call is not parked."""

_NOT_YET = 1 << 62
"""Serial of an answer that has not been made."""
_EMPTY = encode(Answer([], []))
_BROKEN = encode(Answer([], [], is_broken=True))


class _Link:
    """One client's link."""

    __slots__ = (
        "early",
        "gap_timer",
        "heard_at",
        "is_broken",
        "is_flushing",
        "next_answer",
        "next_call",
        "parked",
        "ready",
        "refused",
        "unanswered",
    )

    def __init__(self) -> None:
        self.next_call = 0
        self.early: dict[int, Offer] = {}
        """Calls that overtook an earlier one."""
        self.parked: deque[asyncio.Future[bytes]] = deque()
        self.ready: deque[tuple[int, Reply, tuple[str, str] | None]] = deque()
        self.refused: dict[tuple[str, str], int] = {}
        """Entities of which a message was refused → serial of the answer that says so. Further messages are refused
        until one comes that was sent after that answer was heard."""
        self.next_answer = 0
        self.unanswered = 0
        self.is_flushing = False
        self.is_broken = False
        self.gap_timer: asyncio.TimerHandle | None = None
        self.heard_at = time.monotonic()


class Exchange:
    """Takes messages out of calls and gives them to the engine; brings replies home."""

    def __init__(self, deliver: Deliver, settings: ExchangeSettings, *, unanswered_max: int = 100_000) -> None:
        self._deliver = deliver
        self._settings = settings
        self._unanswered_max = unanswered_max
        """On this host, over all links: beyond it messages are refused as busy."""
        self._links: dict[str, _Link] = {}
        self._loop = asyncio.get_running_loop()
        self.unanswered = 0
        self.calls = 0
        self.messages = 0

    async def exchange(self, data: bytes) -> bytes:
        """One call of a link. Returns when there is something to bring back, or patience or room has run out."""
        offer = decode_offer(data)
        self.calls += 1
        link = self._links.get(offer.link)
        if link is None:
            link = self._links[offer.link] = _Link()
        link.heard_at = time.monotonic()
        if link.is_broken or offer.call < link.next_call or offer.call in link.early:
            return _BROKEN
        parked: asyncio.Future[bytes] = self._loop.create_future()
        link.parked.append(parked)
        if offer.call == link.next_call:
            self._take(link, offer)
        else:
            self._hold(link, offer)
        if len(link.parked) > self._settings.parked_max:
            _resolve(link.parked.popleft(), _EMPTY)
        if link.ready:
            self._flush(link)
        if len(data) > INLINE_BYTES_MAX:
            _resolve(parked, _EMPTY)
        if parked.done():
            return parked.result()
        patience = self._loop.call_later(self._settings.park_s, _resolve, parked, _EMPTY)
        try:
            return await parked
        finally:
            patience.cancel()
            if parked in link.parked:
                link.parked.remove(parked)

    def sweep(self) -> None:
        """Forget links whose clients have gone; to be called every few seconds."""
        horizon = time.monotonic() - self._settings.link_idle_s
        for name in [name for name, link in self._links.items() if link.heard_at < horizon and not link.parked]:
            link = self._links.pop(name)
            link.is_broken = True  # late replies go nowhere
            self.unanswered -= link.unanswered

    def release(self) -> None:
        """Let every parked call return: the host is about to leave."""
        for link in self._links.values():
            if link.ready:
                self._flush(link)
            while link.parked:
                _resolve(link.parked.popleft(), _EMPTY)

    def stats(self) -> dict[str, int]:
        """Counters and gauges."""
        return {
            "links": len(self._links),
            "unanswered": self.unanswered,
            "exchange_calls": self.calls,
            "exchange_messages": self.messages,
        }

    def _hold(self, link: _Link, offer: Offer) -> None:
        link.early[offer.call] = offer
        if link.gap_timer is None:
            link.gap_timer = self._loop.call_later(self._settings.gap_s, self._break, link)

    def _take(self, link: _Link, offer: Offer) -> None:
        """Hand over this call's messages, then those of the calls that waited for it."""
        following: Offer | None = offer
        while following is not None:
            link.next_call += 1
            self._hand_over(link, following)
            following = link.early.pop(link.next_call, None)
        if link.gap_timer is not None:
            link.gap_timer.cancel()
            gap = self._settings.gap_s
            link.gap_timer = self._loop.call_later(gap, self._break, link) if link.early else None

    def _hand_over(self, link: _Link, offer: Offer) -> None:
        self.messages += len(offer.envelopes)
        for number, envelope in enumerate(offer.envelopes, offer.first):
            link.unanswered += 1
            self.unanswered += 1
            respond = partial(self._answer, link, number, envelope)
            if link.refused and self._is_out_of_turn(link, offer, envelope):
                respond(Reply(envelope.id, Status.NOT_OWNER))
                continue
            if self.unanswered > self._unanswered_max:
                respond(self._full(envelope))
                continue
            try:
                self._deliver(envelope, respond)
            except Exception as error:
                log.exception("%s %s could not be delivered", envelope.kind, envelope.entity)
                respond(Reply(envelope.id, Status.ERROR, encode_json(error_body(error))))

    def _full(self, envelope: Envelope) -> Reply:
        """Nothing more is taken. BUSY says "not accepted", and of a repeat nobody knows that here.

        A repeat may have been applied at its first attempt: it is to be sent again, and its caller learns "unknown" if
        no host has room in time.
        """
        if envelope.is_retry:
            return Reply(envelope.id, Status.NOT_OWNER, IN_DOUBT)
        body = Busy(f"{envelope.entity}: its host has {self._unanswered_max} messages under way").body()
        return Reply(envelope.id, Status.BUSY, encode_json(body))

    def _is_out_of_turn(self, link: _Link, offer: Offer, envelope: Envelope) -> bool:
        """Whether a message to the same entity was refused before this one, which was sent without knowing that."""
        entity = (envelope.type, envelope.key)
        serial = link.refused.get(entity)
        if serial is None or envelope.kind is Kind.RESULT:
            return False
        if serial < offer.heard:
            del link.refused[entity]
            return False
        return True

    def _answer(self, link: _Link, number: int, envelope: Envelope, reply: Reply) -> None:
        if link.is_broken:
            return
        entity = None
        if reply.status is Status.NOT_OWNER and envelope.kind is not Kind.RESULT:
            entity = (envelope.type, envelope.key)
            link.refused[entity] = _NOT_YET
            if len(link.refused) > REFUSED_MAX:
                self._break(link)
                return
        link.unanswered -= 1
        self.unanswered -= 1
        link.ready.append((number, reply, entity))
        if not link.is_flushing:
            link.is_flushing = True
            self._loop.call_soon(self._flush, link)

    def _flush(self, link: _Link) -> None:
        """Send what is ready with the oldest parked call, or several if it is too much for one."""
        link.is_flushing = False
        while link.ready and link.parked:
            call = link.parked.popleft()
            if not call.done():
                _resolve(call, encode(self._next_answer(link)))

    def _next_answer(self, link: _Link) -> Answer:
        serial = link.next_answer
        link.next_answer += 1
        numbers: list[int] = []
        replies: list[Reply] = []
        room = self._settings.frame_bytes_max
        while link.ready and len(replies) < self._settings.frames_max:
            size = reply_size(link.ready[0][1])
            if replies and size > room:
                break
            number, reply, refused = link.ready.popleft()
            if refused is not None:
                link.refused[refused] = serial
            numbers.append(number)
            replies.append(reply)
            room -= size
        return Answer(numbers, replies, serial)

    def _break(self, link: _Link) -> None:
        """A call got lost on the way: its messages cannot be handed over in order any more."""
        link.is_broken = True
        self.unanswered -= link.unanswered
        link.early.clear()
        while link.parked:
            _resolve(link.parked.popleft(), _BROKEN)


def _resolve(call: "asyncio.Future[bytes]", answer: bytes) -> None:
    if not call.done():
        call.set_result(answer)
