"""`@handler`, `@query`, `@workflow`: typed descriptors of an entity class (mailboxes have a module of their own).

On an entity instance they give the ordinary method (so that unit tests and turns call plain functions); on a ref they
give a call to the entity at that address, wherever it lives. Both have one static type, so that strict mypy and
pyright check calls, `.send(...)` and `.start(...)` against the method's own signature without generated code.
"""

import inspect
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from datetime import timedelta
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    NoReturn,
    ParamSpec,
    Self,
    TypeVar,
    cast,
    get_args,
    overload,
)

import msgspec

from .calls import NO_OPTIONS, CallOptions, ParentClose, Target, call, send, workflow_call
from .context import current
from .errors import DefinitionError, InvalidArguments, NotInWorkflow
from .messages import Kind
from .operate import Act, Action, RunOperations, dump_value, operate, outside_error, read_operations
from .retry import RetryPolicy
from .signature import Signature, where
from .subscriptions import EventKey, Subscription

if TYPE_CHECKING:
    from .context import BlockContext
    from .entity import Entity

P = ParamSpec("P")
R = TypeVar("R")

# Calls are `Coroutine[object, None, R]`, not `[Any, Any, R]`: mypy gives up on `gather(...)` of several that hold Any.

HANDLER_TIMEOUT = timedelta(seconds=30)
SEND_RETRY = RetryPolicy(initial=timedelta(milliseconds=100), maximum=timedelta(seconds=10), attempts=5)


class Method(Generic[P, R]):
    """What handlers, queries and workflows have in common: a name, a function and a signature."""

    word = "method"
    must_be_async = True
    subscription: Subscription | None = None
    is_private = False
    """For other entities and for programs with the database, not for callers over HTTP: to them it does not exist."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        if isinstance(fn, Method):
            raise DefinitionError(f"@{self.word} on {fn.fn.__qualname__} at {where(fn.fn)}: already a @{fn.word}")
        if not inspect.isfunction(fn):
            inner = getattr(fn, "__func__", None)
            at = f" at {where(inner)}" if inspect.isfunction(inner) else ""
            raise DefinitionError(f"@{self.word} decorates a method of an entity class, not {fn!r}{at}")
        if not inspect.iscoroutinefunction(fn):
            raise DefinitionError(
                f"{fn.__qualname__} at {where(fn)}: a @{self.word} is `async def`; write `async def {fn.__name__}(...)`"
            )
        self.fn = fn
        self.name = fn.__name__
        self.__doc__ = fn.__doc__
        self.signature = Signature(fn, fn.__qualname__, has_self=True)

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<{self.word} {self.fn.__qualname__} at {where(self.fn)}>"


class Handler(Method[P, R]):
    """A handler as declared on the class."""

    word = "handler"

    def __init__(self, fn: Callable[..., Any], *, timeout: timedelta, retry: RetryPolicy) -> None:
        super().__init__(fn)
        given: object = (timeout, retry)
        match given:
            case (timedelta(), RetryPolicy()):
                pass
            case _:
                raise DefinitionError(
                    f"{fn.__qualname__} at {where(fn)}: timeout={timeout!r}, retry={retry!r}; write "
                    "`timeout=timedelta(seconds=...)`, `retry=RetryPolicy(...)`"
                )
        if timeout <= timedelta(0):
            raise DefinitionError(f"{fn.__qualname__} at {where(fn)}: timeout must be longer than zero")
        self.timeout_s = timeout.total_seconds()
        self.retry = retry

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> "BoundHandler[P, R]": ...
    def __get__(self, instance: Any, owner: type) -> Any:
        return self if instance is None else BoundHandler(self, instance)


class Query(Method[P, R]):
    """A query as declared on the class."""

    word = "query"

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> "BoundQuery[P, R]": ...
    def __get__(self, instance: Any, owner: type) -> Any:
        return self if instance is None else BoundQuery(self, instance)


class Workflow(Method[P, R]):
    """A workflow as declared on the class."""

    word = "workflow"

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> "BoundWorkflow[P, R]": ...
    def __get__(self, instance: Any, owner: type) -> Any:
        return self if instance is None else BoundWorkflow(self, instance)


class BoundHandler(Generic[P, R]):
    """A handler of one entity: await it, or `.send(...)` it."""

    __slots__ = ("method", "options_", "target")

    def __init__(self, method: Handler[P, R], target: "Entity | Target", options: CallOptions = NO_OPTIONS) -> None:
        self.method = method
        self.target = target
        self.options_ = options

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[object, None, R]:
        """Call it: the result, once the turn is durable. Applied exactly once.

        On an entity instance (in a turn of that entity, in a unit test) it is the plain method.
        """
        if not isinstance(self.target, Target):
            turn = current.get()
            if turn is not None and turn.mode == "transaction":
                return cast("BlockContext", turn).run_part(self.target, self.method.fn(self.target, *args, **kwargs))
            return self.method.fn(self.target, *args, **kwargs)  # type: ignore[no-any-return]
        return call(self.target, Kind.CALL, self.method, args, kwargs, self.options_)

    async def send(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """One-way: returns once the message is durable. In a turn it leaves with that turn's commit."""
        await send(Target.of(self.target), Kind.SEND, self.method, args, kwargs, self.options_)

    def options(
        self,
        *,
        timeout: timedelta | float | None = None,
        delay: timedelta | float | None = None,
        idempotency_key: str = "",
    ) -> "BoundHandler[P, R]":
        """The same handler with options for this use.

        timeout: how long the caller waits for the answer. delay: deliver a `.send` not before this time from now.
        idempotency_key: repeats with this key get the first outcome (for 24 h by default). Numbers are seconds.
        """
        return BoundHandler(
            self.method, self.target, CallOptions.of(timeout=timeout, delay=delay, idempotency_key=idempotency_key)
        )


