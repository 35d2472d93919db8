"""Activities: functions that talk to the outside world from a workflow.

Outside a workflow an activity is the plain function. Inside, `await charge(...)` is a journalled operation: at least
once until its result is committed, never again after (promise P7). `activity_info()` tells the attempt and an
idempotency key that is the same in every attempt and after every crash: hand it to the payment service.
"""

import inspect
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Generic, ParamSpec, TypeVar, overload

from .context import current
from .errors import DefinitionError, DurableAwaitInHandler, NotInWorkflow
from .heartbeat import pulse
from .ids import EntityId
from .rate import RateLimit
from .retry import RetryPolicy
from .signature import Signature, where
from .tokens import make_token

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class ActivityOptions:
    """How an activity is executed."""

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    timeout: timedelta | None = None
    """Limit of one attempt (start to close)."""
    total_timeout: timedelta | None = None
    """Limit of all attempts together (schedule to close)."""
    heartbeat_timeout: timedelta | None = None
    """Limit of the silence between two heartbeats."""
    max_concurrent: int | None = None
    """Attempts of this activity under way at once on one host."""
    rate: RateLimit | None = None
    """Attempts of this activity begun per time on one host."""
    resources: tuple[tuple[str, float], ...] = ()
    """Ray resources (`num_cpus`, `num_gpus`, custom); if any, the activity runs as a Ray task."""
    is_transactional: bool = False
    """It receives a database transaction, which also records that it was done (transactional.py)."""


@dataclass(frozen=True, kw_only=True)
class ActivityInfo:
    """Which attempt of which operation is running."""

    entity: EntityId
    activity: str
    operation: str
    """`workflow/run_id/number`."""
    attempt: int
    """From 1."""
    idempotency_key: str
    """The same in every attempt of this operation, also after crashes; unique among all operations."""
    heartbeat_details: Any = None
    """What an earlier attempt last told `heartbeat()`, as plain JSON; None if nothing."""

    @property
    def token(self) -> str:
        """Names this operation to the outside world: see CompleteLater. The same in every attempt."""
        return make_token(self.entity, self.operation)

    @property
    def is_cancelled(self) -> bool:
        """Whether this attempt is not wanted any more (cancelled or out of time): for threads that poll."""
        attempt = pulse.get()
        return attempt is not None and attempt.is_cancelled


_info: ContextVar[ActivityInfo | None] = ContextVar("perdure_activity", default=None)


def activity_info() -> ActivityInfo:
    """About the running attempt. Raises NotInWorkflow outside an activity that a workflow called."""
    info = _info.get()
    if info is None:
        raise NotInWorkflow("activity_info() works only inside an activity that a workflow called")
    return info


class Activity(Generic[P, R]):
    """A decorated function; await it in a workflow, call it like the function elsewhere."""

    def __init__(self, fn: Callable[..., Any], options: ActivityOptions, name: str = "") -> None:
        self.fn = fn
        self.options_ = options
        self.name = name or fn.__name__
        self.is_async = inspect.iscoroutinefunction(fn)
        self.signature = Signature(fn, self.name, has_self=False)
        self.__doc__ = fn.__doc__
        self.__name__ = fn.__name__
        self.__wrapped__ = fn

    def __repr__(self) -> str:
        return f"<activity {self.name} at {where(self.fn)}>"

    def options(
        self,
        *,
        retry: RetryPolicy | None = None,
        timeout: timedelta | None = None,
        total_timeout: timedelta | None = None,
        heartbeat_timeout: timedelta | None = None,
    ) -> "Activity[P, R]":
        """The same activity with other options for this use; None keeps what it has."""
        changes: dict[str, Any] = {
            "retry": retry,
            "timeout": timeout,
            "total_timeout": total_timeout,
            "heartbeat_timeout": heartbeat_timeout,
        }
        _check_limits(changes)
        options = replace(self.options_, **{k: v for k, v in changes.items() if v is not None})
        return Activity(self.fn, options, self.name)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[object, None, R]:
        return self._run(args, kwargs)

    async def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
        turn = current.get()
        if turn is None:
            result = self.fn(*args, **kwargs)
            return await result if self.is_async else result  # type: ignore[no-any-return]
        if turn.mode != "workflow":
            raise DurableAwaitInHandler(
                f"{turn.entity}: a {turn.mode} awaited the activity {self.name}; activities are durable and need a "
                "@workflow. Move the await there, or call a plain function"
            )
        data = self.signature.dump_arguments(args, kwargs)
        return self.signature.load_result(  # type: ignore[no-any-return]
            await turn.activity(self.name, self.fn, self.signature, data, self.options_)
        )


