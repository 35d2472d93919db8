"""The console beside an application of the user's own, which need not have the gateway's routes.

`app = Console(app, entities=[Order, Customer])`: everything below `/console` is answered by a gateway of its own (with
the settings' credentials, whatever the application does), the rest by the application. `perdure dev` does this with
applications that do not serve the console themselves.
"""

from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from ...entities.definition import Registry
from ...entities.entity import Entity
from ..access import Authenticator
from ..authorise import Authoriser
from ..gateway import create_app
from ..settings import Settings
from .pages import CONSOLE


class Console:
    """ASGI middleware, the outermost. Uses the client that the application's lifespan has opened."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        entities: Registry | Iterable[type[Entity]],
        settings: Settings | None = None,
        authenticator: Authenticator | None = None,
        authoriser: Authoriser | None = None,
    ) -> None:
        self.app = app
        self._gateway = create_app(
            entities, settings=settings, authenticator=authenticator, authoriser=authoriser, console=True
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_ours = scope["type"] == "http" and (scope["path"] == CONSOLE or scope["path"].startswith(CONSOLE + "/"))
        if not is_ours:
            await self.app(scope, receive, send)
            return
        # The gateway is an application of its own: what the other one has left in the scope is not its.
        own = {name: value for name, value in scope.items() if name not in ("app", "router", "endpoint", "path_params")}
        await self._gateway(own, receive, send)
