"""The guard: a small process that runs the server as its child, and ends it when the owner is gone.

    python -I -S guard.py '<order as JSON>'      standard input: a pipe whose other end only the owner holds

It drops root first, opens the log, starts the postmaster in a session of its own, reports `{"pid": …}` or
`{"error": …}` on standard output, and then waits for the first of

* the postmaster ends: so does the guard, with a status that tells whether the postmaster succeeded;
* standard input ends, which the kernel brings about however the owner died, or SIGTERM, SIGINT: it stops the server
  (fast, then immediate shutdown, then SIGKILL). The pid is that of its own unreaped child, so it cannot hit another.

It is also the one to reap the postmaster, so that a dead server does not linger as a zombie while the owner lives.
Why not PR_SET_PDEATHSIG: that fires when the *thread* that forked ends, which for a server started in a worker thread
is at any time; setuid clears it; only Linux has it; and it could not follow up on a shutdown that hangs.
If the guard itself is killed, the server goes on; its owner still stops it, or the next start adopts it.

Nothing but the standard library is imported here, and nothing of the package: the interpreter runs without site.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

FAST_S = 30.0
IMMEDIATE_S = 10.0
LOG_MAX_BYTES = 16 * 1024 * 1024


def main() -> int:
    """Run and guard one server, to its end. Returns the exit status."""
    order = json.loads(sys.argv[1])
    wake = _watch_signals()
    try:
        server = _start(order)
    except OSError as error:
        print(json.dumps({"error": str(error), "errno": error.errno}), flush=True)  # noqa: T201
        return 1
    print(json.dumps({"pid": server.pid}), flush=True)  # noqa: T201
    return 0 if _attend(server, wake) == 0 else 1


def _start(order: dict[str, Any]) -> subprocess.Popen[bytes]:
    if order["uid"] is not None:
        os.setgroups([])
        os.setgid(order["gid"])
        os.setuid(order["uid"])
    os.umask(0o077)
    log_path = Path(order["log"])
    with contextlib.suppress(FileNotFoundError):
        if log_path.stat().st_size > LOG_MAX_BYTES:
            log_path.replace(log_path.with_suffix(".log.1"))
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        return subprocess.Popen(
            order["command"],
            cwd=order["cwd"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    finally:
        os.close(log)


def _watch_signals() -> int:
    """A descriptor that yields the numbers of signals received, SIGCHLD among them."""
    wake, write_end = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    return wake


def _attend(server: subprocess.Popen[bytes], wake: int) -> int:
    owner = 0
    sources = [wake, owner]
    remaining = [(signal.SIGINT, FAST_S), (signal.SIGQUIT, IMMEDIATE_S), (signal.SIGKILL, IMMEDIATE_S)]
    next_at: float | None = None  # when to take the next step of `remaining`; None while all is well
    while (status := server.poll()) is None:
        patience_s = None if next_at is None or not remaining else max(0.0, next_at - time.monotonic())
        ready, _, _ = select.select(sources, [], [], patience_s)
        must_end = False
        if owner in ready and not os.read(owner, 64):
            sources.remove(owner)
            must_end = True
        if wake in ready:
            numbers = os.read(wake, 64)
            must_end = must_end or signal.SIGTERM in numbers or signal.SIGINT in numbers
        if must_end and next_at is None:
            next_at = time.monotonic()
        if next_at is not None and time.monotonic() >= next_at and remaining:
            number, patience_s = remaining.pop(0)
            server.send_signal(number)
            next_at = time.monotonic() + patience_s
    return status


if __name__ == "__main__":
    sys.exit(main())
