"""The database's time, estimated without asking.

Every answer of the database brings its time. Between answers the host adds its own monotonic clock. The estimate is a
lower bound of the database's time (the answer was on its way for a while), so nothing judged due by it is early; the
commit checks that again.
"""

STEP_US = 100_000
"""A newer answer this far behind the estimate means that the database's clock was set back."""


class DatabaseClock:
    """Estimate of the database's time in microseconds."""

    def __init__(self, database_us: int, monotonic: float) -> None:
        self._offset_us = database_us - monotonic * 1e6

    def observe(self, database_us: int, monotonic: float) -> None:
        """The database said this time; `monotonic`: when its answer was received, seconds."""
        offset_us = database_us - monotonic * 1e6
        # Of several lower bounds the highest is the best one, unless the clock was really set back.
        if offset_us > self._offset_us or self._offset_us - offset_us > STEP_US:
            self._offset_us = offset_us

    def now_us(self, monotonic: float) -> int:
        """The estimate at this monotonic time."""
        return int(self._offset_us + monotonic * 1e6)

    def monotonic_at(self, database_us: int) -> float:
        """The monotonic time at which the database's clock will show `database_us`."""
        return (database_us - self._offset_us) / 1e6
