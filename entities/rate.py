"""Rate limits of activities: so many attempts per time, evenly spaced. Pure arithmetic; no clock, no waiting."""

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Self

from .errors import DefinitionError

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_TEXT = re.compile(r"(\d+)\s*/\s*([smhd])")


@dataclass(frozen=True, kw_only=True)
class RateLimit:
    """At most `count` attempts per `per`, on each host. Raises DefinitionError if that makes no sense."""

    count: int
    per: timedelta = timedelta(seconds=1)

    def __post_init__(self) -> None:
        if self.count < 1 or self.per <= timedelta(0):
            raise DefinitionError(f"RateLimit(count={self.count}, per={self.per}): both must be more than zero")

    @property
    def interval_s(self) -> float:
        """Seconds between two attempts."""
        return self.per.total_seconds() / self.count

    @classmethod
    def of(cls, rate: "str | RateLimit | None") -> Self | None:
        """From `"100/s"` (also `/m`, `/h`, `/d`). Raises DefinitionError."""
        if rate is None or isinstance(rate, cls):
            return rate
        match = _TEXT.fullmatch(str(rate).strip())
        if match is None:
            raise DefinitionError(
                f'rate={rate!r}: write it like "100/s", "5/m", "1000/h", or RateLimit(count=…, per=…)'
            )
        return cls(count=int(match[1]), per=timedelta(seconds=_UNITS[match[2]]))
