"""Activities in a test world: `async def` ones on the world's own loop, `def` ones in a thread that it waits for.

So everything shares one virtual time, and attempts end in a repeatable order. The `Stage` surrounds
each attempt: it puts fakes in, keeps the record, and is where hosts die on request.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any, Protocol

from ..engine.activities import ActivityCall, ActivityPool, ActivityRunner, Finished
from ..engine.settings import EngineSettings
from ..engine.slots import Slots
from ..transactional import StepTransactions


class Stage(Protocol):
    """What surrounds an attempt."""

    def attempt(self, call: ActivityCall, incarnation: str) -> AbstractAsyncContextManager[Callable[..., Any]]:
        """The attempt runs inside; gives the function to run. Never goes on if the host dies here."""
        ...


class StagedRunner(ActivityRunner):
    """Runs the attempts of one host of a test world. Belongs to the world's loop."""

    def __init__(
        self,
        settings: EngineSettings,
        finished: Finished,
        pool: ActivityPool | None,
        steps: StepTransactions | None,
        *,
        stage: Stage,
        incarnation: str,
    ) -> None:
        super().__init__(settings, finished, pool, steps)
        self._stage = stage
        self._incarnation = incarnation

    def open(self) -> None:
        self._host_loop = self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="perdure-activity")
        self._slots = Slots(self._settings.activities_max)

    def close(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _execute(self, call: ActivityCall) -> bytes:
        async with self._stage.attempt(call, self._incarnation) as fn:
            is_async = call.is_async or fn is not call.fn
            # Without its resources: there is no Ray here, and the function is the same.
            staged = replace(call, fn=fn, is_async=is_async, options=replace(call.options, resources=()))
            try:
                return await super()._execute(staged)
            finally:
                call.details = staged.details
