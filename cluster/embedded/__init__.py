"""The embedded Postgres of the dev server: a real server in a directory of the project, no installation, no settings.

    with open_postgres(dsn=None, directory=Path(".perdure/postgres")) as dsn:
        ...

POSIX only; sync code, to be called from a thread where there is an event loop.
"""

from .binaries import Provider
from .errors import (
    BinariesNotFound,
    DataDirectoryIncompatible,
    DataDirectoryUnusable,
    DiskFull,
    PostgresUnavailable,
    StartFailed,
)
from .server import EmbeddedPostgres, open_postgres

__all__ = [
    "BinariesNotFound",
    "DataDirectoryIncompatible",
    "DataDirectoryUnusable",
    "DiskFull",
    "EmbeddedPostgres",
    "PostgresUnavailable",
    "Provider",
    "StartFailed",
    "open_postgres",
]
