"""What every test relies on: this checkout's code in every process, and no second copy of it."""

import os
import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import hypothesis
import pytest

from perdure.cluster.embedded import BinariesNotFound
from perdure.cluster.embedded.account import choose_account
from perdure.cluster.embedded.binaries import choose_binaries

from . import hostile
from .scratch import scratch_directory

ROOT = Path(__file__).resolve().parent.parent

# pytest's own `pythonpath` ends with this process; Ray workers and subprocesses inherit the environment.
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / ".links"), str(ROOT)])
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--encrypted",
        action="store_true",
        help="the engine's tests on an encrypted store, and the store's tests also on an encrypted Postgres",
    )
    parser.addoption(
        "--hostile",
        choices=sorted(hostile.HOSTILE),
        default=os.environ.get("PERDURE_HOSTILE") or None,
        help="all engines set or treated badly, see hostile.py",
    )
    parser.addoption("--hostile-seed", type=int, default=None, help="chance of that; printed if it is not given")
    parser.addoption("--postgres", help="directory of the Postgres programs to use: tests/postgres")
    parser.addoption("--mutant", help="plant one of the bugs of simulation/mutants.py")


# A slow machine is no counterexample.
hypothesis.settings.register_profile("perdure", deadline=None, print_blob=True)
hypothesis.settings.load_profile("perdure")


@pytest.fixture(autouse=True)
def no_second_copies() -> Iterator[None]:
    """`import entities` also works from the checkout, and yields classes that are not those of `perdure.entities`."""
    yield
    copies = {"entities", "cluster", "api"} & sys.modules.keys()
    for name in copies:  # blame this test only
        del sys.modules[name]
    assert not copies, f"imported by their folder names: {sorted(copies)}; write perdure.<name>"


def pytest_configure(config: pytest.Config) -> None:
    if (programs := config.getoption("--postgres")) is not None:
        use_programs(Path(programs))
    name = config.getoption("--hostile")
    if name is not None:
        seed = config.getoption("--hostile-seed")
        hostile.chance.seed = random.randrange(10**6) if seed is None else seed
        hostile.HOSTILE[name].patch()
    if planted := config.getoption("--mutant"):
        from simulation.mutants import MUTANTS

        bug = ExitStack()
        bug.enter_context(MUTANTS[planted].planted())
        config.add_cleanup(bug.close)


def use_programs(directory: Path) -> None:
    """Have all servers of the run, and of its processes, be of these programs, which come first on the PATH.

    Asked again how a server is chosen, since programs that its account cannot run are passed over in silence.
    """
    os.environ["PATH"] = os.pathsep.join([str(directory), os.environ.get("PATH", os.defpath)])
    with scratch_directory("perdure-programs-") as place:
        try:
            chosen = choose_binaries("auto", account=choose_account(place, place), copies=place, data_major=None)
        except BinariesNotFound as error:
            raise pytest.UsageError(str(error)) from error
    if chosen.directory != directory.resolve():
        raise pytest.UsageError(f"--postgres={directory}: its programs do not run; {chosen.directory} would be used")


def pytest_report_header(config: pytest.Config) -> list[str]:
    name = config.getoption("--hostile")
    return [f"hostile: {name}, --hostile-seed={hostile.chance.seed}"] if name is not None else []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if getattr(config.option, "loadgroup", False):
        items.sort(key=_may_take_s, reverse=True)  # the longest first, or else all wait for it in the end
    name: str | None = config.getoption("--hostile")
    if name is None:
        return
    for item in items:
        for mark in item.iter_markers("unfit"):
            if hostile.unfit(mark.args, name):
                item.add_marker(pytest.mark.skip(reason=mark.kwargs["reason"]))


def _may_take_s(item: pytest.Item) -> float:
    mark = item.get_closest_marker("timeout")
    return float(mark.args[0]) if mark is not None else 0.0


@pytest.fixture(autouse=True)
def hostile_world(request: pytest.FixtureRequest) -> Iterator[None]:
    """Chance of its own for each test, and what the replay check found in it."""
    hostile.chance.begin(request.node.nodeid)
    yield
    found, hostile.findings[:] = [*hostile.findings], []
    assert not found, f"not repeatable: {found}"
