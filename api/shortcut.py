"""ASGI middleware: calls of entities, without the layers that an application has around its routes.

A framework looks for the route, keeps exceptions and opened files for it, and wraps it more than once; for a call,
which is most of what a gateway does, that is a good part of its time. Here the path is taken apart and the call is
made. The routes are the same ones, and as first as ever (routes.direct_routes); whatever is not plain is left to them:
an encoded slash, an application below another one, one that is traced by its framework. So are exceptions that are not
ours left to the application's handlers.
"""

from collections.abc import Awaitable, Callable

from fastapi import Request, Response
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

Endpoint = Callable[[Request], Awaitable[Response]]


class Shortcut:
    """The innermost of an application's middlewares: who is let in was decided, and the limits were kept."""

    def __init__(self, app: ASGIApp, member: Route, action: Route) -> None:
        """The routes `/entities/{type}/{key}/{member}` and `…/{member}/{action}`, which have the same endpoint."""
        self.app = app
        self._member = member
        self._action = action
        self._endpoint: Endpoint = member.endpoint
        self._methods = frozenset(member.methods or ())
        self._prefix = member.path.partition("{")[0]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._take(scope):
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive, send)
        try:
            response = await self._endpoint(request)
        except Exception as error:  # noqa: BLE001 - whatever it is, the application's handlers decide
            await _raise(error, scope, receive, send)
            return
        await response(scope, receive, send)

    def _take(self, scope: Scope) -> bool:
        """Whether it is a plain call; notes its parameters, as a route does."""
        if scope["type"] != "http" or not scope["path"].startswith(self._prefix):
            return False
        raw: bytes = scope.get("raw_path") or b""
        if b"%2F" in raw or b"%2f" in raw or scope.get("root_path") or "fastapi.telemetry" in scope:
            return False
        type_name, *rest = scope["path"][len(self._prefix) :].split("/")
        if len(rest) not in (2, 3) or not type_name or not all(rest[1:]) or scope["method"] not in self._methods:
            return False
        parameters = {"type": type_name, "key": rest[0], "member": rest[1]}
        route = self._member
        if len(rest) == 3:
            if rest[1] == "-":  # what the gateway itself knows of an entity
                return False
            parameters["action"] = rest[2]
            route = self._action
        scope["route"] = route
        scope["path_params"] = {**scope.get("path_params", {}), **parameters}
        scope["endpoint"] = self._endpoint
        return True


async def _raise(error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
    """Raise it where the application's handlers see it, as if a route had."""

    async def fail(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise error

    handlers = {kind: one for kind, one in scope["app"].exception_handlers.items() if kind not in (500, Exception)}
    await ExceptionMiddleware(fail, handlers=handlers)(scope, receive, send)
