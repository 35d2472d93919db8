"""The exchange between a router and a host: what is in one Ray call and in its answer.

Parties: a *link* is one client process's connection to one host incarnation. The client side is link.py, the host
side exchange.py. Ray carries calls; it may run them out of order, lose them with an error, or say that a host is dead
that is not.

Protocol
--------
* The client numbers the calls of a link 0, 1, 2, … and the messages 0, 1, 2, …. The host handles calls in the order
  of their numbers, holding back one that overtook another, so messages reach the engine in the order of sending.
  If the missing call has not come after `gap_s`, the host declares the link broken.
* A call is an `Offer`: new messages, maybe none. It stays open ("parked") until there are replies for its link, for
  `park_s` at most; more than `parked_max` parked calls and the oldest returns empty. Whatever is ready goes home with
  the oldest parked call as one `Answer`. So a lone caller costs one Ray call, and a crowd batches by itself: what was
  answered by one group commit comes back together, and what its callers send next leaves together.
* The client keeps at least one call open while messages are unanswered. With `parked_max` calls open it holds
  new messages back until one returns, for `nagle_s` at most.
* A refusal (NOT_OWNER) refuses everything for that entity that is on its way already; else, if the shard comes back
  to the host in between, later messages would overtake the refused one. Answers with replies are numbered for that:
  each offer says how many of them, without a gap, the client had heard, and so whether it was sent in knowledge of a
  refusal.
* Every failure of a call, and an answer "broken", ends the link as a whole: the client makes a new one and sends
  everything unanswered again, same ids, marked as retry. Replies that still arrive on the old one are ignored. The
  engine tells repeats by their id; the link need not.
* An unanswered message is never forgotten by the client before its deadline; the host forgets a link (and the replies
  that nobody fetched) after `link_idle_s` of silence. A client starts a new link well before that.

Envelopes and replies are decoded against their types. Nothing is unpickled.
"""

import msgspec

from ..entities.messages import Envelope, Reply, decode


class Offer(msgspec.Struct, frozen=True, array_like=True):
    """One call: new messages."""

    link: str
    call: int
    first: int
    """Number of the first message; the others follow."""
    envelopes: list[Envelope]
    heard: int = 0
    """The client had all answers of this link with lower serials."""


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """The return of one call: whatever replies were ready."""

    numbers: list[int]
    """Which message each reply is for."""
    replies: list[Reply]
    serial: int = -1
    """0, 1, 2, … for the answers of a link that hold replies."""
    is_broken: bool = False
    """The host cannot go on with this link."""


_encoder = msgspec.msgpack.Encoder()
_offers = msgspec.msgpack.Decoder(Offer)
_answers = msgspec.msgpack.Decoder(Answer)

FRAME_OVERHEAD = 100
"""Generous size of a frame without its texts."""


def encode(frame: Offer | Answer) -> bytes:
    """As sent."""
    return _encoder.encode(frame)


def decode_offer(data: bytes) -> Offer:
    """Inverse of encode(). Raises msgspec.DecodeError on anything else."""
    return decode(_offers, data)


def decode_answer(data: bytes) -> Answer:
    """Inverse of encode(). Raises msgspec.DecodeError on anything else."""
    return decode(_answers, data)


def envelope_size(envelope: Envelope) -> int:
    """About how many bytes it takes (exact for ASCII, at worst four times too small for the key)."""
    return FRAME_OVERHEAD + len(envelope.args) + len(envelope.key) + len(envelope.id) + len(envelope.sender)


def reply_size(reply: Reply) -> int:
    """About how many bytes it takes."""
    return FRAME_OVERHEAD + len(reply.body)
