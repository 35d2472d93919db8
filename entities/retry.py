"""Retry policies: pure arithmetic on attempts. No clock, no waiting."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from .errors import ApplicationError, DefinitionError


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """When and how often a failed attempt is tried again.

    The wait after attempt n (counted from 1) is `initial * factor ** (n - 1)`, at most `maximum`. `attempts` counts
    all of them, the first included; None means without end. `non_retryable` lists exception classes (or their names,
    for classes that live elsewhere) after which there is no further attempt.

    `on_exhausted` says what becomes of an activity when `attempts` or its total time are used up: "fail" raises the
    last error in the workflow; "pause" leaves the operation waiting, visibly and at no cost, until a person retries
    it, completes it with a value, or fails it. (A non-retryable error fails it at once either way.) Raises
    DefinitionError if the numbers make no sense.
    """

    initial: timedelta = timedelta(seconds=1)
    factor: float = 2.0
    maximum: timedelta = timedelta(seconds=100)
    attempts: int | None = None
    non_retryable: Sequence[type[BaseException] | str] = ()
    on_exhausted: Literal["fail", "pause"] = "fail"

    def __post_init__(self) -> None:
        self._check_types()
        if self.attempts is not None and self.attempts < 1:
            raise DefinitionError(f"RetryPolicy(attempts={self.attempts}): at least 1, or None for no limit")
        if self.initial < timedelta(0) or not self.factor >= 1.0:
            raise DefinitionError("RetryPolicy: initial must not be negative and factor must be at least 1.0")
        if self.on_exhausted not in ("fail", "pause"):
            raise DefinitionError(f'RetryPolicy(on_exhausted={self.on_exhausted!r}): "fail" or "pause"')
        if self.maximum < self.initial:
            raise DefinitionError(f"RetryPolicy: maximum ({self.maximum}) is shorter than initial ({self.initial})")

    def _check_types(self) -> None:
        """What an unchecked caller may pass, which would fail in the middle of a retry only."""
        given: dict[str, tuple[object, Any]] = {
            "initial": (self.initial, timedelta),
            "maximum": (self.maximum, timedelta),
            "factor": (self.factor, int | float),
            "attempts": (self.attempts, int | None),
        }
        for name, (value, wanted) in given.items():
            if not isinstance(value, wanted) or isinstance(value, bool):
                raise DefinitionError(f"RetryPolicy({name}={value!r}): {getattr(wanted, '__name__', wanted)} is needed")
        rules: object = self.non_retryable
        if isinstance(rules, str) or not all(map(_is_rule, self.non_retryable)):
            raise DefinitionError(
                f"RetryPolicy(non_retryable={rules!r}): a list of exception classes, or of their names"
            )

    def delay_s(self, attempt: int) -> float:
        """Seconds to wait after the failed attempt number `attempt` (from 1)."""
        initial_s, maximum_s = self.initial.total_seconds(), self.maximum.total_seconds()
        if initial_s <= 0.0:
            return 0.0
        try:
            return min(initial_s * self.factor ** (attempt - 1), maximum_s)
        except OverflowError:
            return maximum_s

    def is_final(self, error: BaseException, attempt: int) -> bool:
        """Whether there is no further attempt after attempt number `attempt` failed with `error`."""
        return self.is_exhausted(attempt) or self.forbids(error)

    def is_exhausted(self, attempt: int) -> bool:
        """Whether attempt number `attempt` was the last one."""
        return self.attempts is not None and attempt >= self.attempts

    def forbids(self, error: BaseException) -> bool:
        """Whether no attempt may follow this error, however many are left."""
        if isinstance(error, ApplicationError) and error.non_retryable:
            return True
        names = {cls.__name__ for cls in type(error).__mro__}
        if isinstance(error, ApplicationError):
            names.add(error.type)
        return any(rule in names if isinstance(rule, str) else isinstance(error, rule) for rule in self.non_retryable)


def _is_rule(rule: object) -> bool:
    return isinstance(rule, str) or (isinstance(rule, type) and issubclass(rule, BaseException))
