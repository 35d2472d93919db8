"""What one gateway process takes upon itself: so many bytes of headers, so many requests at a time.

Both are refused before anything else is looked at, and definitely: a request that is refused here reached no entity
(promise P1: unknown outcomes are never told as failures, and failures are none that may have been applied). Health
checks are exempt from the second one: a gateway that has enough to do is alive.
"""

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from .access import OPEN_PATHS
from .problems import RETRY_AFTER_S, Refused, problem
from .settings import Settings

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
        for name, value in scope["headers"]:
            size += len(name) + len(value)
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
