"""The database's time, estimated without asking (P6).

Every answer of the database brings its time. Between answers the host adds its own monotonic clock. The estimate is a
lower bound of the database's time (the answer was on its way for a while), so nothing judged due by it is early; the
commit checks that again.

How far the estimate lags matters as well: a sleep is counted from it, and would end early by as much. Of several
bounds the highest therefore stands. That an answer is behind it proves nothing: it may have been slow. Only if the
database's time is behind it even on the assumption that it was read the moment the question was sent, has that clock
been set back (or runs slower than ours).
"""


class DatabaseClock:
    """Estimate of the database's time in microseconds."""

    def __init__(self, database_us: int, monotonic: float) -> None:
        self._offset_us = database_us - monotonic * 1e6

    def observe(self, database_us: int, *, sent: float, received: float) -> None:
        """The database said this time. `sent`, `received`: monotonic times of question and answer, seconds."""
        lowest_us = database_us - received * 1e6
        highest_us = database_us - sent * 1e6
        if lowest_us > self._offset_us or highest_us < self._offset_us:
            self._offset_us = lowest_us

    def now_us(self, monotonic: float) -> int:
        """The estimate at this monotonic time."""
        return int(self._offset_us + monotonic * 1e6)
