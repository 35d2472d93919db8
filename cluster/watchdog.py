"""Promise P9: code that blocks a host's event loop is named, and ends one process rather than all of them.

Parties: the event loop of the host, which runs user code; a daemon thread, which asks it for a sign of life a few times
a second. A loop that gives none and runs the same code at every look is blocked by it.

Protocol, by the time that it has been blocked
----------------------------------------------
* `warn_s`: logged, with the stack.
* `charge_s`, before the lease can run out and others can take over: points are written against the message or run, over
  a database session of the thread's own. Should the code return after all, they are taken back.
* `end_s`, when the lease is lost anyway: logged as an error, with the stack; the process ends. If the points could not
  be written before, it is tried once more, in bounded time.

Time in which this process did not run (a suspended machine, SIGSTOP) does not count: a look adds two intervals at most.
What holds Python's global lock while it blocks also holds this thread: then the host only loses its lease.
"""

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

from ..entities.engine.quarantine import POINTS_OF_BLOCKING
from ..entities.engine.subjects import Subject
from ..entities.store.rows import Suspicion

log = logging.getLogger("perdure.watchdog")

INTERVAL_S = 0.25
WRITE_S = 3.0
"""How long writing the points may take."""
FRAMES_SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class Limits:
    """After how many seconds of blocking what happens."""

    warn_s: float
    charge_s: float
    end_s: float


class Step(Enum):
    """What to do now."""

    NOTHING = "nothing"
    WARN = "warn"
    CHARGE = "charge"
    WITHDRAW = "withdraw"
    END = "end"


class Patience:
    """How long the loop has been blocked by one piece of code. Pure."""

    def __init__(self, limits: Limits, interval_s: float) -> None:
        self._limits = limits
        self._look_max_s = 2 * interval_s
        self._mark: object = None
        self._done: set[Step] = set()
        self.blocked_s = 0.0

    def look(self, *, is_alive: bool, mark: object, elapsed_s: float) -> Step:
        """`is_alive`: the loop gave a sign since the last look, `elapsed_s` ago; `mark`: what it runs now."""
        if is_alive or mark is not self._mark:
            was_charged = Step.CHARGE in self._done
            self._mark, self.blocked_s, self._done = mark, 0.0, set()
            return Step.WITHDRAW if was_charged else Step.NOTHING
        self.blocked_s += min(elapsed_s, self._look_max_s)
        limits = self._limits
        for step, after_s in ((Step.END, limits.end_s), (Step.CHARGE, limits.charge_s), (Step.WARN, limits.warn_s)):
            if self.blocked_s >= after_s and step not in self._done:
                self._done.add(step)
                if step is not Step.WARN:
                    self._done.add(Step.WARN)
                return step
        return Step.NOTHING


class Running(NamedTuple):
    """User code under way on the loop."""

    mark: object
    """The same object for as long as it is the same code."""
    subject: Subject


class Watchdog:
    """See the module. Made and stopped on the loop that it watches."""

    def __init__(
        self,
        *,
        limits: Limits,
        running: Callable[["asyncio.Task[Any] | None"], Running | None],
        testify: Callable[[Suspicion], Awaitable[None]],
        end: Callable[[], None],
        interval_s: float = INTERVAL_S,
    ) -> None:
        """`running`: what user code runs, given the loop's current task; asked from the thread. `testify` is called on
        an event loop of its own. `end` ends the process.
        """
        self._running = running
        self._testify = testify
        self._end = end
        self._interval_s = min(interval_s, limits.warn_s / 4)
        self._patience = Patience(limits, self._interval_s)
        self._loop = asyncio.get_running_loop()
        self._watched = threading.get_ident()
        self._stopping = threading.Event()
        self._signs = 0
        self._accused: Subject | None = None
        self._is_written = False
        self._writer: threading.Thread | None = None
        self._thread = threading.Thread(target=self._watch, name="perdure watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Watch no more."""
        self._stopping.set()

    # --- on the loop ---

    def _sign(self) -> None:
        self._signs += 1

    # --- on the thread ---

    def _watch(self) -> None:
        seen, looked_at = -1, time.monotonic()
        while not self._stopping.wait(self._interval_s):
            now = time.monotonic()
            signs, is_alive = self._signs, self._signs != seen
            try:
                running = None if is_alive else self._running(asyncio.current_task(self._loop))
                mark = running.mark if running is not None else None
                step = self._patience.look(is_alive=is_alive, mark=mark, elapsed_s=now - looked_at)
                self._do(step, running.subject if running is not None else None)
                if is_alive:
                    seen = signs
                    self._loop.call_soon_threadsafe(self._sign)
            except RuntimeError as error:  # the loop was closed, or a table changed while it was read
                log.debug("watchdog: %s", error)
                if self._loop.is_closed():
                    return
            looked_at = now

    def _do(self, step: Step, subject: Subject | None) -> None:
        blocked_s = self._patience.blocked_s
        what = str(subject) if subject is not None else "something that is no entity's code"
        match step:
            case Step.NOTHING:
                pass
            case Step.WARN:
                log.warning("%s has blocked its host for %.1f s:\n%s", what, blocked_s, self._stack())
            case Step.CHARGE:
                self._charge(subject)
            case Step.WITHDRAW:
                self._withdraw()
            case Step.END:
                # Whatever hangs from here on (a log handler's lock, the database): the process ends.
                deadline = threading.Timer(3 * WRITE_S, self._end)
                deadline.daemon = True
                deadline.start()
                if not self._is_written:
                    self._charge(subject)
                self._join()
                log.error("%s has blocked its host for %.1f s; the host ends:\n%s", what, blocked_s, self._stack())
                self._end()
                deadline.cancel()
                self.stop()

    def _charge(self, subject: Subject | None) -> None:
        if subject is None:
            return
        self._join()
        self._accused = subject
        where = traceback.extract_stack(sys._current_frames().get(self._watched), limit=1)  # noqa: SLF001
        place = f" in {where[0].filename}:{where[0].lineno} ({where[0].name})" if where else ""
        self._write(Suspicion(subject.entity, subject.id, POINTS_OF_BLOCKING, f"it blocked the event loop{place}"))

    def _withdraw(self) -> None:
        self._join()
        accused, self._accused = self._accused, None
        if accused is not None and self._is_written:
            self._write(Suspicion(accused.entity, accused.id, -POINTS_OF_BLOCKING))
            self._join()
        self._is_written = False

    def _write(self, evidence: Suspicion) -> None:
        async def write() -> None:
            await asyncio.wait_for(self._testify(evidence), WRITE_S)

        def run() -> None:
            try:
                asyncio.run(write())
                self._is_written = True
            except Exception as error:  # noqa: BLE001 - whatever it is, the host must go on, or end
                log.warning("%s: what blocks its host could not be written down: %r", evidence.entity, error)

        self._writer = threading.Thread(target=run, name="perdure watchdog writes", daemon=True)
        self._writer.start()

    def _join(self) -> None:
        if self._writer is not None:
            self._writer.join(WRITE_S + 1.0)

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._watched)  # noqa: SLF001 - the documented way to another thread's stack
        return "".join(traceback.format_stack(frame)[-FRAMES_SHOWN:]) if frame is not None else ""
