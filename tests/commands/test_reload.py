"""`--reload` on a server that is a small script: it is started again after a change, and ends as it is asked to."""

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from perdure.api.reload import modified
from tests.dev.terminal import ROOT

RUN = """
import sys
from pathlib import Path
from perdure.api import reload
reload.POLL_S = 0.01
sys.exit(reload.run([sys.executable, "server.py"], Path.cwd(), lambda text: print(text, flush=True)))
"""
SERVER = """
import signal
import sys
asked = {{signal.SIGTERM, signal.SIGINT}}
signal.pthread_sigmask(signal.SIG_BLOCK, asked)
print("{text}", flush=True)
{then}
"""
"""It waits for signals rather than being interrupted by them: one that comes early is not lost."""
ENDS = "sys.exit(7 if signal.sigwait(asked) == signal.SIGINT else 0)"
LINGERS = """while signal.sigwait(asked) != signal.SIGINT:
    print("asked", flush=True)
sys.exit(7)"""


def write(directory: Path, text: str, then: str = ENDS) -> None:
    """In one step: half a file would be a change of its own."""
    new = directory / "server.new"
    new.write_text(SERVER.format(text=text, then=then))
    new.replace(directory / "server.py")


@pytest.fixture
def server(tmp_path: Path) -> Generator[subprocess.Popen[str]]:
    write(tmp_path, "first")
    with subprocess.Popen(
        [sys.executable, "-c", RUN],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{ROOT}/.links:{ROOT}"},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        yield process
        process.kill()


def told(server: subprocess.Popen[str]) -> str:
    assert server.stdout is not None
    return server.stdout.readline().rstrip("\n")


def test_a_change_starts_it_again(server: subprocess.Popen[str], tmp_path: Path) -> None:
    assert told(server) == "first"
    for text in ("second", "third"):
        write(tmp_path, text)
        assert told(server) == "The code has changed; starting again …"
        assert told(server) == text
    server.terminate()
    assert server.wait() == 0


def test_what_does_not_start_is_tried_again_with_the_next_change(server: subprocess.Popen[str], tmp_path: Path) -> None:
    assert told(server) == "first"
    write(tmp_path, "wrong", then="sys.exit(2)")
    assert [told(server) for _ in range(3)] == [
        "The code has changed; starting again …",
        "wrong",
        "Waiting for a change …",
    ]
    write(tmp_path, "right")
    assert [told(server) for _ in range(2)] == ["The code has changed; starting again …", "right"]
    server.terminate()
    assert server.wait() == 0


def test_it_ends_as_the_server_ends(server: subprocess.Popen[str], tmp_path: Path) -> None:
    assert told(server) == "first"
    write(tmp_path, "second", then="sys.exit(5)")
    assert [told(server) for _ in range(2)][-1] == "second"
    assert server.wait() == 5


def test_ctrl_c_is_the_servers(server: subprocess.Popen[str]) -> None:
    assert told(server) == "first"
    os.killpg(server.pid, signal.SIGINT)
    assert server.wait() == 7


def test_ctrl_c_while_the_old_server_ends_starts_no_new_one(server: subprocess.Popen[str], tmp_path: Path) -> None:
    linger(server, tmp_path)
    os.killpg(server.pid, signal.SIGINT)
    assert server.communicate()[0] == ""
    assert server.returncode == 7


def test_a_signal_to_end_is_passed_on_while_the_old_server_ends(server: subprocess.Popen[str], tmp_path: Path) -> None:
    linger(server, tmp_path)
    server.terminate()
    assert told(server) == "asked"
    os.killpg(server.pid, signal.SIGINT)
    assert server.communicate()[0] == ""
    assert server.returncode == 7


def linger(server: subprocess.Popen[str], directory: Path) -> None:
    """Until its code has changed and the server, which takes its time, has been asked to end."""
    assert told(server) == "first"
    write(directory, "slow", then=LINGERS)
    assert [told(server) for _ in range(2)][-1] == "slow"
    write(directory, "new")
    assert told(server) == "asked"


def test_only_code_of_ones_own_is_looked_at(tmp_path: Path) -> None:
    for name in ("app.py", "shop/cart.py", "shop/page.html", ".perdure/x.py", "venv/lib/y.py", "a/__pycache__/z.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    (tmp_path / "venv" / "pyvenv.cfg").write_text("")
    assert {str(Path(path).relative_to(tmp_path)) for path in modified(tmp_path)} == {"app.py", "shop/cart.py"}
