"""The deterministic event loop of one workflow run.

An `asyncio.AbstractEventLoop` that never waits: it is stepped until idle inside a turn, from a plain callback of the
host's loop (never from inside a task: Python 3.14 refuses nested current tasks). Callbacks run in the order in which
they were scheduled; time stands still during a step; `call_at` is a durable timer operation of the run. So plain
asyncio code (sleep, gather, wait, timeout, TaskGroup, Event, Lock, Queue) is durable and repeatable.

What cannot be durable (sockets, threads, subprocesses) raises NotDurable, naming the alternative, and so does what
asyncio itself begins in the order of addresses in memory (`as_completed` with bare coroutines).

An async generator that the code leaves early is closed by a task of this loop, in the step in which the last reference
to it goes. One that hangs in a cycle of references is never closed: when the garbage collector comes is not repeatable.
"""

import asyncio
import contextvars
import logging
import sys
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, Protocol

from ..errors import NotDurable

log = logging.getLogger("perdure.workflow")

_AS_COMPLETED = ("as_completed", "_AsCompletedIterator")
"""Where `asyncio.as_completed` begins what it is given: until Python 3.12, and from 3.13 on."""

STEP_CALLBACKS_MAX = 1_000_000
"""Callbacks in one step: a run that goes on longer without waiting for anything spins for ever."""


class TimerHost(Protocol):
    """Who makes durable timers out of `call_at`."""

    def timer_wanted(self, timer: "WorkflowTimer") -> None:
        """The code asked for a timer."""
        ...

    def timer_cancelled(self, timer: "WorkflowTimer") -> None:
        """The code cancelled a timer that has not fired."""
        ...


class WorkflowTimer(asyncio.TimerHandle):
    """A timer of workflow code; `number` is its operation's."""

    __slots__ = ("number",)
    number: int


class WorkflowTask(asyncio.Task[Any]):
    """A task with a repeatable place in a set: TaskGroup and `asyncio.wait` go through sets of tasks."""

    def __init__(self, coro: Coroutine[Any, Any, Any], *, place: int, **kwargs: Any) -> None:
        self._place = place
        super().__init__(coro, **kwargs)

    def __hash__(self) -> int:
        return self._place


class SpinningWorkflow(Exception):
    """The workflow code never waits for anything: it schedules itself without end."""


