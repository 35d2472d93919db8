import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.cluster.embedded import EmbeddedPostgres
from perdure.cluster.embedded.processes import server_processes

from .scene import insert

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start processes as other users")


def _scratch() -> str:
    """Memory where there is enough of it: initdb writes a thousand files. No test here pulls the plug."""
    memory = "/dev/shm"
    roomy = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 1 << 30
    return memory if roomy else "/tmp"


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every account can reach, which pytest's tmp_path is not."""
    path = Path(tempfile.mkdtemp(prefix="pg-", dir=_scratch()))
    path.chmod(0o755)
    yield path
    leaked = [process for data in path.glob("**/data") for process in server_processes(data)]
    for process in leaked:
        process.kill()
    shutil.rmtree(path)
    assert not leaked, f"the test leaked {leaked}"


@pytest.fixture
def directory(open_directory: Path) -> Path:
    """Where a database may be made."""
    return open_directory / "postgres"


@pytest.fixture(scope="session")
def template() -> Iterator[Path]:
    """A stopped database that holds the number 1; making one takes a second, copying it nearly nothing."""
    path = Path(tempfile.mkdtemp(prefix="pg-template-", dir=_scratch()))
    path.chmod(0o755)
    with EmbeddedPostgres(path / "postgres") as server:
        insert(server.dsn, 1)
    yield path / "postgres"
    shutil.rmtree(path)


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
