"""From a bound method to an envelope: inside a turn through the turn's context, outside through the ambient client."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from .client import Caller, ambient
from .context import TurnContext, current
from .errors import (
    Busy,
    CallTimeout,
    DurableAwaitInHandler,
    InvalidArguments,
    InvalidTransaction,
    NotInWorkflow,
    ReadOnlyViolation,
    Unavailable,
    error_from_body,
)
from .ids import EntityId, SendClock, keyed_message_id, new_message_id
from .messages import Envelope, Kind, Reply, Status, decode_error, encode_json
from .sources import sources
from .tracing import current_traceparent

if TYPE_CHECKING:
    from .descriptors import Method
    from .mailbox import Mailbox

ParentClose = Literal["abandon", "cancel", "terminate"]
IDEMPOTENCY_KEY_MAX = 255

outside_clock = SendClock()
"""Positions of everything that this process sends from outside turns: one order per process."""


def reserve_position() -> int:
    """The next position of this process as a sender."""
    return outside_clock.next(sources.time_ns() // 1_000)


class Target:
    """A ref as the descriptors see it: an entity's address. `Entity.ref` returns one, typed as the class itself."""

    __slots__ = ("_perdure_id", "_perdure_type")

    def __init__(self, cls: Any, entity: EntityId) -> None:
        self._perdure_type = cls
        self._perdure_id = entity

    @staticmethod
    def of(target: "Any | Target") -> "Target":
        """The ref of an entity instance (of a turn), or the ref itself."""
        if isinstance(target, Target):
            return target
        cls = type(target)
        return Target(cls, EntityId(cls.entity_type(), target.key))

    def __getattr__(self, name: str) -> Any:
        cls = self._perdure_type
        member = getattr(cls, name, None)
        if hasattr(member, "__get__") and getattr(member, "name", None) == name:
            return member.__get__(self, cls)  # type: ignore[union-attr]
        if name in cls.model_fields:
            raise AttributeError(
                f"{self._perdure_id}: `{name}` is state and lives with the entity; read it through a @query"
            )
        raise AttributeError(f"{self._perdure_id}: {cls.__name__} has no handler, query, workflow or mailbox `{name}`")

    @property
    def key(self) -> str:
        """The entity's key."""
        return self._perdure_id.key

    @property
    def entity_id(self) -> EntityId:
        """The entity's address."""
        return self._perdure_id

    @property
    def entity_class(self) -> Any:
        """The class that the ref is of."""
        return self._perdure_type

    def __repr__(self) -> str:
        return f"<ref {self._perdure_id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Target) and other._perdure_id == self._perdure_id

    def __hash__(self) -> int:
        return hash(self._perdure_id)


def entity_class(target: Target) -> Any:
    """The class of a ref. No property: those would hide handlers of the same name."""
    return target._perdure_type  # noqa: SLF001 - its own module


@dataclass(frozen=True)
class CallOptions:
    """Options of one use of a handler, query, workflow or mailbox."""

    timeout_s: float | None = None
    delay_us: int = 0
    idempotency_key: str = ""
    restart: bool = False
    parent_close: ParentClose = "abandon"

    @property
    def on_the_wire(self) -> str:
        """What the receiver (or, of a policy, the running workflow) needs to know, as in `Envelope.options`."""
        if self.parent_close == "abandon":
            return "restart" if self.restart else ""
        return f"restart,parent_close={self.parent_close}" if self.restart else f"parent_close={self.parent_close}"

    @classmethod
    def of(
        cls,
        *,
        timeout: timedelta | float | None = None,
        delay: timedelta | float | None = None,
        idempotency_key: str = "",
    ) -> "CallOptions":
        """Checked options. Raises InvalidArguments."""
        if len(idempotency_key) > IDEMPOTENCY_KEY_MAX or not idempotency_key.isprintable():
            raise InvalidArguments(
                f"an idempotency key is 1 to {IDEMPOTENCY_KEY_MAX} printable characters, not {idempotency_key[:40]!r}"
            )
        timeout_s = None if timeout is None else _seconds(timeout, "timeout")
        delay_s = 0.0 if delay is None else _seconds(delay, "delay")
        return cls(timeout_s=timeout_s, delay_us=round(delay_s * 1e6), idempotency_key=idempotency_key)


