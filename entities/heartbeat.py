"""The link between a running attempt of an activity and the engine that runs it: heartbeats out, cancellation in.

`heartbeat(details)` may be called from any thread of the attempt: a plain call that never waits. What it hands on is
JSON; the last details are kept for the next attempt (`activity_info().heartbeat_details`).
"""

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from pydantic_core import PydanticSerializationError, to_json

from .errors import InvalidArguments, NotInWorkflow, PayloadTooLarge
from .signature import has_nul

DETAILS_BYTES_MAX = 64 * 1024


class Pulse:
    """One attempt as its code sees it. `is_cancelled` may be set, and `beat` called, from any thread."""

    __slots__ = ("_on_beat", "is_cancelled")

    def __init__(self, on_beat: Callable[[bytes], None]) -> None:
        self._on_beat = on_beat
        self.is_cancelled = False

    def beat(self, details: bytes) -> None:
        """The attempt is alive."""
        self._on_beat(details)


pulse: ContextVar[Pulse | None] = ContextVar("perdure_pulse", default=None)
"""The running attempt's, or None."""


def heartbeat(details: object = None) -> None:
    """Say that this attempt is alive, and how far it has got. Call it as often as you like, from any thread.

    `details`: anything that can be written as JSON, at most 64 KiB; the next attempt finds the last of them in
    `activity_info().heartbeat_details`. They are stored at most once a second, and whenever the attempt fails: a
    crash of the host may lose the last second. With `@activity(heartbeat_timeout=…)` an attempt that is silent for
    longer ends.

    Raises asyncio.CancelledError if the attempt is not wanted any more (cancelled or out of time): the way in which a
    thread learns of it. Raises NotInWorkflow outside an activity that a workflow called, InvalidArguments,
    PayloadTooLarge.
    """
    attempt = pulse.get()
    if attempt is None:
        raise NotInWorkflow("heartbeat() works only inside an activity that a workflow called")
    if attempt.is_cancelled:
        raise asyncio.CancelledError("the attempt is not wanted any more")
    attempt.beat(dump_details(details))


def dump_details(details: Any) -> bytes:
    """Heartbeat details as JSON. Raises InvalidArguments, PayloadTooLarge."""
    try:
        data = to_json(details)
    except (PydanticSerializationError, UnicodeError, ValueError, TypeError) as error:
        raise InvalidArguments(f"heartbeat: the details cannot be written as JSON: {error}") from None
    if len(data) > DETAILS_BYTES_MAX:
        raise PayloadTooLarge(
            f"heartbeat: the details are {len(data)} bytes of JSON; the limit is {DETAILS_BYTES_MAX}",
            limit=DETAILS_BYTES_MAX,
            got=len(data),
        )
    if has_nul(data):
        raise InvalidArguments("heartbeat: the details hold a NUL character, which cannot be stored")
    return data
