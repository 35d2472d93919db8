"""Events: `await publish("order:create", payload)` sends one message to every subscriber, exactly once each.

Promises P1 and P2. Inside a handler the messages are part of its turn: they leave with its commit, or not at all.
From elsewhere the event first goes to a built-in entity, which sends all of them in one turn: a publisher that crashes
half-way, or repeats itself with the same idempotency key, reaches everybody once or nobody. There are 64 of these
entities per event, chosen by the publisher (or the key), so that a busy event has no single hot entity, and what one
publisher publishes keeps its order.
"""

from datetime import timedelta
from typing import Any, cast
from zlib import crc32

from .calls import CallOptions
from .client import ambient
from .context import HandlerTurn, current
from .descriptors import handler
from .entity import Entity
from .errors import InvalidArguments, ReadOnlyViolation
from .ids import keyed_message_id
from .subscriptions import payload_of

PARTITIONS = 64


class Events(Entity, name="PerdureEvents"):
    """Fans an event out. Built in: every host serves it. It keeps no state."""

    @handler
    async def publish(self, event: str, payload: dict[str, Any], idempotency_key: str = "") -> int:
        """Send the event to its subscribers; the number of messages."""
        return _tell(cast("HandlerTurn", current.get()), event, payload_of(event, payload), idempotency_key)


async def publish(
    event: str, payload: object = None, /, *, idempotency_key: str = "", timeout: timedelta | float | None = None
) -> int:
    """Tell every subscriber of `event`. Returns how many messages that were: 0 if nobody subscribes.

    payload: a mapping, pydantic model or dataclass, sent as a JSON object; none: an empty one. It works everywhere but
    in transactions: in a handler the messages leave with its commit, in a workflow it is a journalled call, outside it
    returns once the messages are durable. idempotency_key: repeats with this key reach each subscriber once (for 24 h
    by default).
    timeout: how long to wait outside and in workflows; numbers are seconds.
    Raises InvalidArguments if the payload does not suit one of the subscribers; then nobody is told.
    """
    plain = payload_of(event, {} if payload is None else payload)
    turn = current.get()
    if turn is not None and turn.mode == "query":
        raise ReadOnlyViolation(f"{turn.entity}: a query published {event}")
    CallOptions.of(timeout=timeout, idempotency_key=idempotency_key)
    if turn is not None and turn.mode == "handler":
        return _tell(cast("HandlerTurn", turn), event, plain, idempotency_key)
    publisher = idempotency_key or (str(turn.entity) if turn is not None else ambient().session)
    hub = Events.ref(f"{event}/{crc32(publisher.encode()) % PARTITIONS}").publish
    return await hub.options(timeout=timeout, idempotency_key=idempotency_key)(event, plain, idempotency_key)


def _tell(turn: HandlerTurn, event: str, payload: dict[str, Any], idempotency_key: str) -> int:
    try:
        messages = turn.registry.subscriptions.told(event, payload)
    except InvalidArguments as error:
        raise InvalidArguments(f"{turn.entity}: {error.message}; nobody was told", **error.details) from None
    for target, kind, name, args in messages:
        message_id = keyed_message_id(f"{name}:event {event}", idempotency_key) if idempotency_key else ""
        turn.send(target, kind, name, args, delay_us=0, message_id=message_id)
    return len(messages)
