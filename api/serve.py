"""Serving an application in this process's event loop: binding, access, and an end without signals of its own."""

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import AsyncGenerator, Generator
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..cluster.loopback import is_loopback
from ..entities.errors import StartRefused
from .access import Guard
from .console.beside import Console
from .draining import DRAINING, closing
from .limits import HEADER_BYTES_MAX, Limits
from .protocol import BoundedHeadProtocol
from .settings import Settings
from .streams import ENDING

logger = logging.getLogger(__name__)

END_S = 5.0
"""How long open responses (streams of events, slow callers) may go on after the end has been asked for."""
PASSES, PASS_S = 5, 0.02
"""So often the event loop looks for requests that have come before the listener is closed."""
KEEP_ALIVE_S = 75
"""How long a connection may idle. Longer than balancers keep theirs (60 s is common), so that it is they who close: a
request that meets our closing of its connection fails."""


class AddressRefused(StartRefused):
    """The gateway cannot listen there: the port is taken, or the address is not this machine's."""

    code = "address_refused"


class InsecureBind(StartRefused):
    """Others could reach the gateway, and nothing would keep them out."""

    code = "insecure_bind"


def check_binding(settings: Settings, *, is_locked: bool = False) -> None:
    """Raise InsecureBind for an address beyond this machine without credentials. is_locked: something else asks."""
    if is_loopback(settings.host) or settings.has_credentials or settings.insecure_bind or is_locked:
        return
    raise InsecureBind(
        f"the address {settings.host} can be reached by others and no API key is set. Set PERDURE_API_KEYS, use "
        "--host 127.0.0.1, or say --insecure-bind if something in front authenticates"
    )


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises AddressRefused."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise AddressRefused(f"there is no address {host!r}: {error.strerror or error}") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2_048)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            message = f"port {port} of {host} is taken by another program. Choose another one with --port, or 0 for any"
        elif error.errno == errno.EACCES:
            message = f"port {port} needs privileges that this account does not have. Choose one above 1023"
        else:
            message = f"cannot listen on {host} port {port}: {error.strerror}"
        raise AddressRefused(message) from None
    return listener


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: whoever serves decides when it ends."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.is_up.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # A pass of a busy loop may take a second: connections of that time wait in the kernel, or are accepted and not
        # read yet. Closed now they would be reset with the requests in them.
        for _ in range(PASSES):
            await asyncio.sleep(PASS_S)
        await super().shutdown(sockets=sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


class _Startup:
    """Remembers why the application's own start-up failed (uvicorn would only log it), and tells of the end: at once
    whoever is in front (draining.py), then streams.
    """

    def __init__(self, app: ASGIApp, draining: asyncio.Event) -> None:
        self.app = app
        self.draining = draining
        self.error: BaseException | None = None
        self.ending = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            scope.setdefault("perdure", {}).update({ENDING: self.ending, DRAINING: self.draining})
            await self.app(scope, receive, closing(send, self.draining))
            return

        async def quiet(message: Message) -> None:
            if message["type"] == "lifespan.shutdown.failed":
                logger.error("the application's shutdown failed:\n%s", message.get("message", ""))
            await send({"type": message["type"]})

        try:
            await self.app(scope, receive, quiet)
        except BaseException as error:
            self.error = error
            raise


@contextlib.asynccontextmanager
async def serving(
    app: Any, settings: Settings, *, listener: socket.socket | None = None, draining: asyncio.Event | None = None
) -> AsyncGenerator[str]:
    """Serve `app` for the time of the block; gives its URL. The listener is closed at the end.

    draining: set it some time before the end of the block, and whoever is in front can leave in order (draining.py).
    At the end: no new connections, open responses finish (5 s at most), the application's lifespan ends. Raises
    InsecureBind, AddressRefused, and whatever the application's start-up raises.
    """
    state = getattr(app.app if isinstance(app, Console) else app, "state", None)
    check_binding(settings, is_locked=bool(getattr(state, "has_authenticator", False)))
    listener = listener or bind(settings.host, settings.port)
    startup = _Startup(guarded(app, settings), draining or asyncio.Event())
    server = _Server(configuration(startup))
    task = asyncio.create_task(_serve(server, listener))
    try:
        up = asyncio.create_task(server.is_up.wait())
        await asyncio.wait({up, task}, return_when=asyncio.FIRST_COMPLETED)
        up.cancel()
        if task.done():
            await task
            raise startup.error or StartRefused("the application did not start")
        yield _url(settings.host, listener)
    finally:
        startup.draining.set()
        startup.ending.set()
        server.should_exit = True
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(task)
        listener.close()


def configuration(app: ASGIApp) -> uvicorn.Config:
    """How uvicorn serves an application here."""
    return uvicorn.Config(
        app,
        http=BoundedHeadProtocol,  # httptools, which uvicorn prefers where it is installed, bounds no headers
        h11_max_incomplete_event_size=HEADER_BYTES_MAX,
        lifespan="on",
        access_log=False,
        log_level="error",
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=round(END_S),
    )


def guarded(app: Any, settings: Settings) -> Any:
    """The application behind limits and access control, which one made by `create_app` has already.

    A guard that an application has added itself is kept as the only one: it knows the open paths and the authenticator,
    which a second one around it would not.
    """
    if isinstance(app, Console):  # it guards what is its own
        app.app = guarded(app.app, settings)
        return app
    is_guarded = bool(getattr(getattr(app, "state", None), "is_guarded", False))
    if is_guarded:
        return app
    return Limits(app if _has_guard(app) else Guard(app, settings), settings)


def _has_guard(app: Any) -> bool:
    """Whether a Guard is among the middleware of a FastAPI or Starlette application."""
    added = (one.cls for one in getattr(app, "user_middleware", ()))
    return any(isinstance(one, type) and issubclass(one, Guard) for one in added)


async def _serve(server: _Server, listener: socket.socket) -> None:
    try:
        await server.serve(sockets=[listener])
    except SystemExit:  # what uvicorn does if the application's start-up fails
        return


def _url(host: str, listener: socket.socket) -> str:
    port = listener.getsockname()[1]
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}"


async def serve(app: Any, settings: Settings | None = None) -> None:
    """Serve `app` until this task is cancelled. Refuses any address but loopback without API keys."""
    async with serving(app, settings or Settings()):
        await asyncio.Event().wait()
