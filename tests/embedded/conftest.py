import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.cluster.embedded import EmbeddedPostgres
from perdure.cluster.embedded.processes import server_processes
from tests.scratch import scratch_directory

from .scene import insert

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start processes as other users")


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every account can reach, which pytest's tmp_path is not."""
    with scratch_directory("pg-") as path:
        yield path
        leaked = [process for data in path.glob("**/data") for process in server_processes(data)]
        for process in leaked:
            process.kill()
    assert not leaked, f"the test leaked {leaked}"


@pytest.fixture
def directory(open_directory: Path) -> Path:
    """Where a database may be made."""
    return open_directory / "postgres"


@pytest.fixture(scope="session")
def template() -> Iterator[Path]:
    """A stopped database that holds the number 1; making one takes a second, copying it nearly nothing."""
    with scratch_directory("pg-template-") as path:
        with EmbeddedPostgres(path / "postgres") as server:
            insert(server.dsn, 1)
        yield path / "postgres"


@pytest.fixture
def seeded(directory: Path, template: Path) -> Path:
    """A database of the test's own that holds the number 1."""
    subprocess.run(["cp", "-a", str(template), str(directory)], check=True)
    return directory


@pytest.fixture
def server(seeded: Path) -> Iterator[EmbeddedPostgres]:
    """The server of `seeded`, running."""
    with EmbeddedPostgres(seeded) as running:
        yield running
