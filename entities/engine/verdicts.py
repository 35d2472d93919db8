"""What becomes of an activity after a failed attempt: a pure decision, the same wherever the failure was noticed.

An attempt can fail on this host, by a word from outside, or by the passing of time while it waits for the outside.
"""

from dataclasses import dataclass

from ..activity import ActivityOptions
from ..errors import ActivityTimeout, ApplicationError, PayloadTooLarge, ResultNotSerialisable


@dataclass(frozen=True, slots=True)
class Retry:
    """There is another attempt, after this time."""

    wait_s: float


@dataclass(frozen=True, slots=True)
class Fail:
    """The operation has failed with this error."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class Pause:
    """The operation waits for a person, with this as its last error."""

    error: BaseException


Verdict = Retry | Fail | Pause


def judge(
    options: ActivityOptions, error: BaseException, *, what: str, attempt: int, first_us: int, now_us: int
) -> Verdict:
    """After attempt number `attempt` (from 1) of the activity `what` failed; the first one began at `first_us`."""
    policy = options.retry
    if policy.forbids(error) or isinstance(error, ResultNotSerialisable | PayloadTooLarge):
        # A result that cannot be stored: the activity has done its work, and would do it again for nothing.
        return Fail(error)
    chosen = error.retry_after if isinstance(error, ApplicationError) else None
    wait_s = policy.delay_s(attempt) if chosen is None else max(0.0, chosen.total_seconds())
    limit = options.total_timeout
    is_late = limit is not None and now_us + wait_s * 1e6 - first_us >= limit.total_seconds() * 1e6
    if not is_late and not policy.is_exhausted(attempt):
        return Retry(wait_s)
    if is_late and not isinstance(error, ActivityTimeout):
        late = ActivityTimeout(
            f"{what} did not succeed within {limit}; last error: {error}", attempts=attempt, timeout="total"
        )
        late.__cause__ = error
        error = late
    return Pause(error) if policy.on_exhausted == "pause" else Fail(error)
