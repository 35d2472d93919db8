"""Asking all hosts for their metrics at once. A host that is dead, frozen or busy holds up nobody: there is one time
limit for all of them, and whoever has not answered by then is reported as such.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from ..entities.metrics import Reading, decode_reading

log = logging.getLogger("perdure.cluster")

AskHost = Callable[[str], Awaitable[bytes]]
"""Actor name → an encoded reading; raises whatever went wrong."""


async def gather_readings(actors: Mapping[str, str], ask: AskHost, *, timeout_s: float) -> dict[str, Reading | None]:
    """By incarnation, of these hosts (incarnation → actor name); None: no answer in time."""

    async def one(actor: str) -> Reading:
        return decode_reading(await ask(actor))

    tasks = {incarnation: asyncio.ensure_future(one(actor)) for incarnation, actor in actors.items()}
    if tasks:
        await asyncio.wait(tasks.values(), timeout=timeout_s)
    found: dict[str, Reading | None] = {}
    for incarnation, task in tasks.items():
        found[incarnation] = None
        if not task.done():
            task.cancel()
        elif (error := task.exception()) is None:
            found[incarnation] = task.result()
        else:
            log.info("host %s gives no metrics: %r", incarnation, error)
    return found
