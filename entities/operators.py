"""What an operator can ask of an entity's data: the names and arguments of MAINTAIN messages."""

import msgspec

EDIT = "edit"
FORK = "fork"
REPLAY_LETTER = "replay_letter"
DISCARD_LETTER = "discard_letter"


class Edit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of an edit."""

    fields: dict[str, msgspec.Raw]
    expected_version: int
    reason: str = ""
    operator: str = ""


class Fork(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of a fork, as the new entity gets them."""

    state: msgspec.Raw
    origin: str
    """`Type/key`"""
    origin_version: int
    schema_version: int = 0
    """Of `state`; 0 = that of the present class."""
    reason: str = ""
    operator: str = ""


class LetterOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of what is to be done with a dead letter."""

    message_id: str
    new_id: str = ""
    """Under which it is sent again."""
    reason: str = ""
    operator: str = ""
