"""Sagas: steps with their compensations, in a workflow.

```python
async with saga() as s:
    await s.step(Account.ref(a).withdraw(10), undo=lambda: Account.ref(a).deposit(10))
    await s.step(Account.ref(b).deposit(10), undo=lambda: Account.ref(b).withdraw(10))
```

Promises
--------
If the block raises, the undo of every step that was done runs, the last one first, each awaited to its end; then the
error goes on. Steps and undos are ordinary durable operations of the workflow (P7), and the list of what is to be
undone is a local variable of it: a crash, an eviction or a month of waiting changes nothing about it.

A step that has begun is awaited to its end even if the run is cancelled meanwhile, and so is an undo: what was done is
known. The cancellation goes on afterwards: so the last step needs an undo as well, unless the run is never cancelled,
or what a cancellation during that step would leave (the step done, all others undone) is right. (A *terminated* run
executes nothing any more, so nothing is undone.)

What a saga cannot know, it says. A step whose outcome is unknown (a call or attempt that ran out of time) is not
undone, for it may not have been done; an undo that fails for good is left, and the others run. Both end in
`SagaFailed`, which names them, with the original error as its cause. So: no time limit on what must not stay
unknown, and undos that retry (activities do, without end, by default).

Unlike a transaction, others see the entities between the steps.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self, TypeVar

from .errors import ActivityTimeout, OutcomeUnknown, SagaFailed, error_body

R = TypeVar("R")

Undo = Callable[[], Awaitable[object]] | Callable[[R], Awaitable[object]]
"""What takes a step back; it may take the step's result."""


class Saga:
    """What `saga()` returns. Belongs to one `async with` block."""

    def __init__(self) -> None:
        self._undos: list[tuple[str, Callable[[], Awaitable[object]]]] = []
        self._unknown: list[str] = []
        self._steps = 0

    async def step(self, step: Awaitable[R], *, undo: Undo[R] | None = None, name: str = "") -> R:
        """Do one step; returns its result. If the block fails later, `undo` runs.

        step: any awaitable of a workflow (activity, call, child workflow). undo: makes a fresh awaitable of that kind,
        with the step's result if it has a parameter. name: for messages, by default the step's number.
        Raises what the step raises; then it is not undone.
        """
        self._steps += 1
        name = name or f"step {self._steps}"
        try:
            result, interrupted = await _to_its_end(step)
        except (OutcomeUnknown, ActivityTimeout):
            if undo is not None:
                self._unknown.append(name)
            raise
        if undo is not None:
            self.undo_later(_bound(undo, result), name=name)
        if interrupted is not None:
            raise interrupted
        return result

    def undo_later(self, undo: Callable[[], Awaitable[object]], *, name: str = "") -> None:
        """If the block fails from here on, run this (before everything that was added earlier)."""
        self._undos.append((name or f"step {self._steps}", undo))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raises SagaFailed if something could not be undone, or nobody knows whether it has to be."""
        # A run that leaves memory closes its coroutine (GeneratorExit): that is no failure, and it comes back.
        if not isinstance(error, Exception | asyncio.CancelledError):
            return
        failed: list[tuple[str, BaseException]] = []
        while self._undos:
            name, undo = self._undos.pop()
            try:
                await _to_its_end(undo())
            except (Exception, asyncio.CancelledError) as problem:  # noqa: BLE001 - the others must run
                failed.append((name, problem))
        if failed or self._unknown:
            raise _saga_failed(error, failed, self._unknown) from error


def saga() -> Saga:
    """Begin a saga, in a workflow.

    `async with saga() as s: await s.step(charge(...), undo=lambda: refund(...))`. If the block raises, or the run is
    cancelled, the steps done are undone in reverse order, durably; see the module.
    """
    return Saga()


def _bound(undo: Callable[..., Awaitable[object]], result: object) -> Callable[[], Awaitable[object]]:
    return (lambda: undo(result)) if inspect.signature(undo).parameters else undo


async def _to_its_end(what: Awaitable[R]) -> tuple[R, asyncio.CancelledError | None]:
    """Await it whatever happens to the waiting task; returns its result and the cancellation that came meanwhile.

    Raises what it raises.
    """
    task = asyncio.ensure_future(what)
    interrupted: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            interrupted = error
    return task.result(), interrupted


def _saga_failed(error: BaseException, failed: list[tuple[str, BaseException]], unknown: list[str]) -> SagaFailed:
    parts = [f"the undo of {name} failed: {error_body(problem).message}" for name, problem in failed]
    parts += [f"whether {name} was done is unknown, so it was not undone" for name in unknown]
    details: dict[str, Any] = {"failed": [name for name, _ in failed], "unknown": unknown}
    return SagaFailed(f"a saga failed ({error!r}) and could not be taken back: {'; '.join(parts)}", **details)
