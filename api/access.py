"""Who may use a gateway: whoever shows a credential, or (where none are configured) programs on this machine only.

A credential is an API key or a JSON Web Token, sent as `Authorization: Bearer …`, or whatever an authenticator of the
application's own accepts. What its principal may then do is another question: see authorise.py.

Without credentials three things are checked, because a browser on this machine can be made to send requests for a
foreign page: the address we were reached at is a loopback address; the `Host` is a loopback name, so that a foreign
name that is made to point here does not work (DNS rebinding); an `Origin`, if there is one, is a loopback origin
(cross-site requests).
"""

from collections.abc import Awaitable, Callable, Collection
from urllib.parse import urlsplit

from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from ..cluster.loopback import is_loopback
from .api_keys import ApiKeys
from .authorise import IS_TRUSTED, PERMIT, Authoriser, Permit
from .jwt_tokens import JwtVerifier
from .principal import LOCAL, Principal
from .problems import Refused, problem
from .settings import Settings

OPEN_PATHS = frozenset({"/livez", "/readyz"})
"""Reachable without a credential; they name nothing."""
_BEARER = "bearer "

Authenticator = Callable[[Request], Awaitable[Principal | None]]
"""Who sent this request; None: look at the API keys and tokens. It must not read the body. Raises Refused."""


class Guard:
    """ASGI middleware around a whole application. The outermost: what it refuses costs next to nothing."""

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        *,
        authenticator: Authenticator | None = None,
        authoriser: Authoriser | None = None,
        jwt: JwtVerifier | None = None,
        open_paths: Collection[str] = OPEN_PATHS,
    ) -> None:
        """open_paths: reachable without a credential, where there are credentials. Raises TypeError if it is a str."""
        self.app = app
        self._open_paths = paths_of(open_paths)
        self._keys = ApiKeys.of(settings.api_keys, settings.clients, settings.roles)
        self._jwt = jwt or (JwtVerifier(settings.jwt, settings.roles) if settings.jwt is not None else None)
        self._authenticator = authenticator
        self._authoriser = authoriser
        self._namespace = settings.namespace
        self._is_open = settings.insecure_bind
        self._is_locked = settings.has_credentials or authenticator is not None
        self._hosts = frozenset(host.lower() for host in settings.allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        try:
            principal = await self._admit(scope)
        except Refused as refused:
            if scope["type"] == "http":
                await problem(refused, Request(scope))(scope, receive, send)
            else:
                await WebSocketClose(code=1008, reason=refused.code)(scope, receive, send)
            return
        state = scope.setdefault("perdure", {})
        state[IS_TRUSTED] = principal is not None
        state.pop(PERMIT, None)  # of a guard around this one, which knows less
        if principal is not None:
            state[PERMIT] = Permit(principal=principal, namespace=self._namespace, authoriser=self._authoriser)
        await self.app(scope, receive, send)

    async def _admit(self, scope: Scope) -> Principal | None:
        """Who calls; None for what anybody may see. Raises Refused."""
        if not self._is_locked:
            if not self._is_open:
                self._refuse_foreign(scope)
            return LOCAL
        try:
            return await self._principal(scope)
        except Refused:
            if scope["path"] in self._open_paths:
                return None
            raise

    async def _principal(self, scope: Scope) -> Principal:
        principal = None
        if self._authenticator is not None and scope["type"] == "http":
            principal = await self._authenticator(Request(scope))
        presented = Headers(scope=scope).get("authorization", "")
        if principal is None and presented[: len(_BEARER)].lower() == _BEARER:
            token = presented[len(_BEARER) :].strip()
            principal = self._keys.owner(token)
            if principal is None and self._jwt is not None:
                principal = await self._jwt.principal(token)
        if principal is None:
            raise Refused(
                401,
                "unauthorized",
                "a valid credential is missing: send `Authorization: Bearer <API key or token>`",
                headers={"WWW-Authenticate": 'Bearer realm="perdure"'},
            )
        if principal.namespace not in ("", self._namespace):
            raise Refused(403, "forbidden", "this credential is for another namespace")
        return principal

    def _refuse_foreign(self, scope: Scope) -> None:
        hosts = [str(value, "latin-1") for name, value in scope["headers"] if name == b"host"]
        origin = next((str(value, "latin-1") for name, value in scope["headers"] if name == b"origin"), None)
        server = scope.get("server")
        if server is not None and server[1] is not None and not self._is_known(server[0]):
            what = f"it was reached at {server[0]}, which is not a loopback address"
        elif len(hosts) != 1 or not self._is_known(_host_name(hosts[0])):
            what = f"the host {', '.join(hosts)[:80]!r} is not a name of this machine's loopback address"
        elif origin is not None and not self._is_known(_origin_name(origin)):
            what = f"the request comes from a page of {origin[:80]!r}"
        else:
            return
        raise Refused(
            403,
            "forbidden_host",
            f"a gateway without credentials answers only callers on the same machine; {what}. Set PERDURE_API_KEYS, or "
            "name the host in PERDURE_ALLOWED_HOSTS",
        )

    def _is_known(self, name: str) -> bool:
        return is_loopback(name) or name.lower() in self._hosts


def paths_of(open_paths: Collection[str]) -> frozenset[str]:
    """The paths. Raises TypeError for a str, which is a collection of its letters."""
    if isinstance(open_paths, str):
        raise TypeError(f"open_paths is a collection of paths, not one: write open_paths=[{open_paths!r}]")
    return frozenset(open_paths)


def _host_name(header: str) -> str:
    """The name in a `Host` header, without the port."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


def _origin_name(origin: str) -> str:
    try:
        return urlsplit(origin).hostname or ""
    except ValueError:
        return ""
