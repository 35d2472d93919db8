"""Loops and recursions of entities that nobody meant: bounded, refused with a definite error (promise P9).

*Hops.* A handler that sends, to an entity whose handler sends, and so on: each message that a message of an entity has
caused says how many came before it (`hops=…` among `Envelope.options`, from the second one on, so that what callers
cause directly costs nothing). Beyond the limit the turn fails, and the message that would have gone on is dead-lettered
with its error; it is there to be looked at. Delays and reminders begin anew: they are bounded by time. So do workflows,
whose journals have limits of their own.

*Depth.* Runs that wait for runs that wait for runs: `Envelope.chain` names them all. Beyond the limit the call is
refused in the workflow that makes it. Runs that start others without waiting hand on the latest part of the chain only,
so that a relay of runs may go on for ever.
"""

from typing import TYPE_CHECKING

from ..errors import Rejected
from ..ids import EntityId

if TYPE_CHECKING:
    from .deliveries import Delivery

DEPTH_MAX = 100
"""Part of what replays must repeat: a lower one in a later release would park runs."""
RELAY_MAX = 50
"""Names handed on with a start that nobody waits for."""
_HOPS = "hops="


class MessageLoop(Rejected):
    """A message would be one of a very long row of messages that each caused the next one. The turn changed nothing."""

    code = "message_loop"


class CallTooDeep(Rejected):
    """Too many workflow runs would wait for one another in a row. Nothing was sent."""

    code = "call_too_deep"


def hops_of(delivery: "Delivery") -> int:
    """How many messages of entities, one causing the next, have led to what this turn sends."""
    envelope = delivery.envelope
    if delivery.fired is not None or "/" not in envelope.sender:
        return 0
    word = next((word for word in envelope.options.split(",") if word.startswith(_HOPS)), _HOPS)
    return int(word.removeprefix(_HOPS) or 0) + 1


def check_hops(entity: EntityId, name: str, hops: int, limit: int) -> None:
    """Raises MessageLoop."""
    if hops > limit:
        raise MessageLoop(
            f"{entity}.{name}: this message is the last of {hops} that each caused the next one; the limit is {limit} "
            "(hops_max), so nothing was sent. If entities send to each other for ever on purpose, let one of them use "
            "a delay, a reminder or a @workflow",
            limit=limit,
        )


def with_hops(options: str, hops: int) -> str:
    """Options of a message that is one of a row."""
    if not hops:
        return options
    return f"{options},{_HOPS}{hops}" if options else f"{_HOPS}{hops}"


def check_depth(run: str, waits: tuple[str, ...], target: str) -> None:
    """`waits`: the runs that wait, this one last. Raises CallTooDeep."""
    if len(waits) >= DEPTH_MAX:
        raise CallTooDeep(
            f"{run} is the last of {len(waits)} runs that wait for one another, the limit; it cannot also wait for "
            f"{target}. Start it and wait elsewhere, or make the recursion flat",
            limit=DEPTH_MAX,
        )
