"""Transactional steps: activities that write the user's own tables, exactly once.

```python
@transactional
async def save_order(connection: AsyncConnection, order_id: str, total: int) -> None:
    await connection.execute(text("insert into orders values (:id, :n)"), {"id": order_id, "n": total})
```

Promises
--------
P7, sharpened: what such a step writes, and the fact that it was done, are one transaction. It is committed once,
whatever crashes; an activity is executed at least once.

Protocol (`cluster/postgres/steps.py` is the implementation): an attempt opens a transaction. If a row of table `steps`
tells that the operation was done, its result is returned and nothing runs. Else the user's code runs on that
transaction's connection; then the attempt locks the row of its run, which must be alive, and inserts the row of the
step. Of two attempts at once (a zombie host and its successor) the second waits for the first one's insert and then
finds its row, so its own writes are rolled back. The row stays as long as its run, so there is no moment at which a
late attempt could do it again. The result reaches the run as that of any activity.

It must not wait for anything but its database: it holds a connection, and its locks.
"""

from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

from .activity import Activity, ActivityInfo, ActivityOptions
from .context import current
from .errors import DefinitionError, NotInWorkflow
from .retry import RetryPolicy
from .signature import Signature, where

C = TypeVar("C")
P = ParamSpec("P")
R = TypeVar("R")


class StepAttempt(Protocol):
    """One attempt at a step, as whoever executes it sees it (`engine.activities.ActivityCall`)."""

    shard: int
    signature: Signature
    args: bytes

    @property
    def fn(self) -> Callable[..., Any]:
        """The step as the user wrote it."""
        ...

    @property
    def info(self) -> ActivityInfo:
        """Which attempt of which operation."""
        ...


class StepTransactions(Protocol):
    """Executes transactional steps. Everything on the activities' event loop."""

    async def run(self, attempt: StepAttempt) -> bytes:
        """The JSON result, once committed. Raises what the step raises (then nothing was written), and what the
        database raises; the step's retry policy decides.
        """
        ...

    async def close(self) -> None:
        """Close idle connections."""
        ...


class TransactionalStep(Activity[P, R], Generic[C, P, R]):
    """A decorated function; await it in a workflow, without its first parameter."""

    def __init__(self, fn: Callable[..., Any], options: ActivityOptions, name: str = "") -> None:
        super().__init__(fn, options, name)
        self.signature = Signature(fn, self.name, has_self=True)

    def options(
        self,
        *,
        retry: RetryPolicy | None = None,
        timeout: timedelta | None = None,
        total_timeout: timedelta | None = None,
        heartbeat_timeout: timedelta | None = None,
    ) -> "TransactionalStep[C, P, R]":
        """The same step with other options for this use; None keeps what it has."""
        changed = super().options(
            retry=retry, timeout=timeout, total_timeout=total_timeout, heartbeat_timeout=heartbeat_timeout
        )
        return TransactionalStep(self.fn, changed.options_, self.name)

    async def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
        if current.get() is None:
            raise NotInWorkflow(
                f"{self.name} is a transactional step: only a workflow can await it. Elsewhere call "
                f"{self.__name__}.fn(connection, ...) on a connection of your own"
            )
        return await super()._run(args, kwargs)


class _StepDecorator:
    """What `@transactional(...)` returns."""

    def __init__(self, options: ActivityOptions, name: str) -> None:
        self._options = options
        self._name = name

    def __call__(self, fn: Callable[Concatenate[C, P], Coroutine[Any, Any, R]], /) -> TransactionalStep[C, P, R]:
        step: TransactionalStep[C, P, R] = TransactionalStep(fn, self._options, self._name)
        if not step.is_async:
            raise DefinitionError(
                f"@transactional decorates an `async def` function; {step.name} at {where(fn)} is not"
            )
        return step


@overload
def transactional(fn: Callable[Concatenate[C, P], Awaitable[R]], /) -> TransactionalStep[C, P, R]: ...
@overload
def transactional(
    *,
    retry: RetryPolicy | None = None,
    timeout: timedelta = ...,
    total_timeout: timedelta | None = None,
    name: str = "",
) -> _StepDecorator: ...
def transactional(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    retry: RetryPolicy | None = None,
    timeout: timedelta = timedelta(seconds=30),
    total_timeout: timedelta | None = None,
    name: str = "",
) -> Any:
    """Declare a step of workflows that writes your own tables in Perdure's database, exactly once.

    Its first parameter receives a SQLAlchemy `AsyncConnection` (or an `AsyncSession`, if it is annotated so) inside a
    transaction, which is committed together with the step's result, or rolled back. Do not commit it yourself.
    The other parameters and the options are as for `@activity`; timeout: limit of one attempt.
    Raises DefinitionError.
    """
    options = ActivityOptions(
        retry=retry or RetryPolicy(), timeout=timeout, total_timeout=total_timeout, is_transactional=True
    )
    decorate = _StepDecorator(options, name)
    return decorate if fn is None else decorate(fn)
