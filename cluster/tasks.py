"""Background tasks: loops that outlive the failure of one round, and their end."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

CANCEL_AGAIN_S = 1.0

log = logging.getLogger("perdure.tasks")


class Poke:
    """A bell: rung from anywhere on the loop, it ends the pause of the one who waits for it."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def __call__(self) -> None:
        self._event.set()

    async def wait(self, timeout_s: float) -> None:
        """Until it is rung, or has been since the last wait, or `timeout_s` have passed."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            pass
        self._event.clear()


async def repeat(what: str, work: Callable[[], Awaitable[None]], *, every_s: float, poke: Poke | None = None) -> None:
    """Do `work` now and then, and at every poke, for ever. A round that fails is logged and the next one comes."""
    poke = poke or Poke()
    while True:
        try:
            await work()
        except Exception:
            log.exception("%s failed; it will be tried again", what)
        await poke.wait(every_s)


async def end(*tasks: "asyncio.Task[Any] | None") -> None:
    """Cancel tasks and wait until they are over.

    More than once if need be: `asyncio.wait_for` of Python 3.11 swallows a cancellation that comes just when what it
    waits for is done.
    """
    running = {task for task in tasks if task is not None and not task.done()}
    while running:
        for task in running:
            task.cancel()
        over, running = await asyncio.wait(running, timeout=CANCEL_AGAIN_S)
        for task in over:
            if not task.cancelled():
                task.exception()  # seen