@overload
def activity(fn: Callable[P, Awaitable[R]], /) -> Activity[P, R]: ...
@overload
def activity(fn: Callable[P, R], /) -> Activity[P, R]: ...
@overload
def activity(
    *,
    retry: RetryPolicy | None = None,
    timeout: timedelta | None = None,
    total_timeout: timedelta | None = None,
    heartbeat_timeout: timedelta | None = None,
    max_concurrent: int | None = None,
    rate: str | RateLimit | None = None,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    resources: dict[str, float] | None = None,
    name: str = "",
) -> "_ActivityDecorator": ...
def activity(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    retry: RetryPolicy | None = None,
    timeout: timedelta | None = None,
    total_timeout: timedelta | None = None,
    heartbeat_timeout: timedelta | None = None,
    max_concurrent: int | None = None,
    rate: str | RateLimit | None = None,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    resources: dict[str, float] | None = None,
    name: str = "",
) -> Any:
    """Declare a function of the outside world: `async def` runs on the host's activity loop, `def` in a thread.

    retry: policy for failed attempts (default: without end, exponentially from 1 s to 100 s).
    timeout: limit of one attempt, from its begin (not from when it queued for a slot). total_timeout: limit of all
    attempts together, waits included. heartbeat_timeout: limit of the silence between two `heartbeat()`s of an attempt.
    max_concurrent, rate ("100/s", "5/m", or a RateLimit): limits of this activity on each host; attempts wait for them.
    num_cpus, num_gpus, resources: run as a Ray task with these resources.
    Raises DefinitionError if it is not a function or its parameters cannot travel.
    """
    wanted = {"num_cpus": num_cpus, "num_gpus": num_gpus, **(resources or {})}
    options = ActivityOptions(
        retry=retry or RetryPolicy(),
        timeout=timeout,
        total_timeout=total_timeout,
        heartbeat_timeout=heartbeat_timeout,
        max_concurrent=max_concurrent,
        rate=RateLimit.of(rate),
        resources=tuple((k, v) for k, v in wanted.items() if v is not None),
    )
    _check_limits({"timeout": timeout, "total_timeout": total_timeout, "heartbeat_timeout": heartbeat_timeout})
    if max_concurrent is not None and max_concurrent < 1:
        raise DefinitionError(f"@activity(max_concurrent={max_concurrent}): at least 1, or None for no limit")
    decorate = _ActivityDecorator(options, name)
    return decorate if fn is None else decorate(fn)


def _check_limits(limits: dict[str, Any]) -> None:
    for limit, value in limits.items():
        if isinstance(value, timedelta) and value <= timedelta(0):
            raise DefinitionError(f"@activity({limit}={value}): must be longer than zero")


class _ActivityDecorator:
    """What `@activity(...)` returns."""

    def __init__(self, options: ActivityOptions, name: str) -> None:
        self._options = options
        self._name = name

    @overload
    def __call__(self, fn: Callable[P, Awaitable[R]], /) -> Activity[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Activity[P, R]: ...
    def __call__(self, fn: Callable[..., Any], /) -> Any:
        if not inspect.isfunction(fn):
            raise DefinitionError(f"@activity decorates a function, not {fn!r}")
        return Activity(fn, self._options, self._name)


def running_attempt() -> ActivityInfo | None:
    """The attempt that is running in this context, or None."""
    return _info.get()


def running_as(info: ActivityInfo | None) -> Any:
    """Set what `activity_info()` answers in this context (for the activity runner and for tests of activities)."""
    return _info.set(info)
