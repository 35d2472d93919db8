"""Static API keys: a few, kept as hashes, compared in a time that tells nothing."""

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, field_validator

from .principal import EVERYTHING, FROM_JWT, SUBJECT_CHARS_MAX, Principal, grants_of

API_KEY_CHARS_MIN = 16
KEYS_PER_CLIENT_MAX = 2
_HASHED = "sha256:"


def check_key_text(key: SecretStr) -> SecretStr:
    """The key, if it is usable. Raises ValueError."""
    text = key.get_secret_value()
    if len(text) < API_KEY_CHARS_MIN or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(
            f"an API key is {API_KEY_CHARS_MIN} or more ASCII characters without spaces; make one with "
            "`python -c 'import secrets; print(secrets.token_urlsafe(32))'`"
        )
    return key


def hashed(key: SecretStr) -> SecretStr:
    """The key as `sha256:<hex>`: what is kept. Raises ValueError if it is not usable."""
    return SecretStr(_HASHED + _digest(check_key_text(key)).hex())


class ApiClient(BaseModel):
    """A program with API keys of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    keys: tuple[Annotated[SecretStr, AfterValidator(hashed)], ...] = Field(min_length=1, max_length=KEYS_PER_CLIENT_MAX)
    """One, or two while one is being replaced. As text or as `sha256:<hex>`; only the hash is kept."""
    grants: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    """Names of roles (`PERDURE_ROLES`), whose grants it has as well."""
    namespace: str = ""
    """The only namespace in which the keys are good; empty: any."""

    @field_validator("grants")
    @classmethod
    def _parse(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        grants_of(texts)
        return texts


def check_subject(name: str) -> str:
    """Raises ValueError for a name that cannot stand in a log."""
    if not 0 < len(name) <= SUBJECT_CHARS_MAX or not name.isprintable():
        raise ValueError(f"the name of a client is 1 to {SUBJECT_CHARS_MAX} printable characters")
    if name.startswith(f"{FROM_JWT}:"):
        raise ValueError(
            f"the name of a client cannot begin with {FROM_JWT}: as histories name the subjects of JWTs so"
        )
    return name


class ApiKeys:
    """Keys, and whose they are."""

    def __init__(self, owners: Iterable[tuple[SecretStr, Principal]]) -> None:
        """Keys as text, or as `sha256:<hex>`. Raises ValueError for a hash that is none."""
        self._owners = [(_digest(key), principal) for key, principal in owners]

    @classmethod
    def of(
        cls,
        keys: Iterable[SecretStr],
        clients: Mapping[str, ApiClient],
        roles: Mapping[str, tuple[str, ...]],
    ) -> "ApiKeys":
        """`keys` may do everything, each client what its grants and roles say."""
        masters = [(key, Principal(subject=f"key-{_digest(key).hex()[:8]}", grants=EVERYTHING)) for key in keys]
        owners = list(masters)
        for name, client in clients.items():
            texts = [*client.grants, *(text for role in client.roles for text in roles.get(role, ()))]
            principal = Principal(subject=name, grants=grants_of(texts), namespace=client.namespace)
            owners += [(key, principal) for key in client.keys]
        return cls(owners)

    def __bool__(self) -> bool:
        return bool(self._owners)

    def owner(self, presented: str) -> Principal | None:
        """Whose key this is. It is compared with all of them, always, and each comparison takes the same time."""
        digest = hashlib.sha256(presented.encode()).digest()
        found = [principal for known, principal in self._owners if hmac.compare_digest(digest, known)]
        return found[0] if found else None


def _digest(key: SecretStr) -> bytes:
    text = key.get_secret_value()
    if not text.startswith(_HASHED):
        return hashlib.sha256(text.encode()).digest()
    digest = bytes.fromhex(text.removeprefix(_HASHED))
    if len(digest) != hashlib.sha256().digest_size:
        raise ValueError("an API key written as sha256:… has 64 hexadecimal digits")
    return digest
