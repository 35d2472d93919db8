"""Commands in processes of their own, without the seconds that their imports take.

A server that has imported everything forks for each command. From `main()` on it is what `terminal.perdure` starts:
arguments, environment, directory, output, exit code and end are its own. That the program starts from nothing too is
shown by what still goes through `terminal`.
"""

import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 90

Order = dict[str, Any]


class Warm:
    """The tests' side. `started()` makes one."""

    def __init__(self, server: "subprocess.Popen[str]", scratch: Path) -> None:
        self._server = server
        self._scratch = scratch

    def __call__(self, *arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run `perdure` with these arguments to its end."""
        out, err = self._scratch / "out", self._scratch / "err"
        environment = os.environ | {"NO_COLOR": "1"} | environment
        order = {"arguments": arguments, "cwd": str(cwd), "environment": environment, "out": str(out), "err": str(err)}
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(order) + "\n")
        self._server.stdin.flush()
        answer = self._server.stdout.readline()
        assert answer, "the warm server has ended"
        return subprocess.CompletedProcess(arguments, int(answer), out.read_text(), err.read_text())


@contextmanager
def started() -> Generator[Warm]:
    """A server for the time of the block."""
    with (
        tempfile.TemporaryDirectory(prefix="warm-") as scratch,
        subprocess.Popen(
            [sys.executable, "-m", "tests.dev.warm"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as server,
    ):
        yield Warm(server, Path(scratch))
        assert server.stdin is not None
        server.stdin.close()  # its end, too


# --- the server ---


def serve() -> Order | None:
    """Fork for each order that comes in. Returns it in the child, and None in the server when there are no more."""
    for line in iter(sys.stdin.readline, ""):
        order: Order = json.loads(line)
        child = os.fork()
        if child == 0:
            return order
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()
    return None


def become(order: Order) -> None:
    """Make this process what a shell would have started."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    out, err = (os.open(order[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for name in ("out", "err"))
    for number, descriptor in enumerate((nothing, out, err)):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["cwd"])
    sys.path[0] = order["cwd"]  # as `python -m` does
    sys.argv = ["perdure", *order["arguments"]]
    signal.alarm(LIMIT_S)  # whoever hangs ends here, and has an exit code that no test wants


if __name__ == "__main__":
    from perdure.api.cli import main

    for verb in ("changes", "database", "dev"):  # what commands import when they need it
        importlib.import_module(f"perdure.api.{verb}")
    gc.freeze()  # else each child looks at all of it once more when it ends
    if (order := serve()) is not None:
        become(order)
        main()
