"""`perdure dev` as a person uses it: a process, its output, signals, and what it leaves behind."""

import os
import pwd
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Self

import httpx
import psutil

ROOT = Path(__file__).resolve().parents[2]
START_S = 90.0
END_S = 90.0
MARK = "SHOP_TERMINAL"
"""In the environment of everything that is started from a terminal, so that nothing can hide."""
_URL = re.compile(r"http://\S+:\d+(?=\s)")


def perdure(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "tests.dev.main", *arguments],
        cwd=cwd,
        env=os.environ | {"NO_COLOR": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )


class Terminal:
    """One `perdure dev`, in a process group of its own, as a shell starts it."""

    def __init__(
        self, *arguments: str, data_dir: Path, python: str = sys.executable, user: str | None = None, **environment: str
    ) -> None:
        self.mark = uuid.uuid4().hex
        self.data_dir = data_dir
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self.process = subprocess.Popen(
            [python, "-m", "tests.dev.main", "dev", *arguments, "--port", "0", "--data-dir", str(data_dir)],
            cwd=ROOT,
            env=os.environ | {MARK: self.mark} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,
            user=user,
            group=None if user is None else pwd.getpwnam(user).pw_gid,
            extra_groups=None if user is None else [],
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.http = httpx.Client(timeout=30)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self._lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    @property
    def output(self) -> str:
        return "".join(self._lines)

    def until(self, text: str) -> Self:
        """Wait until `text` has been printed."""
        deadline = time.monotonic() + START_S
        with self._changed:
            while text not in self.output:
                assert time.monotonic() < deadline, f"no {text!r} in:\n{self.output}"
                assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.output}"
                self._changed.wait(0.2)
        return self

    def until_ready(self) -> Self:
        self.until("Ctrl-C stops it")
        found = _URL.search(self.output)
        assert found is not None, self.output
        self.http.base_url = httpx.URL(found[0])
        return self

    def interrupt(self) -> None:
        """What Ctrl-C does: SIGINT to everything in the foreground."""
        os.killpg(self.process.pid, signal.SIGINT)

    def ended(self) -> int:
        """Its exit code, once it has ended."""
        try:
            return self.process.wait(END_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"does not end:\n{self.output}") from None

    def left_behind(self) -> list[psutil.Process]:
        """Whatever it started that still runs."""
        found: list[psutil.Process] = []
        for process in psutil.process_iter():
            try:
                if process.status() == psutil.STATUS_ZOMBIE or process.pid == self.process.pid:
                    continue
                marked = process.environ().get(MARK) == self.mark
                ours = any(str(self.data_dir) in word for word in process.cmdline())
            except (psutil.Error, OSError):
                continue
            if marked or ours:
                found.append(process)
        return found

    def nothing_is_left(self, within_s: float = 0.0) -> None:
        deadline = time.monotonic() + within_s
        while left := self.left_behind():
            if time.monotonic() > deadline:
                raise AssertionError(f"left behind: {[(p.pid, p.cmdline()[:4]) for p in left]}\n{self.output}")
            time.sleep(0.05)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()
        if self.process.poll() is None:
            self.process.kill()
        for left in self.left_behind():
            left.kill()
        self.process.wait()
        self._reader.join(5)
        assert self.process.stdout is not None
        self.process.stdout.close()
