"""Counting the requests of a gateway, by route, method and status: integers, made into text when somebody asks.

The label `route` is the template (`/entities/{type}/{key}/{member}`), never the path: callers invent paths.
"""

import re
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..entities.metrics import HTTP_REQUESTS, HTTP_SECONDS, HTTP_UNDER_WAY, OTHER, Histogram, Reading

_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
_CONVERTOR = re.compile(r":\w+}")


class RequestMeter:
    """What one gateway process has counted."""

    def __init__(self) -> None:
        self.under_way = 0
        self._requests: dict[tuple[str, str, int], int] = {}
        self._seconds: dict[str, Histogram] = {}

    def count(self, route: str, method: str, status: int, seconds: float) -> None:
        """One request has been answered."""
        key = (route, method if method in _METHODS else OTHER, status)
        self._requests[key] = self._requests.get(key, 0) + 1
        times = self._seconds.get(route)
        if times is None:
            times = self._seconds[route] = Histogram(HTTP_SECONDS.bounds)
        times.observe(seconds)

    def reading(self) -> Reading:
        """Where it stands."""
        reading = Reading(spreads=[times.spread(HTTP_SECONDS, route) for route, times in self._seconds.items()])
        for (route, method, status), count in self._requests.items():
            reading.add(HTTP_REQUESTS, count, route, method, str(status))
        reading.add(HTTP_UNDER_WAY, self.under_way)
        return reading


class Metered:
    """ASGI middleware around a whole application. Counts what is refused as well, so it stands outside of that."""

    def __init__(self, app: ASGIApp, meter: RequestMeter) -> None:
        self.app = app
        self._meter = meter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        meter = self._meter
        status = 500  # of a response that never began
        began = time.perf_counter()

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        meter.under_way += 1
        try:
            await self.app(scope, receive, sent)
        finally:
            meter.under_way -= 1
            meter.count(_template(scope), scope["method"], status, time.perf_counter() - began)


def _template(scope: Scope) -> str:
    route: Any = scope.get("route")
    path = getattr(route, "path", OTHER)
    return _CONVERTOR.sub("}", path) if ":" in path else path
