"""The files of the console as routes, and the API under `/console/api`.

Files are read once, when the application is made. They are revalidated by their digest (`ETag`), so that a new release
of the gateway is never mixed with old files in a browser's cache. The policy allows scripts and styles from these files
only: a state or key that holds markup cannot run, whatever a page does with it.
"""

import hashlib
import mimetypes
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

CONSOLE = "/console"
API = "/console/api"
_RAW_API = API.encode()
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class _Page(NamedTuple):
    body: bytes
    media_type: str
    etag: str


def _read() -> dict[str, _Page]:
    """All files, by path."""
    pages: dict[str, _Page] = {}
    for file in sorted((Path(__file__).parent / "static").iterdir()):
        body = file.read_bytes()
        kind = "text/javascript" if file.suffix == ".js" else mimetypes.guess_type(file.name)[0]
        etag = f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
        name = "" if file.name == "index.html" else file.name
        pages[f"{CONSOLE}/{name}"] = _Page(body, kind or "application/octet-stream", etag)
    return pages


_PAGES = _read()
PATHS = frozenset({CONSOLE, *_PAGES})
"""Of the files. They open without a credential: a browser has none before the page has asked for it."""


def console_routes() -> list[BaseRoute]:
    """One route for each file, and one from `/console` to `/console/`."""
    routes: list[BaseRoute] = [Route(CONSOLE, _to_the_page, methods=["GET"], include_in_schema=False)]
    routes += [Route(path, _serve(page), methods=["GET"], include_in_schema=False) for path, page in _PAGES.items()]
    return routes


def _serve(page: _Page) -> Callable[[Request], Awaitable[Response]]:
    headers = _HEADERS | {"ETag": page.etag}

    async def serve(request: Request) -> Response:
        known = request.headers.get("if-none-match", "")
        if page.etag in known:
            return Response(status_code=304, headers=headers)
        return Response(page.body, headers=headers, media_type=page.media_type)

    return serve


async def _to_the_page(_: Request) -> Response:
    return RedirectResponse("console/", headers=_HEADERS)  # relative: also right behind a proxy that adds a prefix


class ApiBelow:
    """ASGI middleware: a request to `/console/api/X` is one to `/X`.

    So the pages find the API beside themselves: in `create_app`, behind a proxy's prefix, and beside an application
    that has other things at `/entities`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(API + "/"):
            raw: bytes = scope.get("raw_path") or scope["path"].encode()
            if raw.startswith(_RAW_API + b"/"):
                scope = {**scope, "path": scope["path"][len(API) :], "raw_path": raw[len(_RAW_API) :]}
        await self.app(scope, receive, send)
