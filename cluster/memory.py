"""Giving memory back. What entities leave behind when they go stays with the allocator, in pieces too small for it to
return by itself, and what refers to itself stays until Python's collector comes along, which is rarely where little is
allocated. So once many have left a host, it collects and asks the allocator to return what is free.

Both take a few milliseconds to tens of milliseconds on the host's loop, hence the thresholds.
"""

import ctypes
import gc
from collections.abc import Callable

LEFT_MIN = 1_000
"""Fewer entities than this are not worth it."""


def return_free_memory() -> None:
    """Collect, then give free memory to the operating system where the C library can (glibc)."""
    gc.collect()
    if _trim is not None:
        _trim(0)


class Ebb:
    """Watches how many entities are in memory, and acts once most of a crowd has left."""

    def __init__(self, act: Callable[[], None] = return_free_memory) -> None:
        self._act = act
        self._high = 0

    def look(self, active: int) -> None:
        """So many entities are in memory now; to be called every few seconds."""
        self._high = max(self._high, active)
        if self._high - active >= LEFT_MIN and active <= self._high // 2:
            self._high = active
            self._act()


def _find_trim() -> Callable[[int], int] | None:
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None
    return found


_trim = _find_trim()
