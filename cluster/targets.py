"""What should run in a namespace: the value that `up()` stores and the supervisor reconciles with."""

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from .settings import ClusterSettings

DEFAULT_ENGINE = "perdure.cluster.engine_factory:perdure_engine"


class Targets(BaseModel):
    """Desired state of a namespace. Stored as JSON in the directory."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    hosts: int = Field(default=0, ge=0)
    entities: tuple[str, ...] = ()
    """Entity classes, as `package.module:Class`."""
    engine: dict[str, Any] = Field(default_factory=dict)
    """EngineSettings, as far as they differ from the defaults."""
    engine_factory: str = DEFAULT_ENGINE
    settings: ClusterSettings = ClusterSettings()
    environment: dict[str, str] = Field(default_factory=dict)
    """Environment variables of the hosts, where Ray's own are not enough."""
    codec: str = ""
    """What encodes payloads, as `module:factory`; empty: nothing does. Never the keys."""
    release: str = ""
    """Version of the code; another one replaces every host, one by one."""

    @property
    def revision(self) -> str:
        """Changes with everything that a running host cannot change about itself."""
        fixed = self.model_dump(mode="json", exclude={"hosts"})
        return hashlib.blake2b(json.dumps(fixed, sort_keys=True).encode(), digest_size=6).hexdigest()

    def to_json(self) -> bytes:
        """As stored."""
        return self.model_dump_json().encode()

    @classmethod
    def from_json(cls, stored: bytes | None) -> "Targets | None":
        """Inverse of to_json(); None if there are none."""
        return None if stored is None else cls.model_validate_json(stored)
