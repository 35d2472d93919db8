"""Who may use a gateway: callers with an API key, or (without keys) programs on this machine and nobody else.

Without keys three things are checked, because a browser on this machine can be made to send requests for a foreign
page: the address we were reached at is a loopback address; the `Host` is a loopback name, so that a foreign name that
is made to point here does not work (DNS rebinding); an `Origin`, if there is one, is a loopback origin (cross-site
requests).
"""

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import urlsplit

from fastapi import Request
from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from .problems import Refused, problem
from .settings import Settings

OPEN_PATHS = frozenset({"/livez", "/readyz"})
"""Reachable without a key; they name nothing."""
_HASHED = "sha256:"
_BEARER = "bearer "


class ApiKeys:
    """A few static keys. Only their hashes are kept; comparing takes the same time whatever is presented."""

    def __init__(self, keys: Iterable[SecretStr]) -> None:
        """Keys as text, or as `sha256:<hex>`. Raises ValueError for a hash that is none."""
        self._digests: list[bytes] = []
        for key in keys:
            text = key.get_secret_value()
            if text.startswith(_HASHED):
                digest = bytes.fromhex(text.removeprefix(_HASHED))
                if len(digest) != hashlib.sha256().digest_size:
                    raise ValueError("an API key written as sha256:… has 64 hexadecimal digits")
                self._digests.append(digest)
            else:
                self._digests.append(hashlib.sha256(text.encode()).digest())

    def __bool__(self) -> bool:
        return bool(self._digests)

    def accept(self, authorization: str) -> bool:
        """Whether the header `Authorization` carries one of the keys."""
        if authorization[: len(_BEARER)].lower() != _BEARER:
            return False
        digest = hashlib.sha256(authorization[len(_BEARER) :].strip().encode()).digest()
        matches = [hmac.compare_digest(digest, known) for known in self._digests]  # all of them, always
        return any(matches)


class Guard:
    """ASGI middleware around a whole application. The outermost: what it refuses costs next to nothing."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self._keys = ApiKeys(settings.api_keys)
        self._is_open = settings.insecure_bind
        self._hosts = frozenset(host.lower() for host in settings.allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = self._refuse(scope) if scope["type"] in ("http", "websocket") else None
        if refused is None:
            scope.setdefault("perdure", {})["is_trusted"] = scope["type"] == "lifespan" or self._is_trusted(scope)
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await problem(refused, Request(scope))(scope, receive, send)
        else:
            await WebSocketClose(code=1008, reason=refused.code)(scope, receive, send)

    def _is_trusted(self, scope: Scope) -> bool:
        return not self._keys or self._keys.accept(Headers(scope=scope).get("authorization", ""))

    def _refuse(self, scope: Scope) -> Refused | None:
        if self._keys:
            if scope["path"] in OPEN_PATHS or self._is_trusted(scope):
                return None
            return Refused(
                401,
                "unauthorized",
                "a valid API key is missing: send `Authorization: Bearer <key>`",
                headers={"WWW-Authenticate": 'Bearer realm="perdure"'},
            )
        if self._is_open:
            return None
        return self._refuse_foreign(scope)

    def _refuse_foreign(self, scope: Scope) -> Refused | None:
        headers = Headers(scope=scope)
        server = scope.get("server")
        if server is not None and server[1] is not None and not self._is_known(server[0]):
            what = f"it was reached at {server[0]}, which is not a loopback address"
        elif len(hosts := headers.getlist("host")) != 1 or not self._is_known(_host_name(hosts[0])):
            what = f"the host {', '.join(hosts)[:80]!r} is not a name of this machine's loopback address"
        elif (origin := headers.get("origin")) is not None and not self._is_known(_origin_name(origin)):
            what = f"the request comes from a page of {origin[:80]!r}"
        else:
            return None
        return Refused(
            403,
            "forbidden_host",
            f"a gateway without API keys answers only callers on the same machine; {what}. Set PERDURE_API_KEYS, or "
            "name the host in PERDURE_ALLOWED_HOSTS",
        )

    def _is_known(self, name: str) -> bool:
        return is_loopback(name) or name.lower() in self._hosts


@lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Whether a host name or address can only mean this machine."""
    name = host.lower().strip("[]")
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


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