NO_OPTIONS = CallOptions()


def _seconds(value: timedelta | float, what: str) -> float:
    seconds = value.total_seconds() if isinstance(value, timedelta) else float(value)
    if not 0.0 <= seconds < 100 * 366 * 86400.0:
        raise InvalidArguments(f"{what} must be between 0 and 100 years, not {value}")
    return seconds


def _arguments(kind: Kind, method: "Method[Any, Any] | Mailbox[Any]", args: tuple[Any, ...], kwargs: Any) -> bytes:
    match kind:
        case Kind.RESULT | Kind.CANCEL:
            return b"{}"
        case Kind.TERMINATE:
            return encode_json({"reason": str(args[0])[:1_000]})
        case Kind.SIGNAL:
            return method.dump(args[0])  # type: ignore[union-attr]
        case _:
            return method.signature.dump_arguments(args, kwargs)  # type: ignore[union-attr]


def _message_id(method: Any, options: CallOptions) -> str:
    return keyed_message_id(method.name, options.idempotency_key) if options.idempotency_key else new_message_id()


async def call(  # noqa: PLR0917 - what a descriptor knows, in the order of the words
    target: Target, kind: Kind, method: "Method[Any, Any]", args: tuple[Any, ...], kwargs: Any, options: CallOptions
) -> Any:
    """Call and wait for the result. In a workflow a journalled operation; refused in handlers and queries."""
    data = _arguments(kind, method, args, kwargs)
    if options.delay_us:
        raise InvalidArguments(
            f"{target.entity_id}.{method.name}: a delay is for `.send(...)`; a call has a caller waiting"
        )
    turn = current.get()
    if turn is not None:
        _need_workflow(turn, target, method)
        timeout_us = round((options.timeout_s or 0.0) * 1e6)
        body = await turn.call(
            target.entity_id, kind, method.name, data, timeout_us=timeout_us, options=options.on_the_wire
        )
    else:
        reply = await _request(target, kind, method.name, data, options, message_id=_message_id(method, options))
        body = reply.body
    return method.signature.load_result(body)


def _need_parent(target: Target, method: Any, options: CallOptions) -> None:
    turn = current.get()
    if options.parent_close != "abandon" and (turn is None or turn.mode != "workflow"):
        raise NotInWorkflow(
            f"{target.entity_id}.{method.name}: parent_close={options.parent_close!r} works only in a workflow, whose "
            "end it is about; nothing else here can end"
        )


async def workflow_call(
    target: Target, method: "Method[Any, Any]", args: tuple[Any, ...], kwargs: Any, options: CallOptions
) -> Any:
    """Start a workflow and wait for its result.

    Raises Unavailable only if it was certainly not started; CallTimeout once it may be running.
    """
    _need_parent(target, method, options)
    if current.get() is not None:
        return await call(target, Kind.START, method, args, kwargs, options)
    await send(target, Kind.START, method, args, kwargs, options)
    try:
        return await call(target, Kind.RESULT, method, (), {}, options)
    except Unavailable as error:  # true of the question for the result, not of the workflow
        raise CallTimeout(
            f"{target.entity_id}.{method.name} was started, but its result could not be asked for: {error.message}. "
            f"Ask again with `.{method.name}.result()`, or repeat the call: with equal input it is the same run"
        ) from error


async def send(  # noqa: PLR0917 - as above
    target: Target, kind: Kind, method: Any, args: tuple[Any, ...], kwargs: Any, options: CallOptions
) -> str:
    """Send a message that needs no result. Returns the run id for START outside a turn, else an empty string."""
    data = _arguments(kind, method, args, kwargs)
    _need_parent(target, method, options)
    turn = current.get()
    if turn is not None:
        if turn.mode == "query":
            raise ReadOnlyViolation(f"{turn.entity}: a query tried to send {method.name} to {target.entity_id}")
        message_id = keyed_message_id(method.name, options.idempotency_key) if options.idempotency_key else ""
        turn.send(
            target.entity_id,
            kind,
            method.name,
            data,
            delay_us=options.delay_us,
            message_id=message_id,
            options=options.on_the_wire,
        )
        return ""
    reply = await _request(target, kind, method.name, data, options, message_id=_message_id(method, options))
    return str(_run_id(reply)) if kind is Kind.START else ""


