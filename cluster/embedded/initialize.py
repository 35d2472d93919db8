"""Creating the data directory: all or nothing, by initdb under a provisional name and a rename."""

import os
import pwd
import secrets
import shutil

from .account import run_as
from .binaries import Binaries
from .errors import DataDirectoryUnusable, DiskFull, StartFailed
from .place import Place
from .settings import ROLE

_PARTIAL = "data.partial-"


def data_major(place: Place) -> int | None:
    """The major version of Postgres that wrote the data; None if there is no data yet.

    Raises DataDirectoryUnusable if there is something, but not a Postgres data directory.
    """
    if not place.data.exists():
        return None
    try:
        return int((place.data / "PG_VERSION").read_text(encoding="ascii").split(".")[0])
    except (FileNotFoundError, ValueError) as error:
        raise DataDirectoryUnusable(
            f"{place.data} is not a Postgres data directory: its PG_VERSION is missing or makes no sense."
            " Restore it from a backup, or remove it to start with an empty database."
        ) from error


def create_data_directory(place: Place, binaries: Binaries) -> None:
    """Run initdb. The caller holds the owner lock.

    UTF-8 and the C locale, so that text sorts by code point with every build of Postgres; data checksums; a superuser
    `perdure`, trusted on the socket, whose directory only our account can enter.

    Raises StartFailed or DiskFull, after which a second attempt finds a clean slate.
    """
    _require_user_name(place)
    for abandoned in place.server.glob(f"{_PARTIAL}*"):
        shutil.rmtree(abandoned, ignore_errors=True)
    partial = place.server / f"{_PARTIAL}{secrets.token_hex(4)}"
    options = (
        *("--username", ROLE),
        *("--auth-local=trust", "--auth-host=reject"),
        *("--encoding=UTF8", "--locale=C"),
        *("--data-checksums", "--no-instructions"),
    )
    done = run_as(place.account, [str(binaries.initdb), "-D", str(partial), *options])
    if done.returncode != 0:
        shutil.rmtree(partial, ignore_errors=True)
        if "No space left on device" in done.stdout:
            raise DiskFull(f"No space left on the device of {place.server} for a new database. Free about 100 MB.")
        raise StartFailed(f"{binaries.initdb} could not create a database in {place.server}:\n{done.stdout.strip()}")
    partial.rename(place.data)
    descriptor = os.open(place.server, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _require_user_name(place: Place) -> None:
    """An account without a name will not do: initdb wants an entry in passwd (containers often lack it)."""
    try:
        pwd.getpwuid(place.owner_uid)
    except KeyError:
        raise StartFailed(
            f"User number {place.owner_uid} has no entry in /etc/passwd, without which initdb refuses to run."
            " Add one to the container image, or give the DSN of a server."
        ) from None
