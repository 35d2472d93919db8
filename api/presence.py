"""Waiting for an answer only as long as somebody waits for it.

A caller that goes away while its request waits is not noticed by the code that waits: the server only stops sending.
Without this, callers that ask for a result, hang up and ask again would leave a task behind each time, for as long as
they said they would wait. What becomes of the message does not change: it was sent, and is applied or not as ever.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request

T = TypeVar("T")


class CallerGoneError(Exception):
    """Nobody waits for the answer any more."""


async def while_present(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled if the caller disconnects. Raises CallerGoneError then.

    The body must have been read. Costs a task, so it is for waits that are expected to be long.
    """
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise CallerGoneError
    finally:
        for task in (working, gone):
            task.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
