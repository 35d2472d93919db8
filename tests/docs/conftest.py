"""One server for all pages, and how many of their blocks are executed, told at the end."""

from collections import Counter
from collections.abc import Iterator

import pytest

from perdure.cluster.embedded import EmbeddedPostgres
from tests.scratch import scratch_directory


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedPostgres]:
    with scratch_directory("perdure-docs-") as directory, EmbeddedPostgres(directory / "postgres") as running:
        yield running


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many blocks are executed, and why the others are not."""
    reports = terminalreporter.getreports("passed")
    if not any(report.location[0] == "tests/docs/test_blocks.py" for report in reports):
        return
    from .test_blocks import INVENTORY, Held, NotRun, Run  # only where pytest has rewritten it

    hows = [how for page in INVENTORY.values() for how in page]
    count = Counter(map(type, hows))
    terminalreporter.section("code blocks of the documentation")
    terminalreporter.write_line(f"{count[Run]:4} are run")
    terminalreporter.write_line(f"{count[Held]:4} are held to what is run, printed or parsed")
    for reason, number in Counter(how.reason for how in hows if isinstance(how, Held)).items():
        terminalreporter.write_line(f"{number:8} {reason}")
    terminalreporter.write_line(f"{count[NotRun]:4} are only read")
    for reason, number in Counter(how.reason for how in hows if isinstance(how, NotRun)).items():
        terminalreporter.write_line(f"{number:8} {reason}")
