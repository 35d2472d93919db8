"""The books of the billing service in the campaign of years: what the outside saw, and whether it is what it should be.

A file to which every attempt of an activity is appended by the process that executes it. Neither Perdure nor Postgres
knows of it. As a good service does, it takes attempts of one idempotency key for one bill.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

CLOCK_S = 0.005
"""Slack for reading clocks."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """An attempt. `number`: which bill, or which year."""

    customer: str
    number: int
    idempotency_key: str
    at: float


class Books:
    """Reads on where it stopped."""

    def __init__(self, path: Path) -> None:
        path.touch(mode=0o666)
        self._path = path
        self._offset = 0
        self._lines: dict[str, dict[str, list[Line]]] = {}
        self.attempts = 0

    def lines(self, activity: str = "bill") -> dict[str, list[Line]]:
        """Attempts of an activity by customer, in the order in which they were made."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            news = file.read()
        news = news[: news.rfind(b"\n") + 1]
        self._offset += len(news)
        for text in news.splitlines():
            self._take(json.loads(text))
        return self._lines.setdefault(activity, defaultdict(list))

    def _take(self, raw: dict[str, Any]) -> None:
        self.attempts += 1
        customers = self._lines.setdefault(raw["activity"].rpartition(".")[2], defaultdict(list))
        customers[raw["customer"]].append(
            Line(
                customer=raw["customer"],
                number=next(iter(raw["numbers"]), 0),
                idempotency_key=raw["idempotency_key"],
                at=raw["at"],
            )
        )

    def billed(self, customers: Iterable[str]) -> list[int]:
        """How many bills each of them has had so far, fewest first."""
        bills = self.lines()
        return sorted(max((line.number for line in bills[key]), default=0) for key in customers)

    def numbers(self, activity: str, customer: str) -> list[int]:
        """What was done for a customer, in order, each idempotency key once."""
        first = {line.idempotency_key: line for line in reversed(self.lines(activity)[customer])}
        return [line.number for line in sorted(first.values(), key=lambda line: line.at)]

    def between(self, since: float, until: float) -> list[Line]:
        """All attempts in this time."""
        self.lines()
        every = (line for customers in self._lines.values() for lines in customers.values() for line in lines)
        return [line for line in every if since <= line.at <= until]

    def wrong_bills(self, expected: dict[str, int]) -> list[str]:
        """Customers that were not billed 1, 2, … up to the expected number, each once."""
        return [
            f"{customer}: billed {numbers}, {count} expected"
            for customer, count in expected.items()
            if (numbers := self.numbers("bill", customer)) != list(range(1, count + 1))
        ]

    def early_bills(self, customers: Collection[str], period_s: float) -> list[str]:
        """Bills that came sooner than a period after the one before."""
        early: list[str] = []
        for customer in customers:
            times: dict[int, float] = {}
            for line in self.lines()[customer]:
                times.setdefault(line.number, line.at)
            early += [
                f"{customer}: bill {number} after {now - before:.3f} s"
                for (_, before), (number, now) in pairwise(sorted(times.items()))
                if now - before < period_s - CLOCK_S
            ]
        return early
