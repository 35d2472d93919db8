"""What came of a run of pytest, from its JUnit report, and the table of all of them."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree as ET


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One suite on one server, or the reason why it was not run."""

    version: str
    suite: str
    passed: int = 0
    failed: tuple[str, ...] = ()
    """Names of tests, those that broke outside of their own code included."""
    skipped: Counter[str] = field(default_factory=Counter)
    """How many by reason."""
    seconds: float = 0.0
    problem: str = ""
    """What prevented the run, or ended it."""

    @property
    def is_good(self) -> bool:
        """Whether it shows anything: something passed, and nothing failed."""
        return not self.failed and not self.problem and self.passed > 0


def read(report: Path, *, version: str, suite: str, status: int) -> Outcome:
    """From the report that pytest wrote before it ended with `status`."""
    try:
        cases = ET.parse(report).getroot().findall(".//testcase")
    except (OSError, ET.ParseError) as error:
        return Outcome(version=version, suite=suite, problem=f"pytest ended with status {status}, no report: {error}")
    # A test that failed and whose teardown broke, too, is two cases: a name counts once.
    failed = dict.fromkeys(_name(case) for case in cases if _has(case, "failure") or _has(case, "error"))
    skipped = Counter(mark.get("message", "") for case in cases for mark in case.findall("skipped"))
    passed = {_name(case) for case in cases if not _has(case, "skipped")} - failed.keys()
    return Outcome(
        version=version,
        suite=suite,
        passed=len(passed),
        failed=tuple(failed),
        skipped=skipped,
        seconds=sum(float(case.get("time", 0)) for case in cases),
        problem="" if status == 0 or failed else f"pytest ended with status {status}",
    )


def render(outcomes: Sequence[Outcome]) -> str:
    """The table, as in docs/reports/postgres-versions.md, and below it whatever is not a pass."""
    lines = ["| Postgres | suite | passed | failed | skipped | seconds |", "|---|---|---|---|---|---|"]
    for outcome in outcomes:
        failed = outcome.problem.partition("\n")[0] or len(outcome.failed)
        counts = f"{outcome.passed} | {failed} | {outcome.skipped.total()} | {outcome.seconds:.0f}"
        lines.append(f"| {outcome.version} | {outcome.suite} | {counts} |")
    return "\n".join([*lines, *_remarks(outcomes)])


def _remarks(outcomes: Iterable[Outcome]) -> Iterable[str]:
    for outcome in outcomes:
        where = f"{outcome.version}, {outcome.suite}"
        if outcome.problem:
            yield f"FAILED  {where}: {outcome.problem}"
        elif not outcome.is_good and not outcome.failed:
            yield f"FAILED  {where}: no test ran"
        for name in outcome.failed:
            yield f"FAILED  {where}: {name}"
        for reason, count in outcome.skipped.items():
            yield f"skipped {where}: {count} ({reason})"


def _has(case: ET.Element, kind: str) -> bool:
    return case.find(kind) is not None


def _name(case: ET.Element) -> str:
    return f"{case.get('classname')}::{case.get('name')}"
