"""Where tests keep databases: in memory where there is enough of it. No test pulls the plug, and fsync on a disk that
several tests use takes as long as all of them write."""

import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

MEMORY = "/dev/shm"
ENOUGH_BYTES = 2 << 30


def scratch() -> str:
    """A directory for temporary files."""
    is_roomy = os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > ENOUGH_BYTES
    return MEMORY if is_roomy else tempfile.gettempdir()


@contextmanager
def scratch_directory(prefix: str) -> Generator[Path]:
    """A directory for the time of the block that every account can reach: as root, Postgres runs as somebody else."""
    path = Path(tempfile.mkdtemp(prefix=prefix, dir=scratch()))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
