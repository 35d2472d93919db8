"""JSON Web Tokens of an identity provider (OIDC): whose they are, or why they are refused.

Checked, always: the signature by a key of the issuer, the algorithm by a list of ours (never the token's word, never a
shared secret), issuer, audience, expiry, and that there is a subject. Keys are those of the configured URL or static
ones. A key that is not known is looked for at the URL, at most every half minute, whatever callers present; keys that
are there stay good while the URL does not answer.
"""

import asyncio
import json
import logging
import time
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

import jwt

from .jwt_settings import Jwk, JwtSettings, read_keys
from .principal import FROM_JWT, Principal, grants_of
from .problems import Refused

TOKEN_CHARS_MAX = 8_192
KEYS_BYTES_MAX = 1_000_000
KEYS_FRESH_S = 3_600.0
"""Keys are fetched again after this time."""
KEYS_RETRY_S = 30.0
"""Nor are they fetched more often than this, even for a key that is not known."""
FETCH_TIMEOUT_S = 5.0

logger = logging.getLogger("perdure.access")


Fetch = Callable[[str], bytes]
"""Blocking; runs in a thread. Raises OSError."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """Not followed: an HTTPError."""


def fetch(url: str) -> bytes:
    """The answer of the URL of the settings. Raises OSError."""
    opener = urllib.request.build_opener(_NoRedirect)
    with opener.open(url, timeout=FETCH_TIMEOUT_S) as answer:
        return bytes(answer.read(KEYS_BYTES_MAX))


class KeySet:
    """The issuer's public keys by `kid`."""

    def __init__(
        self, settings: JwtSettings, *, fetch: Fetch = fetch, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._url = settings.jwks_url
        self._fetch = fetch
        self._clock = clock
        self._keys = read_keys({"keys": list(settings.keys)}) if settings.keys else {}
        self._tried_at = float("-inf")
        self._fetched_at = float("-inf")
        self._lock = asyncio.Lock()

    async def find(self, kid: str) -> Jwk | None:
        """The key of this name; without one, the only key. Raises Refused if none could be fetched yet."""
        is_needed = self._of(kid) is None
        is_stale = self._clock() - self._fetched_at > KEYS_FRESH_S and not self._lock.locked()
        if self._url is not None and (is_needed or is_stale):
            async with self._lock:
                if self._clock() - self._tried_at >= KEYS_RETRY_S:
                    await self._refresh(self._url)
        if not self._keys:
            raise Refused(
                503,
                "keys_unavailable",
                "the keys of the identity provider could not be fetched; try again later",
                headers={"Retry-After": str(round(KEYS_RETRY_S))},
            )
        return self._of(kid)

    def _of(self, kid: str) -> Jwk | None:
        if not kid and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(kid)

    async def _refresh(self, url: str) -> None:
        self._tried_at = self._clock()
        try:
            self._keys = read_keys(json.loads(await asyncio.to_thread(self._fetch, url)))
            self._fetched_at = self._clock()
        except (OSError, ValueError) as error:
            logger.warning("the keys of the identity provider could not be fetched: %s", type(error).__name__)


class JwtVerifier:
    """From a token to a principal."""

    def __init__(
        self, settings: JwtSettings, roles: Mapping[str, tuple[str, ...]], *, keys: KeySet | None = None
    ) -> None:
        self._settings = settings
        self._roles = {name: grants_of(texts) for name, texts in roles.items()}
        self._keys = keys or KeySet(settings)

    async def principal(self, token: str) -> Principal | None:
        """Whose token this is; None if it is not a good one. Raises Refused if that cannot be told now."""
        if len(token) > TOKEN_CHARS_MAX:
            return None
        settings = self._settings
        try:
            header = jwt.get_unverified_header(token)
            algorithm = header.get("alg")
            if algorithm not in settings.algorithms:
                return None
            key = await self._keys.find(str(header.get("kid", "")))
            if key is None or key.get("alg", algorithm) != algorithm:
                return None
            claims = jwt.decode(
                token,
                jwt.PyJWK(key, algorithm),  # raises if the key is not of the algorithm's kind
                algorithms=[algorithm],
                audience=settings.audience,
                issuer=settings.issuer,
                leeway=settings.leeway_s,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
            return self._principal(claims)
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            logger.info("a token was refused: %s", type(error).__name__)
            return None

    def _principal(self, claims: dict[str, Any]) -> Principal:
        """Raises ValueError."""
        settings = self._settings
        named = claims.get(settings.roles_claim, ())
        names = named.split() if isinstance(named, str) else [one for one in named if isinstance(one, str)]
        namespace = claims.get(settings.namespace_claim, "") if settings.namespace_claim else ""
        if not isinstance(namespace, str) or (settings.namespace_claim and not namespace):
            raise ValueError("the token names no namespace")
        grants = tuple(grant for name in names for grant in self._roles.get(name, ()))
        return Principal(subject=claims["sub"], origin=FROM_JWT, grants=grants, namespace=namespace, claims=claims)
