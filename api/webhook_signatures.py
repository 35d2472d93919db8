"""Whether a webhook comes from whom it says, by the three schemes that most providers use.

What is compared is an HMAC-SHA-256 of the body's bytes as they came, in constant time, against every secret that is
given: during a rotation there are two. A signature proves the body and, where the scheme signs it, time and id; a
scheme that signs no time (`GithubSignature`) leaves replays to TLS. Secrets are in no repr, message or log.
"""

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Iterable, Mapping
from dataclasses import InitVar, dataclass, field
from datetime import timedelta
from typing import Any, Protocol

import msgspec
from pydantic import SecretStr

from ..entities.calls import IDEMPOTENCY_KEY_MAX
from .problems import Refused

Secrets = str | SecretStr | Iterable[str | SecretStr]
"""One, or several while one is being replaced."""
TOLERANCE = timedelta(minutes=5)
_SIGNATURES_MAX = 32
"""Of one request: more are not looked at."""
_TIMESTAMP_DIGITS_MAX = 12
_STANDARD_PREFIX = "whsec_"


class WebhookScheme(Protocol):
    """How a provider signs. Yours may be any object with this method."""

    def verify(self, headers: Mapping[str, str], body: bytes, /) -> str:
        """The provider's id of the event, if the signature is right. headers: by names in lower case.

        Raises Refused: 401 `bad_signature` or `stale_signature`, 400 `bad_webhook`.
        """
        ...


@dataclass(frozen=True)
class StripeSignature:
    """`Stripe-Signature: t=<time>,v1=<hex>`, and services that do alike. The event's id is `id` in its JSON."""

    secrets: InitVar[Secrets]
    tolerance: timedelta = TOLERANCE
    """How old a signature may be, or how far in the future, by this machine's clock."""
    header: str = "stripe-signature"
    _keys: tuple[bytes, ...] = field(init=False, repr=False)

    def __post_init__(self, secrets: Secrets) -> None:
        object.__setattr__(self, "_keys", tuple(secret.encode() for secret in _plain(secrets)))

    def verify(self, headers: Mapping[str, str], body: bytes, /) -> str:
        """See WebhookScheme."""
        parts = [part.strip().partition("=") for part in _header(headers, self.header).split(",")]
        timestamp = next((value for name, _, value in parts if name == "t"), "")
        given = [value for name, _, value in parts if name == "v1"]
        expected = [_hex(key, timestamp.encode() + b"." + body) for key in self._keys]
        _check(expected, given, self.header)
        _check_time(timestamp, self.tolerance)
        return _event_id(_id_in(body), "`id` of the event")


@dataclass(frozen=True)
class GithubSignature:
    """`X-Hub-Signature-256: sha256=<hex>`, and services that do alike with headers of their own names.

    Neither time nor id is signed: who has seen one request could send it again under another id. TLS keeps others from
    seeing it; where that is not enough, `id_from_body` takes a hash of the signed body for its id, so that a body is
    delivered once whoever sends it (two events of byte-equal bodies are then one).
    """

    secrets: InitVar[Secrets]
    header: str = "x-hub-signature-256"
    id_header: str = "x-github-delivery"
    """Names the event; a redelivery has the same."""
    id_from_body: bool = False
    _keys: tuple[bytes, ...] = field(init=False, repr=False)

    def __post_init__(self, secrets: Secrets) -> None:
        object.__setattr__(self, "_keys", tuple(secret.encode() for secret in _plain(secrets)))

    def verify(self, headers: Mapping[str, str], body: bytes, /) -> str:
        """See WebhookScheme."""
        given = _header(headers, self.header)
        _check([f"sha256={_hex(key, body)}" for key in self._keys], [given], self.header)
        if self.id_from_body:
            return hashlib.sha256(body).hexdigest()
        return _event_id(headers.get(self.id_header), f"the header {self.id_header}")


