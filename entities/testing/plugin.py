"""The pytest plugin: the fixture `perdure`, with no configuration and with or without an asyncio plugin.

`perdure([Order], activities=[...])` makes a `PerdureTest`; every test that asks for the fixture may be `async def`.
`pytest --perdure-evict` runs every such world with nothing kept in memory between turns, `--perdure-seed=7` with
another seed.
"""

import asyncio
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from .world import PerdureTest

MakeWorld = Callable[..., PerdureTest]


def pytest_addoption(parser: pytest.Parser) -> None:
    """The two options."""
    group = parser.getgroup("perdure")
    group.addoption("--perdure-evict", action="store_true", help="test worlds keep nothing in memory between turns")
    group.addoption("--perdure-seed", type=int, default=0, help="seed of ids and chance in test worlds (default 0)")


@pytest.fixture
def perdure(request: pytest.FixtureRequest) -> MakeWorld:
    """What makes test worlds. It takes what PerdureTest takes; see the module."""
    config = request.config
    return partial(
        PerdureTest, evict=bool(config.getoption("perdure_evict")), seed=int(config.getoption("perdure_seed") or 0)
    )


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> object:
    """Run an `async def` test that uses the fixture, unless an asyncio plugin has made it its own."""
    test: Any = pyfuncitem.obj
    if not inspect.iscoroutinefunction(test) or "perdure" not in pyfuncitem.fixturenames:
        return None
    if pyfuncitem.get_closest_marker("asyncio") or pyfuncitem.get_closest_marker("anyio"):
        return None
    names = inspect.signature(test).parameters
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(test(**{name: pyfuncitem.funcargs[name] for name in names if name in pyfuncitem.funcargs}))
    return True
