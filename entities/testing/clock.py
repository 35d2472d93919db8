"""Virtual time for one event loop: when nothing can run, time jumps to the next moment at which something can.

Protocol
--------
`install` takes over the clock, the timers and the selector of the running loop (asyncio's own, not uvloop's), so it
works in whatever started that loop: `asyncio.run`, pytest-asyncio, a notebook. Everything on the loop then lives on one
time: `asyncio.sleep` of the test and of activities, time-outs, retries, and the store's clock (`now_us`).

When the loop would wait, `_idle` decides. It jumps to the earliest of: timers of tasks that do something, and what is
due in the store. The engine's housekeeping (polls, sweeps, look-ahead reads) never decides how far: after a jump each
of those runs once, however many of its periods have passed, as after a laptop's sleep. Otherwise a year would cost a
hundred million polls. Only while messages are left waiting, or nothing else is, housekeeping gets a few seconds.

If there is nothing to jump to, nothing will ever happen again: `stuck` says so.

Threads stop the clock: a function in a thread is waited for on the spot, so its end has a repeatable place in the order
of things. Sockets are no part of virtual time; what they bring is taken when the loop looks, but not waited for.
"""

import asyncio
import concurrent.futures
import contextvars
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
HOUSEKEEPING = frozenset({f"perdure {name}" for name in ("poll", "prune", "sweep", "timers", "window")})
"""Tasks of the engine that look again and again."""
SETTLE_US = 5_000_000
"""How long after the last work housekeeping may find what was lost."""
THREAD_LIMIT_S = 30.0
"""How long, in real seconds, a function in a thread may take."""


