"""The tests that are about Postgres, on several versions of it, one after the other: `make postgres-versions`.

    python -m tests.postgres [VERSION | DIRECTORY ...] [--only SUITE] [--pytest=ARGUMENT ...]

A VERSION is a major one (16: the newest of it), a minor one (16.14) or one of npm's own (16.14.0-beta.17); a DIRECTORY
has `initdb` and `postgres`, such as /usr/lib/postgresql/15/bin. Ends with exit code 1 if anything failed, or could not
be fetched or run.
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from perdure.cluster.embedded import PostgresUnavailable
from perdure.cluster.embedded.account import choose_account
from perdure.cluster.embedded.binaries import Binaries, choose_binaries
from perdure.cluster.postgres.majors import MAJOR_MIN, MAJOR_TESTED_MAX
from tests.scratch import scratch_directory

from .outcomes import Outcome, read, render
from .packages import NotFetched, cache_directory, fetch

ROOT = Path(__file__).resolve().parents[2]
MAJORS = [str(major) for major in range(MAJOR_MIN, MAJOR_TESTED_MAX + 1)]

SUITES: Mapping[str, Sequence[str]] = {
    # conformance, every migration, the start-up guard, broken sessions, a killed server, PgBouncer, backups, damage
    "store": ("tests/store",),
    # initdb, kill -9 of the whole server, restarts
    "server": ("tests/embedded",),
    # perdure db check, upgrade, verify, fence; perdure doctor
    "commands": ("tests/commands/test_bad_configuration.py",),
    # hosts on Ray, directly and through a pooler; a server that dies under `perdure dev`
    "cluster": (
        "tests/cluster/test_smoke.py",
        "tests/cluster/test_pooler.py",
        "tests/dev/test_life.py::test_postgres_is_started_again_when_it_dies",
    ),
    # food delivery over HTTP, and all of it again after everything was down
    "delivery": (
        "tests/acceptance/test_food_delivery.py::test_an_order_is_paid_picked_up_delivered_and_rated",
        "tests/acceptance/test_food_delivery.py::test_orders_go_on_after_everything_was_down",
    ),
}


@contextmanager
def programs(wanted: str) -> Generator[Binaries]:
    """The programs, checked to run under the account that servers run under.

    Raises NotFetched, or PostgresUnavailable if they do not run.
    """
    with scratch_directory("perdure-postgres-") as place:
        if (given := Path(wanted)).is_dir():
            directory = given.resolve()
        else:
            # A copy: the account of the server cannot look into a cache below /root.
            shutil.copytree(fetch(wanted, cache_directory()), place / "native", symlinks=True)
            directory = place / "native" / "bin"
        account = choose_account(place, place)
        yield choose_binaries(directory, account=account, copies=place, data_major=None)


def run(suite: str, binaries: Binaries, more: Sequence[str]) -> Outcome:
    """One suite on one server; its output goes to the terminal as it comes."""
    with scratch_directory("perdure-report-") as place:
        report = place / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-n", "0", f"--postgres={binaries.directory}"]
        command += [f"--junit-xml={report}", *more, *SUITES[suite]]
        status = subprocess.run(command, cwd=ROOT, check=False).returncode
        return read(report, version=binaries.version, suite=suite, status=status)


def main(arguments: Sequence[str] | None = None) -> int:
    """All versions, or those named, one after the other."""
    parser = argparse.ArgumentParser(prog="python -m tests.postgres", description=main.__doc__)
    parser.add_argument("versions", nargs="*", metavar="VERSION", help=f"default: {' '.join(MAJORS)}")
    parser.add_argument("--only", action="append", choices=SUITES, help="this suite; may be repeated")
    parser.add_argument("--pytest", action="append", default=[], metavar="ARGUMENT", help="for pytest, such as -x")
    asked = parser.parse_args(arguments)
    outcomes: list[Outcome] = []
    for wanted in asked.versions or MAJORS:
        try:
            with programs(wanted) as binaries:
                for suite in asked.only or SUITES:
                    print(f"Postgres {binaries.version} of {binaries.directory}: {suite}", flush=True)
                    outcomes.append(run(suite, binaries, asked.pytest))
        except (NotFetched, PostgresUnavailable) as error:
            outcomes.append(Outcome(version=wanted, suite="none", problem=str(error)))
    print(render(outcomes))
    return 0 if all(outcome.is_good for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
