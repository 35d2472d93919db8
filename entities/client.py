"""The way in from outside: whatever carries envelopes to entities and brings replies back.

`Entity.ref(key)` outside a turn sends through the *ambient* caller: the one bound with `use()` in this context, else
the process-wide one set by `set_default()` (FastAPI's lifespan and `perdure.cluster.connect` do that).
"""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from .errors import NotConnected
from .messages import Envelope, Reply


class Caller(Protocol):
    """Carries one request to an entity and waits for its final reply."""

    session: str
    """Name of this sender, unique among all that are alive."""
    default_timeout_s: float

    async def request(self, envelope: Envelope, *, timeout_s: float) -> Reply:
        """Send `envelope` until a final reply (OK, ACCEPTED, ERROR, BUSY) came or `timeout_s` passed.

        Raises Unavailable if it certainly was not sent, CallTimeout if the outcome is unknown.
        """
        ...


_bound: ContextVar[Caller | None] = ContextVar("perdure_caller", default=None)
_default: list[Caller] = []


def set_default(caller: Caller | None) -> None:
    """Make `caller` the one used where no other is bound; None removes it."""
    _default[:] = [] if caller is None else [caller]


@contextmanager
def use(caller: Caller) -> Generator[None]:
    """Bind `caller` for the code in this `with` block (and the tasks started in it)."""
    token = _bound.set(caller)
    try:
        yield
    finally:
        _bound.reset(token)


def ambient() -> Caller:
    """The caller in force. Raises NotConnected, saying how to connect."""
    caller = _bound.get()
    if caller is not None:
        return caller
    if _default:
        return _default[0]
    raise NotConnected(
        "no Perdure client here: use `FastAPI(lifespan=perdure.api.lifespan(...))`, or "
        "`await perdure.cluster.connect(dsn=...)` in a script, or the test kit in a unit test"
    )
