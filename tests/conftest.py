"""What every test relies on: this checkout's code in every process, and no second copy of it."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

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