class VirtualClock:
    """The time of one loop. Not thread-safe."""

    def __init__(self, start: datetime) -> None:
        self._start_us = round((start - EPOCH) / timedelta(microseconds=1))
        self._passed_us = 0
        self._worked_us = 0
        self._housekeeping: list[asyncio.TimerHandle] = []
        self._settling: list[asyncio.Future[None]] = []
        self._lingering: list[asyncio.Future[None]] = []
        self._loop: Any = None
        self._selector: Any = None
        self._call_at: Callable[..., asyncio.TimerHandle]
        self._base_s = 0.0
        self._resolution = 0.0
        self.next_due_us: Callable[[], int | None] = lambda: None
        """The next moment at which something in the store becomes due."""
        self.has_work: Callable[[], bool] = lambda: False
        """Whether the store holds work that could be done now."""
        self.stuck: Callable[[], None] = lambda: None
        """Called if nothing will ever happen again: wakes somebody, or raises."""

    # --- reading it ---

    def now_us(self) -> int:
        """Microseconds since the epoch."""
        return self._start_us + self._passed_us

    def now(self) -> datetime:
        """The time, in UTC."""
        return EPOCH + timedelta(microseconds=self.now_us())

    def time(self) -> float:
        """Seconds on the loop's own clock."""
        return self._base_s + self._passed_us / 1e6

    def worked(self) -> None:
        """Something has been done (committed)."""
        self._worked_us = self._passed_us

    async def settled(self) -> None:
        """Wait until nothing more can happen without time passing."""
        await self._join(self._settling)

    def fail(self, error: BaseException) -> None:
        """Raise this where somebody waits for `settled`."""
        for future in self._settling:
            if not future.done():
                future.set_exception(error)

    async def linger(self) -> None:
        """Be slow: let everything else that can happen now happen first. Whoever waits for `settled` waits for this."""
        await self._join(self._lingering)

    async def _join(self, queue: list[asyncio.Future[None]]) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(future)
        await future

    # --- taking the loop over ---

    def install(self) -> None:
        """Take over the running loop. Raises RuntimeError if that cannot be done."""
        loop: Any = asyncio.get_running_loop()
        if not isinstance(loop, asyncio.SelectorEventLoop):
            raise RuntimeError(  # noqa: TRY004 - it is the place that is wrong, not an argument
                f"virtual time needs asyncio's own event loop, this is a {type(loop).__module__} one; run the test "
                "with `asyncio.Runner(loop_factory=asyncio.SelectorEventLoop)` or without an event loop policy"
            )
        if isinstance(loop._selector, _Selector):  # type: ignore[attr-defined]  # noqa: SLF001
            raise RuntimeError(  # noqa: TRY004
                "this event loop has a test world already; one at a time (`async with` closes it)"
            )
        self._loop = loop
        instance: Any = loop
        self._base_s = float(math.floor(loop.time()))  # a whole number: microseconds stay exact, whenever it is
        self._selector = loop._selector  # type: ignore[attr-defined]  # noqa: SLF001 - there is no other way in
        self._call_at = loop.call_at
        instance._selector = _Selector(self._selector, self._idle)  # noqa: SLF001
        # Of a timer that is due in this very microsecond the loop must not think that it is not due yet.
        self._resolution, instance._clock_resolution = instance._clock_resolution, 1e-6  # noqa: SLF001
        instance.time = self.time
        instance.call_at = self._note_call_at
        instance.run_in_executor = self._run_in_thread

    def uninstall(self) -> None:
        """Give the loop back. Idempotent."""
        loop, self._loop = self._loop, None
        if loop is not None:
            loop._selector, loop._clock_resolution = self._selector, self._resolution  # noqa: SLF001
            del loop.time, loop.call_at, loop.run_in_executor

    def _note_call_at(
        self,
        when: float,
        callback: Callable[..., Any],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        timer = self._call_at(when, callback, *args, context=context)
        task = asyncio.current_task(self._loop)
        if task is not None and task.get_name() in HOUSEKEEPING:
            self._housekeeping.append(timer)
        return timer

    def _run_in_thread(
        self, executor: concurrent.futures.Executor | None, fn: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Run it to its end while everything else stands still."""
        own = concurrent.futures.ThreadPoolExecutor(1) if executor is None else executor
        future: asyncio.Future[Any] = self._loop.create_future()
        try:
            future.set_result(own.submit(fn, *args).result(THREAD_LIMIT_S))
        except concurrent.futures.TimeoutError:
            future.set_exception(TimeoutError(f"{fn} blocked its thread for {THREAD_LIMIT_S:g} real seconds"))
        except Exception as error:  # noqa: BLE001 - whatever it raised is its outcome
            future.set_exception(error)
        finally:
            if executor is None:
                own.shutdown(wait=False)
        return future

    # --- when the loop would wait ---

    def _idle(self) -> None:
        for queue in (self._lingering, self._settling):
            if queue:
                waiting = [future for future in queue if not future.done()]
                queue.clear()
                for future in waiting:
                    future.set_result(None)
                return
        target_us = self._next_us()
        if target_us is None:
            self.stuck()
        else:
            self._passed_us = target_us

    def _next_us(self) -> int | None:
        """When something can happen, µs on this clock; None: never."""
        self._housekeeping = [h for h in self._housekeeping if h._scheduled and not h.cancelled()]  # type: ignore[attr-defined]  # noqa: SLF001
        idle = {id(timer) for timer in self._housekeeping}
        timers = [t for t in self._loop._scheduled if not t.cancelled() and id(t) not in idle]  # noqa: SLF001
        moments = [self._after(min(t.when() for t in timers))] if timers else []
        due_us = self.next_due_us()
        if due_us is not None:
            moments.append(max(due_us - self._start_us, self._passed_us + 1))
        if self._housekeeping and (not moments or self.has_work()):
            look_us = self._after(min(h.when() for h in self._housekeeping))
            if look_us <= self._worked_us + SETTLE_US:
                moments.append(look_us)
        return min(moments) if moments else None

    def _after(self, when: float) -> int:
        """The microsecond, later than now, at which the loop finds this timer ready (see `_clock_resolution`)."""
        return max(round((when - self._base_s) * 1e6), self._passed_us + 1)


class _Selector:
    """The loop's selector, except that it never waits."""

    def __init__(self, real: Any, idle: Callable[[], None]) -> None:
        self._real = real
        self._idle = idle

    def select(self, timeout: float | None = None) -> Any:
        events = self._real.select(0)
        if not events and (timeout is None or timeout > 0):
            self._idle()
        return events

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)
