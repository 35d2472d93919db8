"""Keeping a process's routes as new as the supervisor's: a long poll that never gives up.

While there is no supervisor, or it hangs, the routes are read from the directory now and then, and whoever gets a
NOT_OWNER reads it anyway.
"""

import asyncio
import logging
import random

from .ray_runtime import Handles, submit
from .routes import Routes, decode_routes

log = logging.getLogger("perdure.routes")

ANSWER_S = 45.0
"""Longer than the supervisor keeps a question open."""
PAUSE_S = (0.3, 1.0)
"""Before asking again after a failure: from, to."""


async def follow_supervisor(actor: str, routes: Routes) -> None:
    """Runs for ever."""
    handles = Handles()
    version = ""
    while True:
        try:
            handle = await handles.get(actor)
            if handle is not None:
                async with asyncio.timeout(ANSWER_S):
                    version, table = decode_routes(await submit(handle, "routes", version))
                routes.offer(table)
                continue
        except Exception as error:  # noqa: BLE001 - whatever it is, ask again
            log.debug("no routes from the supervisor: %r", error)
        handles.forget(actor)
        version = ""
        await routes.refresh()
        await asyncio.sleep(random.uniform(*PAUSE_S))  # noqa: S311 - spreads the load