class BoundQuery(Generic[P, R]):
    """A query of one entity: await it."""

    __slots__ = ("method", "options_", "target")

    def __init__(self, method: Query[P, R], target: "Entity | Target", options: CallOptions = NO_OPTIONS) -> None:
        self.method = method
        self.target = target
        self.options_ = options

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[object, None, R]:
        """The answer, from committed state. Also while the entity sleeps and after its workflows have ended."""
        if not isinstance(self.target, Target):
            return self.method.fn(self.target, *args, **kwargs)  # type: ignore[no-any-return]
        return call(self.target, Kind.QUERY, self.method, args, kwargs, self.options_)

    def options(self, *, timeout: timedelta | float) -> "BoundQuery[P, R]":
        """The same query with another time limit for the caller's wait (numbers are seconds)."""
        return BoundQuery(self.method, self.target, CallOptions.of(timeout=timeout))


class BoundWorkflow(Generic[P, R]):
    """A workflow of one entity: start it, wait for its result, cancel it. Awaiting it starts it and waits."""

    __slots__ = ("method", "options_", "target")

    def __init__(self, method: Workflow[P, R], target: "Entity | Target", options: CallOptions = NO_OPTIONS) -> None:
        self.method = method
        self.target = target
        self.options_ = options

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[object, None, R]:
        """Start it (or join the run with equal input) and wait for the result.

        In a workflow of another entity: a child, journalled. On an entity instance: the plain method.
        """
        if not isinstance(self.target, Target):
            return self.method.fn(self.target, *args, **kwargs)  # type: ignore[no-any-return]
        return workflow_call(self.target, self.method, args, kwargs, self.options_)

    async def start(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Start a run; returns its id once the start is durable (in a turn: records it and returns "").

        With equal input this is the same run, also after it has ended. Raises AlreadyStarted for other input.
        """
        return await send(Target.of(self.target), Kind.START, self.method, args, kwargs, self.options_)

    async def continue_as_new(self, *args: P.args, **kwargs: P.kwargs) -> NoReturn:
        """In this very workflow: end the run's journal here and begin the run again with these arguments.

        The end and the new beginning are one commit. State, mailbox items and everybody who waits for the result stay;
        what the run still waits for is withdrawn as at any end of a run (timers and activities cancelled, answers of
        calls ignored). Await it in the workflow's own body, not in a task of it.
        Raises NotInWorkflow elsewhere, InvalidArguments.
        """
        turn = current.get()
        if turn is None or isinstance(self.target, Target):
            raise NotInWorkflow(
                f"{self.method.name}.continue_as_new() works only in a running workflow, as "
                f"`await self.{self.method.name}.continue_as_new(...)`"
            )
        turn.continue_as_new(self.method.name, self.method.signature.dump_arguments(args, kwargs))

    async def result(self, timeout: timedelta | float | None = None) -> R:
        """Wait for the run's result. Raises WorkflowFailed (or a subclass), NoSuchRun, CallTimeout."""
        options = self.options_ if timeout is None else CallOptions.of(timeout=timeout)
        return await call(Target.of(self.target), Kind.RESULT, self.method, (), {}, options)  # type: ignore[no-any-return]

    async def cancel(self) -> None:
        """Ask the run to end: CancelledError is raised at its await, its `finally` blocks may await durably.

        Does nothing to a run that has ended. Raises NoSuchRun.
        """
        await send(Target.of(self.target), Kind.CANCEL, self.method, (), {}, self.options_)

    async def terminate(self, reason: str = "") -> None:
        """End the run at once without running any more of its code. Raises NoSuchRun."""
        await send(Target.of(self.target), Kind.TERMINATE, self.method, (reason,), {}, self.options_)

    # --- repair: see perdure.entities.operate ---

    async def operations(self) -> RunOperations:
        """The latest run, and what it waits for: attempts, last errors, next tries, limits. Raises NoSuchRun."""
        return await read_operations(Target.of(self.target), self.method.name, self.options_)

    async def pause(self, *, reason: str = "", operator: str = "") -> None:
        """Execute nothing of this run until `resume`. Attempts under way may end; handlers and queries go on.

        What comes meanwhile (results, timers, answers, cancellation) is held durably, in order. Raises RunEnded.
        """
        await self._operate(Act(Action.PAUSE, operator=operator, reason=reason))

    async def resume(self, *, reason: str = "", operator: str = "") -> None:
        """Go on after `pause`; a parked run is rebuilt by the code that runs now. Otherwise does nothing."""
        await self._operate(Act(Action.RESUME, operator=operator, reason=reason))

    async def retry(self, operation: int, *, reason: str = "", operator: str = "") -> None:
        """Make the next attempt of an activity now, whether it backs off, is paused or waits for the outside.

        `operation`: its number (see `operations`). An activity that was paused gets its total time anew, and one
        attempt. Raises NoSuchOperation, OperationSettled; Conflict if an attempt is being executed.
        """
        await self._operate(Act(Action.RETRY, operator=operator, reason=reason, operation=operation))

    async def complete(self, operation: int, value: object = None, *, reason: str = "", operator: str = "") -> None:
        """Give an activity its result, checked against its declared type; an attempt under way is cancelled.

        Raises NoSuchOperation, OperationSettled, InvalidArguments, PayloadTooLarge.
        """
        raw = msgspec.Raw(dump_value(value))
        await self._operate(Act(Action.COMPLETE, operator=operator, reason=reason, operation=operation, value=raw))

    async def fail(self, operation: int, error: Exception | str, *, reason: str = "", operator: str = "") -> None:
        """Fail an activity for good: `error` is raised at its await. Raises NoSuchOperation, OperationSettled."""
        body = outside_error(error)
        await self._operate(Act(Action.FAIL, operator=operator, reason=reason, operation=operation, error=body))

    async def restart(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Start a new run with these arguments, terminating the last one in the same commit if it lives. Its id."""
        data = self.method.signature.dump_arguments(args, kwargs)
        return await self._operate(Act(Action.RESTART, value=msgspec.Raw(data)))

    async def rerun(
        self,
        *,
        from_operation: int | str | None = None,
        keep_state: bool = False,
        reason: str = "",
        operator: str = "",
    ) -> str:
        """Start a new run with the last one's arguments. Returns its id; the history keeps the old run's turns.

        from_operation: go on from an ended run's journal, up to and including the resume in which this operation was
        asked for; what it waited for then is done again, what it had sent is not. By number, or by name (the last one).
        The entity's state is put back to what it was then; if another turn has changed it since, that is refused with
        Conflict. `keep_state`: leave the state as it is. Without from_operation: from the beginning, and a live run is
        terminated in the same commit. Raises NoSuchRun, NoSuchOperation, RunParked (the code does not fit the journal).
        """
        return await self._operate(
            Act(Action.RERUN, operator=operator, reason=reason, operation=from_operation, keep_state=keep_state)
        )

    async def _operate(self, act: Act) -> str:
        return await operate(Target.of(self.target), self.method.name, act, self.options_)

    def options(
        self,
        *,
        timeout: timedelta | float | None = None,
        idempotency_key: str = "",
        restart: bool = False,
        parent_close: ParentClose = "abandon",
    ) -> "BoundWorkflow[P, R]":
        """The same workflow with options for this use.

        restart: start a new run if the last one has ended, whatever its input was. parent_close: in a workflow, what
        happens to the run started by this use when the workflow that starts it ends, however it ends: nothing
        ("abandon"), it is asked to end ("cancel"), it ends at once ("terminate"). A run that was there already is
        left alone. Raises InvalidArguments.
        """
        if parent_close not in get_args(ParentClose):
            raise InvalidArguments(f"parent_close is one of {', '.join(get_args(ParentClose))}, not {parent_close!r}")
        options = CallOptions.of(timeout=timeout, idempotency_key=idempotency_key)
        return BoundWorkflow(self.method, self.target, replace(options, restart=restart, parent_close=parent_close))


S = TypeVar("S")


class _HandlerDecorator:
    def __init__(
        self,
        timeout: timedelta,
        retry: RetryPolicy,
        on_event: str | None = None,
        key: EventKey | None = None,
        private: bool = False,
    ) -> None:
        self._timeout = timeout
        self._retry = retry
        self._on_event = on_event
        self._key = key
        self._is_private = private

    def __call__(self, fn: Callable[Concatenate[S, P], Awaitable[R]], /) -> Handler[P, R]:
        declared: Handler[P, R] = Handler(fn, timeout=self._timeout, retry=self._retry)
        declared.subscription = Subscription.of(fn, self._on_event, self._key)
        declared.is_private = self._is_private
        return declared


class _QueryDecorator:
    def __init__(self, private: bool) -> None:
        self._is_private = private

    def __call__(self, fn: Callable[Concatenate[S, P], Awaitable[R]], /) -> Query[P, R]:
        declared: Query[P, R] = Query(fn)
        declared.is_private = self._is_private
        return declared


class _WorkflowDecorator:
    def __init__(self, on_event: str | None, key: EventKey | None, private: bool = False) -> None:
        self._on_event = on_event
        self._key = key
        self._is_private = private

    def __call__(self, fn: Callable[Concatenate[S, P], Awaitable[R]], /) -> Workflow[P, R]:
        declared: Workflow[P, R] = Workflow(fn)
        declared.subscription = Subscription.of(fn, self._on_event, self._key)
        declared.is_private = self._is_private
        return declared


@overload
def handler(fn: Callable[Concatenate[S, P], Awaitable[R]], /) -> Handler[P, R]: ...
@overload
def handler(
    *,
    timeout: timedelta = ...,
    retry: RetryPolicy = ...,
    on_event: str | None = ...,
    key: EventKey | None = ...,
    private: bool = ...,
) -> _HandlerDecorator: ...
def handler(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    timeout: timedelta = HANDLER_TIMEOUT,
    retry: RetryPolicy = SEND_RETRY,
    on_event: str | None = None,
    key: EventKey | None = None,
    private: bool = False,
) -> Any:
    """Declare a handler: one exclusive, atomic turn. If it raises, it has changed nothing.

    It may await ordinary asyncio code and has no determinism rule; it cannot await other entities or activities
    (that is what workflows are for) but may `.send` to them.

    timeout: after this time the turn is cancelled and rolled back. retry: for one-way messages whose turn raised;
    after the last attempt they become dead letters. Callers of a call get the error at once.
    on_event: the handler also gets a message for every event of this name (see `publish`); key: from the event's
    payload to the key of the entity that gets it, or None if the event is not for any.
    private: for other entities, reminders and events; over HTTP it does not exist.
    """
    decorate = _HandlerDecorator(timeout, retry, on_event, key, private)
    return decorate if fn is None else decorate(fn)


@overload
def query(fn: Callable[Concatenate[S, P], Awaitable[R]], /) -> Query[P, R]: ...
@overload
def query(*, private: bool = ...) -> _QueryDecorator: ...
def query(fn: Callable[..., Any] | None = None, /, *, private: bool = False) -> Any:
    """Declare a query: reads committed state, changes nothing; answers also while the entity sleeps or has ended.

    private: see `handler`.
    """
    decorate = _QueryDecorator(private)
    return decorate if fn is None else decorate(fn)


@overload
def workflow(fn: Callable[Concatenate[S, P], Awaitable[R]], /) -> Workflow[P, R]: ...
@overload
def workflow(*, on_event: str | None = ..., key: EventKey | None = ..., private: bool = ...) -> _WorkflowDecorator: ...
def workflow(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    on_event: str | None = None,
    key: EventKey | None = None,
    private: bool = False,
) -> Any:
    """Declare a workflow: durable across awaits; handlers run in between. At most one live run per entity.

    on_event, key: an event of this name starts it, as for handlers. With equal input that is the same run; with other
    input, while one runs or after one has ended, the start is refused (recorded in the entity's history).
    private: see `handler`; operators repair its runs from Python.
    """
    decorate = _WorkflowDecorator(on_event, key, private)
    return decorate if fn is None else decorate(fn)
