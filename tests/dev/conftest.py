from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.cluster.embedded import EmbeddedPostgres
from tests.scratch import scratch_directory


@pytest.fixture
def data_dir() -> Iterator[Path]:
    with scratch_directory("dev-") as path:
        yield path


@pytest.fixture(scope="module")
def dsn() -> Iterator[str]:
    """A database of nobody's `perdure dev`."""
    with scratch_directory("dev-") as path, EmbeddedPostgres(path / "postgres") as server:
        yield server.dsn