def _run_id(reply: Reply) -> str:
    return reply.body.decode().strip('"')


def _need_workflow(turn: TurnContext, target: Target, method: "Method[Any, Any]") -> None:
    if turn.mode == "workflow":
        return
    if turn.mode == "transaction":
        raise InvalidTransaction(
            f"{turn.entity}: the block of a transaction awaited {target.entity_id}.{method.name}, while its own "
            "entities wait for it. Await handlers of the instances that the block was given, or `.send(...)`"
        )
    what = f"{turn.entity}: a {turn.mode} awaited {target.entity_id}.{method.name}"
    if turn.mode == "query":
        raise ReadOnlyViolation(f"{what}; a query answers from its own state only")
    raise DurableAwaitInHandler(
        f"{what}; a handler is one atomic turn and cannot wait for another entity. Use `.{method.name}.send(...)` "
        "(leaves with this turn's commit), or make the caller a @workflow"
    )


async def request(target: Target, kind: Kind, name: str, data: bytes, options: CallOptions) -> Reply:
    """One message from outside, and its answer; raises the error that it carries."""
    return await _request(target, kind, name, data, options, message_id=new_message_id())


async def _request(
    target: Target, kind: Kind, name: str, data: bytes, options: CallOptions, *, message_id: str
) -> Reply:
    caller = ambient()
    timeout_s = options.timeout_s if options.timeout_s is not None else caller.default_timeout_s
    entity = target.entity_id
    envelope = Envelope(
        id=message_id,
        type=entity.type,
        key=entity.key,
        kind=kind,
        name=name,
        args=data,
        sender=caller.session,
        position=reserve_position(),
        is_retry=bool(options.idempotency_key),
        delay_us=options.delay_us,
        trace=current_traceparent(),
        timeout_us=round(timeout_s * 1e6),
        options=options.on_the_wire,
    )
    return check_reply(await deliver(caller, envelope, timeout_s=timeout_s), envelope)


async def maintain(entity: EntityId, what: str, args: bytes, options: CallOptions, *, message_id: str) -> bytes:
    """Ask the entity's owner for maintenance (engine.turns.maintenance); returns its answer as JSON."""
    turn = current.get()
    if turn is not None:
        raise DurableAwaitInHandler(f"{turn.entity}: {what} of {entity} is an operator's action, not one of a turn")
    reply = await _request(Target(None, entity), Kind.MAINTAIN, what, args, options, message_id=message_id)
    return reply.body


async def deliver(caller: Caller, envelope: Envelope, *, timeout_s: float) -> Reply:
    """Send through `caller`; waits out a full mailbox (nothing was accepted) until the time limit."""
    time = asyncio.get_running_loop().time  # the monotonic clock, or a test's
    deadline = time() + timeout_s
    pause_s = 0.025
    while True:
        reply = await caller.request(envelope, timeout_s=max(0.0, deadline - time()))
        if reply.status is not Status.BUSY or time() + pause_s >= deadline:
            return reply
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, 0.5)


def check_reply(reply: Reply, envelope: Envelope) -> Reply:
    """The reply, or the error that it carries raised."""
    match reply.status:
        case Status.OK | Status.ACCEPTED:
            return reply
        case Status.ERROR:
            raise error_from_body(decode_error(reply.body))
        case Status.BUSY:
            error = error_from_body(decode_error(reply.body))
            raise error if isinstance(error, Busy) else Busy(f"{envelope.entity}: {error}")
        case _:
            raise Unavailable(f"{envelope.entity}: no host owns it now; nothing was applied, try again")
