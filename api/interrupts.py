"""Ctrl-C and SIGTERM: the first asks for an end in order, the second ends at once and leaves nothing running.

In order means: whoever waits on `Interrupts` winds up by itself. At once means: every process below this one is killed,
then this one goes. An embedded Postgres is spared: its guard ends it when we are gone, and it loses nothing.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Coroutine, Iterable
from typing import Any, NoReturn, TypeVar

import psutil

from .exits import Exit

SIGNALS = (signal.SIGINT, signal.SIGTERM)
ECHO_S = 0.5
"""A second signal so soon is the first one: Ctrl-C reaches all of a process group, and a child between fork and exec
still writes what it gets to our event loop."""
T = TypeVar("T")


class Interrupted(Exception):
    """The person asked for the end while something was still starting."""


class Interrupts:
    """Signals of this process, on its event loop. Create it in the main thread."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self._asked_at = 0.0
        self.asked_by: signal.Signals | None = None
        """What asked for the end; None as long as nothing has."""
        self.spared: set[int] = set()
        """Processes that `end_at_once` leaves alone, with all below them."""

    def listen(self) -> None:
        """Take the signals over; again after a library has taken them."""
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._on_signal, number)

    def _on_signal(self, number: signal.Signals) -> None:
        now = time.monotonic()
        if self._asked.is_set():
            if now - self._asked_at > ECHO_S:
                self.end_at_once()
            return
        self._asked_at = now
        self.asked_by = number
        self._asked.set()
        _say("\nStopping … (again to stop at once)")

    async def wait(self) -> None:
        """Until the end is asked for."""
        await self._asked.wait()

    @property
    def is_asked(self) -> bool:
        """Whether the end was asked for."""
        return self._asked.is_set()

    async def unless_asked(self, step: Coroutine[Any, Any, T]) -> T:
        """The step's result. Raises Interrupted, having cancelled the step, if the end is asked for meanwhile."""
        if self._asked.is_set():
            step.close()
            raise Interrupted
        task = asyncio.ensure_future(step)
        asked = asyncio.ensure_future(self._asked.wait())
        try:
            await asyncio.wait({task, asked}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                raise Interrupted
            return await task
        finally:
            asked.cancel()

    async def uninterrupted(self, step: Coroutine[Any, Any, T]) -> T:
        """The step's result; it is finished although the end is asked for. Raises Interrupted afterwards."""
        if self._asked.is_set():
            step.close()
            raise Interrupted
        result = await step
        if self._asked.is_set():
            raise Interrupted
        return result

    def end_at_once(self) -> NoReturn:
        """Kill everything below this process, then leave without another word."""
        kill_below(os.getpid(), spared=self.spared)
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        os._exit(Exit.INTERRUPTED)


def kill_below(pid: int, *, spared: Iterable[int] = ()) -> None:
    """SIGKILL to every process below `pid`, but not to the spared ones and what is below them."""
    kept = set(spared)
    for _ in range(3):  # whoever was being started while we looked
        try:
            below = psutil.Process(pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return
        for process in [process for process in below if process.pid in kept]:
            with contextlib.suppress(psutil.Error):
                kept |= {child.pid for child in process.children(recursive=True)}
        victims = [process for process in below if process.pid not in kept]
        if not victims:
            return
        for process in victims:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(victims, timeout=1.0)


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(text, flush=True)  # noqa: T201 - the terminal is what this is for
