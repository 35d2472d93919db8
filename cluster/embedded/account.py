"""Under which account the server runs.

Postgres refuses to run as root. Started as root we use an account that exists already, and never create one:
the owner of the data if there is data, else the owner of the project when that is an ordinary user (the files then
stay usable without root), else `postgres`, else `nobody`. Anybody but root runs the server as himself.
"""

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .errors import DataDirectoryUnusable

FALLBACK_NAMES = ("postgres", "nobody", "daemon")
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR")


@dataclass(frozen=True, kw_only=True)
class Account:
    """An account other than our own; `None` in its place means our own."""

    name: str
    uid: int
    gid: int


def choose_account(directory: Path, data: Path) -> Account | None:
    """The account for the server of `directory`, or None when we may run it as ourselves.

    Raises DataDirectoryUnusable if we are root and the system has no unprivileged account at all.
    """
    if os.geteuid() != 0:
        return None
    if data.exists() and (keeper := _account_of(data.stat().st_uid)) is not None:
        return keeper
    if (owner := _account_of(_nearest_existing(directory).stat().st_uid)) is not None:
        return owner
    for name in FALLBACK_NAMES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(name=name, uid=entry.pw_uid, gid=entry.pw_gid)
    raise DataDirectoryUnusable(
        "Postgres does not run as root, and this system has no other account to run it under"
        f" (looked for {', '.join(FALLBACK_NAMES)}). Start Perdure as an ordinary user, or give the DSN of a server."
    )


def run_as(account: Account | None, command: list[str], *, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a short command to its end under `account`, in an environment that holds none of our secrets."""
    return subprocess.run(
        command,
        user=None if account is None else account.uid,
        group=None if account is None else account.gid,
        extra_groups=None if account is None else [],
        cwd="/" if cwd is None else cwd,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        umask=0o077,
        start_new_session=True,  # Ctrl-C in the terminal is for us to handle, in order
        check=False,
    )


def can_enter(account: Account | None, directory: Path) -> bool:
    """Whether the account can reach the directory. The kernel is asked: modes alone do not tell (ACLs, mounts)."""
    return run_as(account, ["/bin/sh", "-c", 'cd "$1"', "sh", str(directory)]).returncode == 0


def environment() -> dict[str, str]:
    """What the server's programs get to see of our environment: no PG* variable, no secret, messages in English."""
    kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return {"PATH": os.defpath, **kept, "LC_ALL": "C"}


def _account_of(uid: int) -> Account | None:
    """None for root, and for owners without an entry in passwd: initdb refuses to run as them."""
    if uid == 0:
        return None
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return None
    return Account(name=entry.pw_name, uid=uid, gid=entry.pw_gid)


def _nearest_existing(path: Path) -> Path:
    return next(candidate for candidate in (path, *path.parents) if candidate.exists())
