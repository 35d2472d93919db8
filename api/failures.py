"""Errors of the command line: one line on standard error, and an exit code that a script can act on."""

import platform
import sys

from ..cluster.embedded import (
    BinariesNotFound,
    DataDirectoryIncompatible,
    DataDirectoryUnusable,
    DiskFull,
    PostgresUnavailable,
)
from ..entities.errors import DefinitionError, PerdureError, StartRefused, Unavailable
from ..entities.store.port import StoreUnavailable
from .exits import Exit
from .serve import AddressRefused, InsecureBind


class Failure(Exception):
    """What the person at the terminal reads: `error[code]: message`."""

    def __init__(self, code: str, message: str, exit_code: Exit) -> None:
        super().__init__(message)
        self.code = code
        self.exit_code = exit_code

    def __str__(self) -> str:
        return f"error[{self.code}]: {self.args[0]}"


_EXITS: tuple[tuple[type[Exception], str, Exit], ...] = (
    (InsecureBind, InsecureBind.code, Exit.USAGE),
    (AddressRefused, AddressRefused.code, Exit.CONFLICT),
    (DefinitionError, DefinitionError.code, Exit.USAGE),
    (StartRefused, StartRefused.code, Exit.CONFLICT),
    (StoreUnavailable, StoreUnavailable.code, Exit.UNREACHABLE),
    (Unavailable, Unavailable.code, Exit.UNREACHABLE),
    (PerdureError, "error", Exit.OTHER),
    (BinariesNotFound, "postgres_not_found", Exit.UNREACHABLE),
    (DataDirectoryUnusable, "data_directory_unusable", Exit.OTHER),
    (DataDirectoryIncompatible, "data_directory_incompatible", Exit.CONFLICT),
    (DiskFull, "disk_full", Exit.OTHER),
    (PostgresUnavailable, "postgres_failed", Exit.UNREACHABLE),
)


def failure_of(error: BaseException) -> Failure:
    """Any error as a line and an exit code."""
    if isinstance(error, Failure):
        return error
    for cls, code, exit_code in _EXITS:
        if isinstance(error, cls):
            own_code = error.code if isinstance(error, PerdureError) and code == "error" else code
            return Failure(own_code, " ".join(str(error).split()), exit_code)
    text = " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError) and error.name == "ray":
        return Failure(
            "ray_missing",
            f"Ray is not installed for {sys.executable} (Python {platform.python_version()}): "
            "`pip install ray` there, or use a Python that Ray has a wheel for",
            Exit.UNREACHABLE,
        )
    return Failure(
        "unexpected", f"{type(error).__name__}{': ' + text if text else ''} (--debug shows where)", Exit.OTHER
    )
