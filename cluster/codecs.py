"""How the cluster's processes get their payload codec: by `module:factory`, called once per process.

Where the factory finds its keys is its own business, as long as it is neither the targets nor the database: both can be
read by whoever can read what the keys are there to protect.
"""

import importlib
from collections.abc import Iterable
from functools import cache

from ..entities.codec import PayloadCodec
from ..entities.encryption import VARIABLES
from ..entities.errors import StartRefused

NO_CODEC = "none"
"""Says `up` that a namespace shall do without the codec that it had."""


@cache
def load_codec(spec: str) -> PayloadCodec | None:
    """What `module:factory` makes; None if the spec is empty. Raises StartRefused."""
    if spec in {"", NO_CODEC}:
        return None
    module, _, name = spec.partition(":")
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise StartRefused(f"codec={spec!r} is not `module:factory`, or cannot be imported: {error}") from error
    made: PayloadCodec = factory()
    return made


def check_change(before: str, now: str) -> None:
    """Raise StartRefused if a namespace would lose its codec by oversight: hosts could read nothing of it."""
    if before and not now:
        raise StartRefused(
            f"the namespace is encrypted (codec={before!r}), and `up` was called without one. Pass the same codec, or"
            f" codec={NO_CODEC!r} if all of it has been written in the clear again"
        )


def check_environment(names: Iterable[str]) -> None:
    """Raise StartRefused if keys would travel in the targets, which are stored in the database."""
    keys = sorted(set(names) & set(VARIABLES[:1]))
    if keys:
        raise StartRefused(
            f"{keys[0]} must not be in `environment`: that is stored in the database, in the clear. Set it where the"
            " hosts run (Ray's own environment), or put the keys into a file there"
        )
