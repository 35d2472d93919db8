"""Payload codecs: what stands between the engine and the store when payloads must not lie there in the clear.

A codec turns bytes into other bytes and back; `store.encoded` decides which bytes, and under which name. The name of
the place (namespace, entity, kind of row, identity of the row) is given as `context` and must be authenticated: then
what was written for one place cannot be read at another (security S31). `encryption.EncryptionCodec` is the one that
ships.

Codecs run on the host's event loop, once per row: they must not wait for anything.
"""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Protocol

from .errors import DefinitionError

if TYPE_CHECKING:
    from .definition import EntityDefinition


class CannotDecode(Exception):
    """Raised by a codec: this blob cannot be read here. The text says why, in half a sentence, and holds no payload."""


class PayloadCodec(Protocol):
    """Encodes what is stored. Everything on one event loop; nothing here waits."""

    @property
    def searchable(self) -> Mapping[str, Collection[str]]:
        """By entity type: fields of the state that are stored in the clear as well, for searching by an index."""
        ...

    @property
    def accept_plain(self) -> bool:
        """Whether values that were stored without a codec may be read: only while a namespace is being encrypted."""
        ...

    def encode(self, data: bytes, context: bytes) -> tuple[str, bytes]:
        """(key id, blob). The key id is stored in the clear beside the blob; it holds no colon and no quotes."""
        ...

    def decode(self, key_id: str, blob: bytes, context: bytes) -> bytes:
        """Inverse. Raises CannotDecode for an unknown key, another context, or a changed blob."""
        ...


def check_searchable(codec: PayloadCodec, definition: "EntityDefinition") -> None:
    """Raise DefinitionError if a class wants an index on fields that this codec would hide from the database."""
    hidden = sorted(set(definition.index) - set(codec.searchable.get(definition.name, ())))
    if hidden:
        raise DefinitionError(
            f"{definition.spec}: index={list(definition.index)!r}, but its state is stored encrypted. Either store "
            f"these fields in the clear as well, EncryptionCodec(..., searchable={{{definition.name!r}: {hidden!r}}}), "
            "or remove them from `index=`: `find` works without an index, by looking at each entity"
        )