@dataclass(frozen=True)
class StandardWebhookSignature:
    """The scheme of standardwebhooks.com: `webhook-id`, `webhook-timestamp`, `webhook-signature: v1,<base64>`.

    prefix: of the three headers (Svix writes `svix`). Secrets are `whsec_<base64>`. Signatures by asymmetric keys
    (`v1a`) are not looked at. Raises ValueError for a secret that is none.
    """

    secrets: InitVar[Secrets]
    tolerance: timedelta = TOLERANCE
    """How old a signature may be, or how far in the future, by this machine's clock."""
    prefix: str = "webhook"
    _keys: tuple[bytes, ...] = field(init=False, repr=False)

    def __post_init__(self, secrets: Secrets) -> None:
        object.__setattr__(self, "_keys", tuple(_decoded(secret) for secret in _plain(secrets)))

    def verify(self, headers: Mapping[str, str], body: bytes, /) -> str:
        """See WebhookScheme."""
        event_id, timestamp = (_header(headers, f"{self.prefix}-{name}") for name in ("id", "timestamp"))
        signed = f"{event_id}.{timestamp}.".encode() + body
        given = [
            signature
            for version, _, signature in (
                part.partition(",") for part in _header(headers, f"{self.prefix}-signature").split(" ")
            )
            if version == "v1"
        ]
        expected = [base64.b64encode(hmac.digest(key, signed, "sha256")).decode() for key in self._keys]
        _check(expected, given, f"{self.prefix}-signature")
        _check_time(timestamp, self.tolerance)
        return _event_id(event_id, f"the header {self.prefix}-id")


def _plain(secrets: Secrets) -> list[str]:
    given = [secrets] if isinstance(secrets, str | SecretStr) else list(secrets)
    plain = [secret.get_secret_value() if isinstance(secret, SecretStr) else secret for secret in given]
    if not plain or not all(secret.strip() for secret in plain):
        raise ValueError("a webhook's signature needs a secret, and none of them may be empty")
    return plain


def _decoded(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(_STANDARD_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise ValueError(f"a secret of Standard Webhooks is {_STANDARD_PREFIX}<base64>; this one is not")
    return key


def _header(headers: Mapping[str, str], name: str) -> str:
    value = headers.get(name, "")
    if not value:
        raise Refused(401, "bad_signature", f"the request is not signed: there is no header {name}")
    return value


def _hex(key: bytes, signed: bytes) -> str:
    return hmac.digest(key, signed, "sha256").hex()


def _check(expected: list[str], given: list[str], header: str) -> None:
    """Every pair is compared: how long that takes tells neither which secret nor how much of it was right."""
    matches = 0
    for right in expected:
        for candidate in given[:_SIGNATURES_MAX]:
            matches += hmac.compare_digest(right.encode(), candidate.encode())
    if not matches:
        raise Refused(
            401,
            "bad_signature",
            f"no signature in {header} is one of this body by a secret that is known here; nothing was delivered",
        )


def _check_time(timestamp: str, tolerance: timedelta) -> None:
    """After the signature: only who has a secret learns what the clock here says."""
    is_number = timestamp.isascii() and timestamp.isdecimal() and len(timestamp) <= _TIMESTAMP_DIGITS_MAX
    age_s = time.time() - int(timestamp) if is_number else float("inf")
    if abs(age_s) > tolerance.total_seconds():
        raise Refused(
            401,
            "stale_signature",
            f"the signature was made at {timestamp[:20]!r}, more than {tolerance.total_seconds():g} s from now; "
            "nothing was delivered",
        )


def _id_in(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body, type=dict[str, Any]).get("id")
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None


def _event_id(found: Any, where: str) -> str:
    if not isinstance(found, str) or not 0 < len(found) <= IDEMPOTENCY_KEY_MAX or not found.isprintable():
        raise Refused(
            400,
            "bad_webhook",
            f"the signature is right, but {where} is no id of 1 to {IDEMPOTENCY_KEY_MAX} printable characters, so a "
            "repeat could not be told from the first; nothing was delivered",
        )
    return found
