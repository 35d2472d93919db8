"""The event loop of a simulation: virtual time, no threads, no sockets, many processes.

What it keeps and what it draws
-------------------------------
Every callback belongs to a *node* (a simulated process), named by a context variable that tasks and callbacks hand on.
Within a node callbacks run in the order in which they were scheduled, as asyncio promises to one process. Between nodes
nothing is promised, so the seed draws whose callback runs next; and it draws the order of timers that are due at the
same moment. Time passes only when no node can run; no timer is due in the moment in which it is set.

A node that is killed loses its callbacks, timers and tasks; nothing of it runs again, not even a `finally` (as after
SIGKILL), because the loop keeps its tasks until the end of the seed. A node that is paused keeps them, and runs them
late. Each node reads the time by a clock of its own: another origin, and another speed (`rate`).

The digest is a running hash over (node, time) of every callback and over whatever is put down with `trace`. The same
seed must give the same digest in any process.
"""

import asyncio
import contextvars
import hashlib
import heapq
import random
import zlib
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

Context = contextvars.Context


RESOLUTION_S = 1e-9
"""The soonest that a timer is due. Real time passes while code runs, so whoever waits for the rest of a while gets
there; here a rest that is less than the last digit of a node's clock would be waited for at the same moment for ever.
"""


class Overrun(Exception):
    """The simulation took more steps, or more virtual time, than it was given."""


class ProcessEnded(BaseException):
    """`os._exit` of a simulated process: nothing of it runs after this."""


class Node:
    """One simulated process."""

    __slots__ = ("context", "facts", "is_alive", "is_paused", "machine", "name", "offset_s", "rate", "ready", "tag")

    def __init__(self, name: str, machine: str, *, offset_s: float = 0.0, rate: float = 1.0) -> None:
        self.name = name
        self.machine = machine
        self.offset_s = offset_s
        """What its monotonic clock showed at virtual time 0."""
        self.rate = rate
        """Seconds of its clocks per virtual second."""
        self.tag = name.encode()
        self.is_alive = True
        self.is_paused = False
        self.ready: deque[_Callback] = deque()
        self.facts: dict[str, Any] = {}
        """What this process knows of itself, in place of module globals."""
        self.context = Context()
        self.context.run(here.set, self)

    def __repr__(self) -> str:
        return f"<node {self.name}>"


here: contextvars.ContextVar[Node] = contextvars.ContextVar("simulation_node")
"""The node that the running callback belongs to."""


class _Callback(asyncio.TimerHandle):
    """A callback of a node, due at once or later."""

    __slots__ = ("node",)

    def __init__(
        self, callback: Callable[..., Any], args: tuple[Any, ...], context: Context, node: Node, when: float
    ) -> None:
        # By hand: asyncio's own initialiser looks for debug mode, and a million of these are made per campaign minute.
        self._callback, self._args, self._context = callback, args, context
        self._cancelled, self._when, self._repr, self.node = False, when, None, node
        self._source_traceback, self._scheduled = None, False
        self._loop = None

    def cancel(self) -> None:
        self._cancelled = True
        self._callback = _nothing
        self._args = ()


def _nothing() -> None: ...


class _Task(asyncio.Task[Any]):
    """A task with a repeatable place in a set: `asyncio.wait` and `end()` go through sets of tasks."""

    def __init__(self, coro: Coroutine[Any, Any, Any], *, place: int, **kwargs: Any) -> None:
        self._place = place
        super().__init__(coro, **kwargs)

    def __hash__(self) -> int:
        return self._place


class _Future(asyncio.Future[Any]):
    """A future that knows whose it is."""

    __slots__ = ("node",)
    node: Node


