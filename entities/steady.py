"""A clock that never goes back and does not stand still while the machine sleeps.

Python's monotonic clock does stand still on Linux: a host on a laptop that was suspended for an hour would, on waking,
believe for up to a second in a lease that ended an hour ago, and answer queries from what it remembers (P8). With this
one the lease has run out when it looks. Where a system has no such clock it is the monotonic one.
"""

import time

_CLOCK = getattr(time, "CLOCK_BOOTTIME", None)


def steady_clock() -> float:
    """Seconds since some moment in the past, time in suspension included."""
    return time.monotonic() if _CLOCK is None else time.clock_gettime(_CLOCK)
