"""A time limit inside a task, for Perdure's own waits in workflows."""

import asyncio
from types import TracebackType


class TimeLimit:
    """Like `asyncio.timeout`: raises TimeoutError at the end of a block that took longer than `seconds`.

    Python's own, before 3.11.3, lets CancelledError out instead if an earlier TaskGroup of the same task has failed:
    that leaves a cancellation request behind, and it does not compare with the number of requests at its beginning.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._is_over = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._requests = task.cancelling()
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._expire)

    def _expire(self) -> None:
        self._is_over = True
        self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        # A cancellation from outside that came as well has the last word.
        if self._is_over and self._task.uncancel() <= self._requests and kind is asyncio.CancelledError:
            raise TimeoutError from error