class SimLoop(asyncio.AbstractEventLoop):
    """See the module."""

    def __init__(self, order: random.Random) -> None:
        self._order = order
        self._draw = order.random
        self._timers: list[tuple[float, float, int, _Callback]] = []
        self._count = 0
        self._runnable: list[Node] = []
        self._tasks: list[asyncio.Task[Any]] = []
        self._is_closed = False
        self._crc = 0
        self._hash = hashlib.blake2b(digest_size=12)
        self.driver = Node("driver", "outside")
        self.current = self.driver
        self.now = 0.0
        """Virtual seconds since the beginning."""
        self.steps = 0
        self.steps_max = 10_000_000
        self.now_max = float("inf")
        self.log: list[str] | None = None
        """What was traced, if it is wanted in words."""
        self.errors: list[str] = []
        """Exceptions that no code of the framework caught."""

    # --- running ---

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run until `main`, a coroutine of the driver, is over. Raises Overrun."""
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            task = self.spawn(self.driver, main)
            self._run_until(task)
            return task.result()
        finally:
            asyncio._set_running_loop(before)

    def _run_until(self, task: "asyncio.Task[Any]") -> None:
        runnable, draw = self._runnable, self._draw
        crc, crc32 = self._crc, zlib.crc32
        while not task.done():
            if not runnable:
                self._advance()
                crc = crc32(b"%.6f" % self.now, crc)
                continue
            index = int(draw() * len(runnable)) if len(runnable) > 1 else 0
            node = runnable[index]
            callback = node.ready.popleft()
            if not node.ready:
                runnable[index] = runnable[-1]
                runnable.pop()
            if callback._cancelled:
                continue
            crc = crc32(node.tag, crc)
            self.current = node
            self.steps += 1
            try:
                callback._context.run(callback._callback, *callback._args)
            except ProcessEnded:
                pass
            except Exception as error:
                self.errors.append(f"{node.name} at {self.now:.3f} s: {callback._callback!r} raised {error!r}")
            if self.steps > self.steps_max:
                raise Overrun(f"{self.steps} steps; it is {self.now:.1f} s")
        self._crc = crc

    def _advance(self) -> None:
        """Jump to the next timer. Timers of the same moment become ready in drawn order."""
        timers = self._timers
        while timers and (timers[0][3]._cancelled or not timers[0][3].node.is_alive):
            heapq.heappop(timers)
        if not timers:
            raise Overrun(f"nothing will ever happen again; it is {self.now:.1f} s")
        self.now = max(self.now, timers[0][0])
        if self.now > self.now_max:
            raise Overrun(f"it is {self.now:.1f} s")
        while timers and timers[0][0] <= self.now:
            callback = heapq.heappop(timers)[3]
            if not callback._cancelled and callback.node.is_alive:
                self._ready(callback)

    def _ready(self, callback: _Callback) -> None:
        node = callback.node
        if not node.ready and not node.is_paused:
            self._runnable.append(node)
        node.ready.append(callback)

    # --- nodes ---

    def spawn(self, node: Node, work: Coroutine[Any, Any, T], *, name: str | None = None) -> "asyncio.Task[T]":
        """Run a coroutine in that process."""
        return self.create_task(work, name=name, context=node.context.copy())

    def deliver(self, node: Node, delay_s: float, callback: Callable[..., Any], *args: Any) -> None:
        """Run a callback in that process after so many virtual seconds: how anything gets from node to node."""
        if node.is_alive and not self._is_closed:
            self._schedule(self.now + delay_s, _Callback(callback, args, node.context, node, 0.0))

    def kill(self, node: Node) -> None:
        """Nothing of it happens any more."""
        if node.ready and not node.is_paused:
            self._runnable.remove(node)
        node.is_alive = False
        node.ready.clear()

    def pause(self, node: Node) -> None:
        """It stands still."""
        if node.is_alive and not node.is_paused:
            if node.ready:
                self._runnable.remove(node)
            node.is_paused = True

    def resume(self, node: Node) -> None:
        """It goes on with what it was about to do, late."""
        if node.is_alive and node.is_paused:
            node.is_paused = False
            if node.ready:
                self._runnable.append(node)

    # --- the digest ---

    def trace(self, what: str) -> None:
        """Put something that happened into the digest."""
        line = f"{self.now:.6f} {what}\n"
        self._hash.update(line.encode())
        if self.log is not None:
            self.log.append(line)

    def digest(self) -> str:
        """Of everything so far."""
        return f"{self._hash.hexdigest()}{self._crc:08x}"

    # --- what asyncio asks of a loop ---

    def time(self) -> float:
        """By the running node's own monotonic clock."""
        node = self.current
        return node.offset_s + self.now * node.rate

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> _Callback:  # type: ignore[override]
        if context is None:
            context, node = contextvars.copy_context(), self.current
        else:
            found = context.get(here)
            node = self.current if found is None else found
            if found is None:
                context.run(here.set, node)  # a fresh context (of an activity): it belongs to who made it
        handle = _Callback(callback, args, context, node, 0.0)
        if node.is_alive and not self._is_closed:
            if not node.ready and not node.is_paused:
                self._runnable.append(node)
            node.ready.append(handle)
        return handle

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> _Callback:
        """There are no threads."""
        return self.call_soon(callback, *args, context=context)

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> _Callback:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> _Callback:
        if context is None:
            context = contextvars.copy_context()
        node = context.get(here) or self.current
        handle = _Callback(callback, args, context, node, when)
        if node.is_alive and not self._is_closed:
            self._schedule(max(self.now + RESOLUTION_S, (when - node.offset_s) / node.rate), handle)
        return handle

    def _schedule(self, at: float, handle: _Callback) -> None:
        self._count += 1
        heapq.heappush(self._timers, (at, self._draw(), self._count, handle))

    def create_future(self) -> "asyncio.Future[Any]":
        future = _Future(loop=self)
        future.node = self.current
        return future

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, T], *, name: str | None = None, context: Context | None = None, **_: Any
    ) -> "asyncio.Task[T]":
        task: asyncio.Task[T] = _Task(coro, place=len(self._tasks), loop=self, name=name, context=context)
        self._tasks.append(task)
        return task

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> "asyncio.Future[T]":  # type: ignore[override]
        """At once: there are no threads."""
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        owner = getattr(context.get("future"), "node", self.current)
        if error is not None and not self._is_closed and owner.is_alive:  # the dead look at nothing any more
            self.errors.append(f"{self.current.name} at {self.now:.3f} s: {context.get('message')}: {error!r}")

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return not self._is_closed

    def is_closed(self) -> bool:
        return self._is_closed

    def close(self) -> None:
        """Let go of everything. What is still suspended is closed by Python as it goes; it can schedule nothing."""
        self._is_closed = True
        self._timers.clear()
        self._runnable.clear()
        for task in self._tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        self._tasks.clear()
