import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.cluster.embedded import EmbeddedPostgres


def _scratch() -> Iterator[Path]:
    """Where every account can reach it, which pytest's tmp_path is not; in memory where there is enough of it."""
    roomy = os.access("/dev/shm", os.W_OK) and shutil.disk_usage("/dev/shm").free > 1 << 30
    path = Path(tempfile.mkdtemp(prefix="dev-", dir="/dev/shm" if roomy else "/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def data_dir() -> Iterator[Path]:
    yield from _scratch()


@pytest.fixture(scope="module")
def dsn() -> Iterator[str]:
    """A database of nobody's `perdure dev`."""
    for path in _scratch():
        with EmbeddedPostgres(path / "postgres") as server:
            yield server.dsn
