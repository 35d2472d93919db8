"""A history that was downloaded, replayed against the classes that this gateway has: `POST /replay`.

Nothing is read from the database, written or executed. But code of workflows runs, and what it is fed comes from a
caller: so it takes the right to operate, it runs in a thread beside the event loop, one history at a time, and is not
waited for beyond `REPLAY_S_MAX`. Python cannot end a thread: while one goes on, others are refused (`busy`).
"""

import asyncio
import contextlib
import threading
from collections import Counter
from contextvars import Context
from typing import Any

from fastapi import APIRouter, Request
from starlette.routing import BaseRoute

from ..entities.definition import Registry
from ..entities.errors import Busy
from ..entities.export import read_export
from ..entities.replays import Replayed, replay_runs
from ..entities.store.rows import Loaded
from .answering import answering
from .archive_openapi import asked, described
from .parameters import read_text, wrong
from .principal import Principal, Right
from .requests import read_json
from .settings import Settings

REPLAY_S_MAX = 20.0
"""How long a request waits for its runs."""
REASON_CHARS_MAX = 2_000

_TYPE = asked("type", "string", "Of this class; without it the caller needs the right for all.")
_BODY = {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}


def replay_routes(registry: Registry, *, settings: Settings) -> list[BaseRoute]:
    """The route, for an application that is guarded elsewhere."""
    router = APIRouter(redirect_slashes=False)
    about = described([_TYPE])
    about["openapi_extra"]["requestBody"] = _BODY
    router.add_api_route(
        "/replay",
        answering(Replays(registry, settings).replay, Right.OPERATE, settings),
        methods=["POST"],
        summary="Whether the runs of an exported entity fit this code",
        tags=["operations"],
        **about,
    )
    return list(router.routes)


class Replays:
    """One at a time."""

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self._registry = registry
        self._settings = settings
        self._is_busy = False

    async def replay(self, request: Request, who: Principal) -> Any:
        """Answer for each run. Raises Refused, InvalidArguments, Busy."""
        type_name = read_text(request, "type")
        loaded = read_export(await read_json(request, self._settings))
        if type_name is not None and loaded.entity.type != type_name:
            raise wrong("type", f"this is a history of {loaded.entity}, not of a {type_name[:80]}")
        runs, is_whole = await self._beside_the_loop(loaded)
        return {
            "type": loaded.entity.type,
            "key": loaded.entity.key,
            "runs": list(map(_told, runs)),
            "verdicts": Counter(str(one.verdict) for one in runs),
            "is_whole": is_whole,
        }

    async def _beside_the_loop(self, loaded: Loaded) -> tuple[list[Replayed], bool]:
        """What was found in time, and whether that is all."""
        if self._is_busy:
            raise Busy(
                f"{loaded.entity}: this gateway is replaying another history; nothing was looked at, try again later"
            )
        self._is_busy = True
        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        found: list[Replayed] = []
        is_given_up = threading.Event()

        def work() -> None:
            try:
                for one in replay_runs(self._registry, loaded):
                    found.append(one)
                    if is_given_up.is_set():
                        break
            finally:
                self._is_busy = False
                with contextlib.suppress(RuntimeError):  # the gateway has ended meanwhile
                    loop.call_soon_threadsafe(done.set)

        # Not the loop's own executor: a process waits for its threads when it ends. No variables of the request: code
        # of a workflow must not see who asks.
        threading.Thread(target=Context().run, args=(work,), name="perdure replay", daemon=True).start()
        try:
            async with asyncio.timeout(REPLAY_S_MAX):
                await done.wait()
        except TimeoutError:
            return list(found), False
        finally:
            is_given_up.set()
        return found, True


def _told(one: Replayed) -> dict[str, Any]:
    return {
        "workflow": one.workflow,
        "run_id": one.run_id,
        "status": one.status,
        "verdict": str(one.verdict),
        "entries": one.entries,
        "reason": one.reason[:REASON_CHARS_MAX],
        "recorded": one.recorded[:REASON_CHARS_MAX],
        "expected": one.expected[:REASON_CHARS_MAX],
    }
