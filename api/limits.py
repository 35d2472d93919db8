"""What one gateway process takes upon itself: so many bytes of headers, so many requests at a time, no body of two
lengths (request smuggling: h11 lets Transfer-Encoding win, something in front may not).

All are refused before anything else is looked at, and definitely: a request that is refused here reached no entity
(promise P1: unknown outcomes are never told as failures, and failures are none that may have been applied). Health
checks are exempt from the limit of requests: a gateway that has enough to do is alive.
"""

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from .access import OPEN_PATHS
from .problems import RETRY_AFTER_S, Refused, problem
from .settings import Settings

_LENGTHS = frozenset((b"content-length", b"transfer-encoding"))
HEADER_BYTES_MAX = 32 * 1024
"""Of the path, the query string and all headers together."""


class Limits:
    """ASGI middleware around a whole application."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self._requests_max = settings.requests_max
        self.under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refused = self._refuse(scope)
        if refused is not None:
            await problem(refused, Request(scope))(scope, receive, send)
            return
        self.under_way += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.under_way -= 1

    def _refuse(self, scope: Scope) -> Refused | None:
        size = len(scope.get("raw_path") or b"") + len(scope["query_string"])
        lengths = 0
        for name, value in scope["headers"]:
            size += len(name) + len(value)
            if name in _LENGTHS:
                lengths += 1
        if lengths > 1:
            return Refused(
                400,
                "bad_request",
                "the length of the body is told in two ways (Content-Length and Transfer-Encoding); programs on the "
                "way disagree on which one counts",
                headers={"Connection": "close"},
            )
        if size > HEADER_BYTES_MAX:
            return Refused(
                431,
                "headers_too_large",
                f"path and headers are {size} bytes; the limit is {HEADER_BYTES_MAX}",
                headers={"Connection": "close"},
                limit=HEADER_BYTES_MAX,
                got=size,
            )
        if self.under_way >= self._requests_max and scope["path"] not in OPEN_PATHS:
            return Refused(
                429,
                "too_many_requests",
                f"this gateway has {self.under_way} requests under way, which is its limit; nothing was accepted, try "
                "again",
                headers={"Retry-After": str(RETRY_AFTER_S)},
                limit=self._requests_max,
                retry_after=RETRY_AFTER_S,
            )
        return None
