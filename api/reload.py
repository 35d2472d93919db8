"""`perdure dev --reload`: the dev server in a process of its own, started again whenever the code has changed.

A whole new process, hosts included: nothing of the old code is left, and the state is in Postgres. Runs whose code no
longer fits are parked and say so, exactly as in a deploy. A module that cannot be imported is told, and the next change
tries again.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from .exits import Exit

POLL_S = 0.5
FILES_MAX = 20_000
"""More are not looked at: a directory of this size is not what somebody meant."""
_SKIPPED = frozenset({"__pycache__", "node_modules", "site-packages"})
_NOT_STARTED = frozenset({Exit.USAGE, Exit.OTHER})
"""How a server ends whose module is wrong: worth another try when it has changed."""

Say = Callable[[str], None]


def run(command: Sequence[str], root: Path, say: Say) -> int:
    """Run `command`, again after every change of Python files below `root`, until it ends; returns its exit code.

    SIGINT is left to the command, which gets it from the terminal as well; SIGTERM is passed on to it.
    """
    asked: list[int] = []
    before = {number: signal.signal(number, lambda given, _: asked.append(given)) for number in _SIGNALS}
    try:
        while True:
            seen = modified(root)
            server = subprocess.Popen(command)
            changed = _until_changed(server, root, seen, asked)
            code = _ended(server, asked)
            if not changed:
                if asked or code not in _NOT_STARTED:
                    return code
                say("Waiting for a change …")
                while not asked and modified(root) == seen:
                    time.sleep(POLL_S)
            if asked:
                return code
            say("The code has changed; starting again …")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _until_changed(server: subprocess.Popen[bytes], root: Path, seen: dict[str, int], asked: list[int]) -> bool:
    """Whether the code has changed, and the server is asked to end; false: it ends by itself, or is told to."""
    while server.poll() is None:
        if asked:
            return False
        if modified(root) != seen:
            server.send_signal(signal.SIGTERM)
            return True
        time.sleep(POLL_S)
    return False


def _ended(server: subprocess.Popen[bytes], asked: list[int]) -> int:
    """Wait for its end; its exit code. Every SIGTERM that has come, or comes meanwhile, is passed on."""
    passed = 0
    while True:
        for _ in range(asked.count(signal.SIGTERM) - passed):
            server.send_signal(signal.SIGTERM)
            passed += 1
        with contextlib.suppress(subprocess.TimeoutExpired):
            return server.wait(POLL_S)


def modified(root: Path) -> dict[str, int]:
    """When each Python file below `root` was last written, hidden directories and packages of others left out."""
    found: dict[str, int] = {}
    for path in _python_files(root):
        try:
            found[path] = os.stat(path).st_mtime_ns  # noqa: PTH116 - thousands of them, twice a second
        except OSError:  # it is just being replaced
            continue
        if len(found) >= FILES_MAX:
            break
    return found


def _python_files(root: Path) -> Iterator[str]:
    for directory, below, files in os.walk(root):
        below[:] = sorted(
            name
            for name in below
            if not name.startswith(".")
            and name not in _SKIPPED
            and not os.path.exists(os.path.join(directory, name, "pyvenv.cfg"))  # noqa: PTH110, PTH118 - as above
        )
        yield from (os.path.join(directory, name) for name in files if name.endswith(".py"))  # noqa: PTH118 - as above