class WorkflowLoop(asyncio.AbstractEventLoop):
    """Event loop of one run. Not thread-safe; owned by its run."""

    def __init__(self, host: TimerHost, place: int = 0) -> None:
        """`place`: repeatable, and different for each run, lest all of asyncio's own sets of tasks degenerate."""
        self._host = host
        self._place = place
        self._ready: deque[asyncio.Handle] = deque()
        self._tasks: list[asyncio.Task[Any]] = []
        self._prune_at = 64
        self._closed = False
        self.now_us = 0

    # --- stepping ---

    def run_until_idle(self) -> None:
        """Run everything that is ready, and what that makes ready, until the code waits. Raises SpinningWorkflow."""
        outer = asyncio._get_running_loop()  # noqa: SLF001 - the documented hook for nesting loops
        asyncio._set_running_loop(self)  # noqa: SLF001
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=None, finalizer=self._close_generator)
        ready = self._ready
        count = 0
        try:
            while ready:
                handle = ready.popleft()
                if not handle.cancelled():
                    try:
                        handle._run()  # noqa: SLF001 - what every event loop does
                    except SystemExit:
                        log.warning("workflow code raised SystemExit")  # its task holds it as its outcome
                count += 1
                if count > STEP_CALLBACKS_MAX:
                    raise SpinningWorkflow(
                        f"the workflow ran {STEP_CALLBACKS_MAX} callbacks without waiting for anything; "
                        "does it loop on `await asyncio.sleep(0)`?"
                    )
        finally:
            sys.set_asyncgen_hooks(*hooks)
            asyncio._set_running_loop(outer)  # noqa: SLF001

    def _close_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        """The code has dropped an async generator that it had not exhausted."""
        if not self._closed and asyncio._get_running_loop() is self:  # noqa: SLF001 - as above
            self.create_task(generator.aclose())

    def shut(self) -> None:
        """Close every unfinished coroutine (their `finally` blocks run; operations are refused there)."""
        if self._closed:
            return
        self._closed = True
        self._ready.clear()
        outer = asyncio._get_running_loop()  # noqa: SLF001
        asyncio._set_running_loop(self)  # noqa: SLF001
        try:
            for task in self._tasks:
                if task.done():
                    continue
                task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001 - it is meant
                coro: Any = task.get_coro()
                try:
                    coro.close()
                except BaseException as error:  # noqa: BLE001 - user code in `finally`; the run is gone anyway
                    log.debug("closing a workflow coroutine: %r", error)
            self._ready.clear()
        finally:
            asyncio._set_running_loop(outer)  # noqa: SLF001
        self._tasks.clear()

    # --- what asyncio asks of a loop ---

    def time(self) -> float:
        return self.now_us / 1e6

    def call_soon(  # type: ignore[override] # pyright: ignore[reportIncompatibleMethodOverride]
        self, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override] # pyright: ignore[reportIncompatibleMethodOverride]
        self, delay: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override] # pyright: ignore[reportIncompatibleMethodOverride]
        self, when: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        timer = WorkflowTimer(when, callback, args, self, context)
        self._host.timer_wanted(timer)
        return timer

    def _timer_handle_cancelled(self, timer: WorkflowTimer) -> None:
        self._host.timer_cancelled(timer)

    def fire(self, timer: WorkflowTimer) -> None:
        """The timer is due: its callback runs in the next step."""
        if not timer.cancelled():
            self._ready.append(timer)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Coroutine[Any, Any, Any], **kwargs: Any) -> asyncio.Task[Any]:  # type: ignore[override]
        kwargs.pop("eager_start", None)
        if sys._getframe(1).f_code.co_name.endswith("ensure_future"):  # noqa: SLF001 - nothing else tells who asks
            _check_order(coro)
        self._place += 1
        task = WorkflowTask(coro, place=self._place, loop=self, **kwargs)
        # Kept here: asyncio itself holds tasks weakly, and a collected task would silently end.
        self._tasks.append(task)
        if len(self._tasks) > self._prune_at:
            self._tasks = [t for t in self._tasks if not t.done()]
            self._prune_at = 2 * len(self._tasks) + 64
        return task

    def get_task_factory(self) -> None:
        return None

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return not self._closed

    def is_closed(self) -> bool:
        return self._closed

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self._closed:
            log.warning("workflow: %s", context.get("message"), exc_info=context.get("exception"))

    async def shutdown_asyncgens(self) -> None:
        return None

    # --- what cannot be durable ---

    def call_soon_threadsafe(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        raise _not_durable("threads (call_soon_threadsafe)")

    def run_in_executor(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        raise _not_durable("a thread (run_in_executor, asyncio.to_thread)")

    async def getaddrinfo(self, *args: Any, **kwargs: Any) -> Any:
        raise _not_durable("a DNS look-up")

    async def create_connection(self, *args: Any, **kwargs: Any) -> Any:
        raise _not_durable("a network connection")

    async def create_unix_connection(self, *args: Any, **kwargs: Any) -> Any:
        raise _not_durable("a socket")

    async def create_server(self, *args: Any, **kwargs: Any) -> Any:
        raise _not_durable("a server socket")

    async def create_datagram_endpoint(self, *args: Any, **kwargs: Any) -> Any:
        raise _not_durable("a socket")

    async def subprocess_exec(self, *args: Any, **kwargs: Any) -> Any:
        raise _not_durable("a subprocess")

    async def subprocess_shell(self, *args: Any, **kwargs: Any) -> Any:
        raise _not_durable("a subprocess")

    def add_reader(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        raise _not_durable("a socket (add_reader)")

    def add_writer(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        raise _not_durable("a socket (add_writer)")

    def add_signal_handler(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        raise _not_durable("a signal handler")


def _check_order(coro: Coroutine[Any, Any, Any]) -> None:
    frame = sys._getframe(2)  # noqa: SLF001 - nothing else tells who asks
    for _ in range(4):
        if frame.f_code.co_qualname.startswith(_AS_COMPLETED) and frame.f_globals.get("__name__") == "asyncio.tasks":
            coro.close()
            raise NotDurable(
                "asyncio.as_completed() begins bare coroutines in an order that differs each time the run is rebuilt; "
                "give it tasks: as_completed([asyncio.create_task(one) for one in ...])"
            )
        if frame.f_back is None:
            return
        frame = frame.f_back


def _not_durable(what: str) -> NotDurable:
    return NotDurable(
        f"workflow code tried to use {what}, which cannot survive a crash; do it in an @activity and await that"
    )
