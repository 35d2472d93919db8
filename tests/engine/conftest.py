"""The engine on a memory store that can fail."""

from collections.abc import AsyncGenerator, Generator

import pytest

from perdure.entities.engine.settings import EngineSettings
from perdure.entities.testing import LocalCluster

from .encrypted import encrypt_faulty_stores
from .faults import FaultyStore
from .scenes import Account, world


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--encrypted", default=False):
        encrypt_faulty_stores()


QUICK = EngineSettings(handler_grace_s=0.05, mail_poll_s=0.2)


@pytest.fixture(autouse=True)
def fresh_world() -> Generator[None]:
    world.reset()
    yield
    world.reset()


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore()


@pytest.fixture
async def cluster(store: FaultyStore) -> AsyncGenerator[LocalCluster]:
    """One host with accounts."""
    async with LocalCluster([Account], store=store, settings=QUICK) as cluster:
        yield cluster
