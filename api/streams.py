"""Entities as streams of server-sent events: `GET …/{type}/{key}/-/events`.

Every event is an `EntityChange` under the name `change`; its id is the version up to which everything has been told, so
a browser that reconnects with `Last-Event-ID` gets what has happened meanwhile (as far as it is retained), and the
present state in any case. A stream is a reader like any other: it sees committed facts only (promise P8).

What a stream may cost is bounded: so many at a time, each reads one row a second, and each ends after a while so that
whoever reads it has to show its credential again; the connection of a reader that does not read is ended then. Streams
end at once when the server is asked to end; the reader reconnects elsewhere and goes on where it was.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from ..entities.archive import ambient_archive
from ..entities.errors import PerdureError
from ..entities.ids import EntityId
from ..entities.watching import EntityChange, watch
from .problems import RETRY_AFTER_S, Refused
from .protocol import ABORT
from .settings import Settings

ENDING = "ending"
"""Under which the server (serve.py) leaves in `scope["perdure"]` an event that is set when it is asked to end."""
HEARTBEAT_S = 15.0
"""Proxies close what is silent for longer."""
STREAM_S_MAX = 900.0
LAST_EVENT_ID = "last-event-id"
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_ID_DIGITS_MAX = 18

logger = logging.getLogger(__name__)


class Streams:
    """The open streams of one gateway process."""

    def __init__(self, settings: Settings) -> None:
        self._max = settings.streams_max
        self.open = 0

    async def begin(self, request: Request, entity: EntityId) -> "EventStream":
        """The response. Raises Refused (too many streams, an id that is none), StoreUnavailable, NotConnected."""
        after = _last_event_id(request)
        if self.open >= self._max:
            raise Refused(
                429,
                "too_many_requests",
                f"this gateway has {self.open} streams of events open, which is its limit; try again later",
                headers={"Retry-After": str(RETRY_AFTER_S)},
                limit=self._max,
                retry_after=RETRY_AFTER_S,
            )
        self.open += 1
        try:
            archive = ambient_archive()
            if after is not None:
                snapshot = await archive.snapshot(entity)
                present = 0 if snapshot is None else snapshot.version
                if after > present:
                    raise Refused(
                        400,
                        "bad_cursor",
                        f"{entity} is at version {present}; there is no event {after} to go on from. Begin anew, "
                        "without `Last-Event-ID`",
                    )
            changes = watch(entity, after=after, archive=archive)
            first = await anext(changes)
        except BaseException:
            self.open -= 1
            raise
        ending: asyncio.Event = request.scope.get("perdure", {}).get(ENDING) or asyncio.Event()
        return EventStream(self, _Stream(entity, first, changes, ending))


class EventStream(StreamingResponse):
    """A response that gives its place back, however it ends."""

    def __init__(self, streams: Streams, stream: "_Stream") -> None:
        super().__init__(stream.lines(), headers=_HEADERS, media_type="text/event-stream")
        self._streams = streams
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit = asyncio.timeout(STREAM_S_MAX + HEARTBEAT_S)  # it ends before, unless its reader does not read
        try:
            async with limit:
                await super().__call__(scope, receive, send)
        except TimeoutError:
            abort = scope.get("perdure", {}).get(ABORT)
            if abort is None or not limit.expired():  # another server: it closes a response that fails
                raise
            abort()
            await asyncio.sleep(0)  # the server takes note that it is gone, and does not miss the rest
        finally:
            self._streams.open -= 1
            await self._stream.close()  # here: where the response was cancelled nothing can be awaited any more


class _Stream:
    """One entity, followed for one reader."""

    def __init__(
        self, entity: EntityId, first: EntityChange, changes: AsyncGenerator[EntityChange], ending: asyncio.Event
    ) -> None:
        self._entity = entity
        self._first = first
        self._changes = changes
        self._ending = ending
        self._next: asyncio.Future[EntityChange] | None = None

    async def lines(self) -> AsyncGenerator[bytes]:
        """The body of the response."""
        now = asyncio.get_running_loop().time
        end_at = now() + STREAM_S_MAX
        ending = asyncio.ensure_future(self._ending.wait())
        try:
            yield f"retry: {RETRY_AFTER_S * 1_000}\n\n".encode() + event_of(self._first)
            while not ending.done() and now() < end_at:
                wait_s = min(HEARTBEAT_S, max(0.0, end_at - now()))
                self._next = self._next or asyncio.ensure_future(anext(self._changes))
                either: set[asyncio.Future[Any]] = {ending, self._next}
                await asyncio.wait(either, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
                if self._next.done():
                    change, self._next = self._next.result(), None
                    yield event_of(change)
                else:
                    yield b": \n\n"
        except PerdureError as error:  # the reader comes back, and is told then if it lasts
            logger.warning("the stream of %s has ended: %s", self._entity, error)
        finally:
            ending.cancel()

    async def close(self) -> None:
        """Look no more. Idempotent."""
        looking, self._next = self._next, None
        if looking is not None:
            looking.cancel()
            with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration, PerdureError):
                await looking
        await self._changes.aclose()


def event_of(change: EntityChange) -> bytes:
    """As a server-sent event. JSON holds no line breaks, so one line of data is all of it."""
    return b"id: %d\nevent: change\ndata: %b\n\n" % (change.version, msgspec.json.encode(change))


def _last_event_id(request: Request) -> int | None:
    given: Any = request.headers.get(LAST_EVENT_ID) or request.query_params.get("after")
    if given is None:
        return None
    if not given.isascii() or not given.isdecimal() or len(given) > _ID_DIGITS_MAX:
        raise Refused(400, "bad_cursor", f"`Last-Event-ID` is the id of an event of this stream, not {given[:40]!r}")
    return int(given)
