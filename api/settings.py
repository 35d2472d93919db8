"""Settings of the edges, from the environment: every variable begins with `PERDURE_`.

Nothing here is needed for development. Secrets are `SecretStr`, so that no log, traceback or repr shows them.
"""

import os
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from ..entities.encryption import VARIABLES as ENCRYPTION_VARIABLES
from ..entities.logs import VARIABLES as LOG_VARIABLES
from ..entities.signature import PAYLOAD_BYTES_MAX
from .api_keys import ApiClient, check_key_text, check_subject
from .jwt_settings import JwtSettings
from .principal import grants_of
from .variables import environment_warnings, file_warnings

PREFIX = "PERDURE_"
WAIT_S_MAX = 86_400.0
"""No request is worth keeping open for longer."""
URL, API_KEY = "PERDURE_URL", "PERDURE_API_KEY"
"""The command line's: which gateway its verbs talk to, and with which key."""


class Settings(BaseSettings):
    """What a gateway needs to know. Arguments win over the environment, the environment over a `.env` file."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=".env", extra="ignore", frozen=True, hide_input_in_errors=True
    )

    dsn: SecretStr = SecretStr("")
    """Postgres. Empty: `perdure dev` brings its own, everything else refuses to start."""
    namespace: str = "perdure"
    """One Postgres schema, one set of hosts."""
    pooled: bool = False
    """There is a connection pooler between here and Postgres, such as PgBouncer in transaction mode."""
    codec: str = ""
    """What encrypts payloads, as `module:factory` (docs/encryption.md). Empty: nothing does."""
    ray_address: str = ""
    """Ray cluster to join. Empty: one of this machine's own, which ends with the process."""

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65_535)
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    """Comma-separated; each of them may do everything (two at a time while one is being replaced). Write a key as
    `sha256:<hex of its SHA-256>` to keep the key itself out of the environment."""
    clients: dict[str, ApiClient] = {}
    """By name: programs with keys and grants of their own, as JSON."""
    roles: dict[str, tuple[str, ...]] = {}
    """By name: grants that clients and tokens get by a role, as JSON."""
    jwt: JwtSettings | None = None
    """Tokens of an identity provider, as JSON."""
    insecure_bind: bool = False
    """Allow an address that others can reach although there are no credentials."""
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Host names that are accepted beside the loopback ones where there are no credentials."""

    body_bytes_max: int = Field(default=PAYLOAD_BYTES_MAX, ge=1_024)
    body_timeout_s: float = Field(default=30.0, gt=0, le=WAIT_S_MAX)
    """A request body that has not arrived by then is refused."""
    call_wait_s: float = Field(default=30.0, gt=0, le=WAIT_S_MAX)
    """How long a request waits for its answer if it does not say."""
    call_wait_max_s: float = Field(default=300.0, gt=0, le=WAIT_S_MAX)
    """Longer waits are shortened to this."""
    requests_max: int = Field(default=10_000, ge=1)
    """Requests that one gateway process answers at a time, those that wait for a result included; more get 429."""
    streams_max: int = Field(default=500, ge=0)
    """Streams of events that one gateway process keeps open at a time; more get 429. Each reads a row a second."""
    drain_s: float = Field(default=10.0, ge=0, le=WAIT_S_MAX)
    """How long `perdure serve` goes on after SIGTERM, not ready any more, until those in front send elsewhere."""
    show_errors: bool = False
    """Whether callers see the text of unexpected exceptions of user code (their class they always see)."""
    docs: bool = True
    """Whether `/docs` and `/openapi.json` are served."""
    console: bool = True
    """Whether the pages for people are served at `/console/`."""

    @field_validator("api_keys", "allowed_hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("api_keys")
    @classmethod
    def _long_enough(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        return tuple(map(check_key_text, keys))

    @field_validator("clients")
    @classmethod
    def _named(cls, clients: dict[str, ApiClient]) -> dict[str, ApiClient]:
        for name in clients:
            check_subject(name)
        return clients

    @field_validator("roles")
    @classmethod
    def _granted(cls, roles: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for texts in roles.values():
            grants_of(texts)
        return roles

    @model_validator(mode="after")
    def _roles_exist(self) -> Self:
        for name, client in self.clients.items():
            for role in client.roles:
                if role not in self.roles:
                    raise ValueError(f"the client {name!r} has the role {role!r}, which PERDURE_ROLES does not define")
        return self

    @property
    def has_credentials(self) -> bool:
        """Whether callers have to show who they are."""
        return bool(self.api_keys or self.clients or self.jwt)


def unknown_variables() -> list[str]:
    """Warnings for variables, in the environment and in `.env`, that mean nothing: most likely typing errors."""
    known = frozenset(PREFIX + name.upper() for name in Settings.model_fields) | {
        URL,
        API_KEY,
        *ENCRYPTION_VARIABLES,
        *LOG_VARIABLES,
    }
    return [*environment_warnings(os.environ, known, PREFIX), *file_warnings(Path(".env"), known, PREFIX)]
