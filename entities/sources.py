"""Where this process takes time and chance from outside of workflows (those have repeatable ones of their own).

The test kit puts virtual time and a seeded generator here, so that ids, and with them whole tests, are repeatable.
"""

import os
import time
from collections.abc import Callable


class Sources:
    """Time and chance; process-wide."""

    __slots__ = ("entropy", "time_ns")

    def __init__(self) -> None:
        self.time_ns: Callable[[], int] = time.time_ns
        """Nanoseconds since the epoch."""
        self.entropy: Callable[[int], bytes] = os.urandom
        """So many random bytes."""

    def reset(self) -> None:
        """Back to the operating system's."""
        self.time_ns, self.entropy = time.time_ns, os.urandom


sources = Sources()
