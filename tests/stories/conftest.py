"""Stories are told on virtual time: each takes about a second of processor time, however many years it tells.

The limits are far above that: they find a story that really waits, or one whose cost grows with its years, on a
machine five times as slow.

At the end the crash points are told: how many moments of each story were tried, all with the same end.
"""

import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePath

import pytest

ONCE_S = 5.0
AT_EVERY_POINT_S = 15.0
"""The same story some forty times."""

CRASHED = re.compile(r"^crashed at (\d+) points", re.MULTILINE)
"""What `crash_everywhere` prints, and pytest keeps of a test that passed (not under `-s`, where it is seen anyway)."""


@pytest.fixture(autouse=True)
def quick(request: pytest.FixtureRequest) -> Iterator[None]:
    """By processor time, so that a busy machine is no failure."""
    limit_s = AT_EVERY_POINT_S if "at_every_point" in request.node.name else ONCE_S
    began = time.process_time()
    yield
    took_s = time.process_time() - began
    assert took_s <= limit_s, f"the story took {took_s:.2f} s of processor time; the limit is {limit_s} s"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Crash points by story, and their sum."""
    points: Counter[str] = Counter()
    for report in terminalreporter.getreports("passed"):
        path = PurePath(report.location[0])
        if report.when == "call" and path.parent.name == "stories":
            story = path.stem.removeprefix("test_").replace("_", " ")
            points[story] += sum(map(int, CRASHED.findall(report.capstdout)))
    if not points.total():
        return
    terminalreporter.section("crash points tried, with the same end each time")
    for story, count in sorted((+points).items()):
        terminalreporter.write_line(f"{count:6} {story}")
    terminalreporter.write_line(f"{points.total():6} in all")
