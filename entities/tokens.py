"""Tokens: the name under which the outside world completes, fails or keeps alive an activity.

A token is the operation's address (entity, workflow, run, number) in an opaque form. It is the same in every attempt.
It cannot be guessed: the run id in it holds 130 random bits (see `ids.new_run_id`), so it needs no secret and no
table, and it is worth nothing once its operation is settled. It is no substitute for access control: whoever reads
run ids can make one, and the gateway's API keys guard its routes as all others.
"""

import base64
import binascii

import msgspec

from .errors import NoSuchOperation
from .ids import EntityId
from .messages import OperationAddress

TOKEN_CHARS_MAX = 2_000

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[str, str, str, str, int]).decode


def make_token(entity: EntityId, operation: str) -> str:
    """The token of an operation (`workflow/run_id/number`)."""
    return base64.urlsafe_b64encode(_encode((*entity, *OperationAddress.parse(operation)))).rstrip(b"=").decode()


def read_token(token: str) -> tuple[EntityId, OperationAddress]:
    """Inverse of make_token. Raises NoSuchOperation if it is not one."""
    try:
        if len(token) > TOKEN_CHARS_MAX:
            raise ValueError("too long")
        data = base64.b64decode(token.encode("ascii") + b"=" * (-len(token) % 4), altchars=b"-_", validate=True)
        type_name, key, workflow, run_id, number = _decode(data)
        if not (type_name and key and workflow and run_id) or number < 0:
            raise ValueError("empty")
    except (ValueError, UnicodeError, binascii.Error, msgspec.DecodeError):
        raise NoSuchOperation(
            f"{token[:40]!r} is not the token of an activity; pass on what `activity_info().token` gave, unchanged"
        ) from None
    return EntityId(type_name, key), OperationAddress(workflow, run_id, number)
