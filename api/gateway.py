"""A ready gateway: every entity class over HTTP, with OpenAPI, problems, health and access control."""

import importlib.metadata
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse

from ..entities.definition import Registry
from ..entities.entity import Entity
from .access import OPEN_PATHS, Authenticator, Guard, paths_of
from .activities import activity_router
from .archive import archive_routes
from .authorise import Authoriser
from .connection import Connect, lifespan
from .console.pages import PATHS as CONSOLE_PATHS
from .console.pages import ApiBelow, console_routes
from .explain import error_page, errors_html
from .health import health_router
from .hosts import host_routes
from .limits import Limits
from .metered import Metered, RequestMeter
from .metrics import metrics_routes
from .openapi_security import declare_security
from .overview import overview_routes
from .problems import DOCS, install
from .replay import replay_routes
from .routes import ENTITIES, direct_routes, gateway_router
from .settings import Settings
from .shortcut import Shortcut
from .worklist import worklist_routes

_DESCRIPTION = """Durable entities. Keys are percent-encoded path segments (`/` as `%2F`). Errors are problems \
(RFC 9457); [their codes](/docs/errors). Send an `Idempotency-Key` with whatever you might have to repeat."""


def create_app(
    entities: Registry | Iterable[type[Entity]],
    *,
    dsn: str | None = None,
    namespace: str | None = None,
    settings: Settings | None = None,
    title: str = "Perdure",
    inner: Callable[[Any], AbstractAsyncContextManager[Any]] | None = None,
    authenticator: Authenticator | None = None,
    authoriser: Authoriser | None = None,
    console: bool | None = None,
    open_paths: Collection[str] = (),
    connect: Connect | None = None,
) -> FastAPI:
    """A FastAPI application that serves these classes below `/entities`, except for their private members.

    Without credentials (`PERDURE_API_KEYS`, `PERDURE_CLIENTS`, `PERDURE_JWT`, an authenticator) it answers loopback
    callers only, however it is served. authenticator: who sent a request, if you know; authoriser: whether it may do
    what it asks (both: docs/security.md). console: whether the pages are served at `/console/` (default: the setting).
    open_paths: of routes that you add and that check themselves who calls (webhooks): no credential is asked there.
    inner, connect: see `lifespan`. Raises TypeError if open_paths is a str.
    """
    opened = OPEN_PATHS | paths_of(open_paths)
    chosen = settings or Settings()
    if namespace is not None:
        chosen = chosen.model_copy(update={"namespace": namespace})
    registry = entities if isinstance(entities, Registry) else Registry(entities)
    app = FastAPI(
        title=title,
        version=_version(),
        description=_DESCRIPTION,
        lifespan=lifespan(registry, dsn=dsn, namespace=namespace, settings=chosen, inner=inner, connect=connect),
        docs_url="/docs" if chosen.docs else None,
        redoc_url=None,
        openapi_url="/openapi.json" if chosen.docs else None,
        redirect_slashes=False,
    )
    install(app, show_errors=chosen.show_errors, every_error=True)
    app.router.routes[:0] = archive_routes(registry, prefix=ENTITIES, settings=chosen)
    app.router.routes[:0] = [
        *overview_routes(registry, settings=chosen),
        *host_routes(chosen),
        *worklist_routes(chosen),
        *replay_routes(registry, settings=chosen),
    ]
    member, action = direct = direct_routes(registry, prefix=ENTITIES, settings=chosen)
    app.router.routes[:0] = direct
    app.include_router(health_router())
    meter = RequestMeter()
    app.router.routes += metrics_routes(chosen, meter)
    app.include_router(gateway_router(registry, prefix=ENTITIES, settings=chosen))
    app.include_router(activity_router(settings=chosen))
    app.add_api_route(DOCS, _errors, methods=["GET"], include_in_schema=False)
    with_console = chosen.console if console is None else console
    if with_console:
        app.router.routes += console_routes()  # last: whatever stands before the members' routes slows each request
    app.add_middleware(Shortcut, member=member, action=action)
    app.add_middleware(
        Guard,
        settings=chosen,
        authenticator=authenticator,
        authoriser=authoriser,
        open_paths=opened.union(CONSOLE_PATHS if with_console else ()),
    )
    if chosen.has_credentials or authenticator is not None:
        declare_security(app, open_paths=opened)
    app.add_middleware(Limits, settings=chosen)  # the outermost of those that refuse: it is the cheapest
    app.add_middleware(Metered, meter=meter)  # counts those that are refused, too
    if with_console:
        app.add_middleware(ApiBelow)
    app.state.is_guarded = True
    app.state.has_authenticator = authenticator is not None
    return app


def _version() -> str:
    try:
        return importlib.metadata.version("perdure")
    except importlib.metadata.PackageNotFoundError:  # a checkout that is on the path without being installed
        return "0"


async def _errors(request: Request) -> Response:
    headers = {"Vary": "Accept"}
    if "text/html" in request.headers.get("accept", ""):
        policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
        return HTMLResponse(errors_html(), headers=headers | {"Content-Security-Policy": policy})
    return JSONResponse(error_page(), headers=headers)
