"""Which tokens of an identity provider a gateway accepts: settings, checked when they are read."""

from typing import Annotated, Any
from urllib.parse import urlsplit

import jwt
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from ..cluster.loopback import is_loopback

Jwk = dict[str, Any]
ASYMMETRIC = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"})


def _check_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname or "")):
        raise ValueError("the URL of the keys is https:// (http:// only on this machine)")
    return url


class JwtSettings(BaseModel):
    """Which tokens are good, and what they say."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    issuer: str = Field(min_length=1)
    """`iss`, exactly."""
    audience: str = Field(min_length=1)
    """`aud` is or holds it."""
    jwks_url: Annotated[str, AfterValidator(_check_url)] | None = None
    """Where the issuer publishes its keys. Only this URL is asked, redirects are not followed."""
    keys: tuple[dict[str, Any], ...] = ()
    """Public keys as JWKs, in place of a URL."""
    algorithms: frozenset[str] = frozenset({"RS256", "ES256", "EdDSA"})
    leeway_s: float = Field(default=30.0, ge=0, le=120)
    """By how much clocks may differ."""
    roles_claim: str = "roles"
    """The claim that names roles (`PERDURE_ROLES`): a list, or a text with spaces, such as `scope`."""
    namespace_claim: str = ""
    """The claim that names the only namespace in which the token is good; a token without it is refused. Empty: all."""

    @model_validator(mode="after")
    def _check(self) -> "JwtSettings":
        unknown = self.algorithms - ASYMMETRIC
        if unknown or not self.algorithms:
            raise ValueError(
                f"algorithms are some of {', '.join(sorted(ASYMMETRIC))}, not {', '.join(sorted(unknown))}"
            )
        if bool(self.keys) == (self.jwks_url is not None):
            raise ValueError("name either jwks_url or keys")
        if self.keys:
            read_keys({"keys": list(self.keys)})
        return self


def read_keys(document: Any) -> dict[str, Jwk]:
    """Usable public signing keys of a JWK set. Raises ValueError if there is none."""
    found: dict[str, Jwk] = {}
    listed = document.get("keys") if isinstance(document, dict) else None
    for one in listed if isinstance(listed, list) else []:
        if not isinstance(one, dict) or one.get("use", "sig") != "sig" or one.get("kty") == "oct" or "d" in one:
            continue
        try:
            jwt.PyJWK(one)
        except (jwt.PyJWTError, ValueError, TypeError, KeyError):
            continue  # of a kind that we do not know
        found[str(one.get("kid", ""))] = one
    if not found:
        raise ValueError("there is no usable public key")
    return found
