"""`perdure dev`: one command, everything runs; one Ctrl-C, nothing does; the next start finds the state."""

import contextlib
import os
import shutil
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from perdure.api.interrupts import ECHO_S

from .terminal import ROOT, Terminal, perdure

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(300)]

BASKET = "/entities/Basket/b%2F1"


def test_it_serves_stops_and_finds_its_state_again(data_dir: Path) -> None:
    with Terminal("tests.dev.shop", data_dir=data_dir) as first:
        first.until_ready()
        http = first.http
        assert http.get("/readyz").json() == {"status": "ready"}
        assert http.post(f"{BASKET}/add", json={"item": {"name": "apple", "count": 3}}).json() == 1
        assert http.post(f"{BASKET}/run/start", json={"times": 3}).status_code == 202
        assert http.post(f"{BASKET}/add", json={"item": {"name": 5}}).json()["errors"][0]["field"] == "item.name"
        assert "what happened" in http.post(f"{BASKET}/fail").json()["detail"]
        assert http.get(f"{BASKET}/count", headers={"host": "evil.example"}).status_code == 403
        assert http.get("/openapi.json").json()["paths"]["/entities/Basket/{key}/add"]

        second = perdure("dev", "tests.dev.shop", "--port", "0", "--data-dir", str(data_dir))
        assert second.returncode == 5
        assert second.stderr.startswith("error[already_running]: ")

        first.interrupt()
        assert first.ended() == 0, first.output
        first.nothing_is_left()
        assert "Traceback" not in first.output
        assert "worker died" not in first.output

    with Terminal("tests.dev.shop", data_dir=data_dir) as again:
        again.until_ready()
        http = again.http
        reply = http.get(f"{BASKET}/count?at_least=2")
        assert (reply.json(), int(reply.headers["perdure-version"]) >= 1) == (3, True)
        assert http.get(f"{BASKET}/run/result?timeout=0").status_code == 202
        assert http.post(f"{BASKET}/word", json="hello").status_code == 202
        assert http.get(f"{BASKET}/run/result?timeout=20").json() == "hello"
        again.process.send_signal(signal.SIGTERM)
        assert again.ended() == 0, again.output
        again.nothing_is_left()


def test_an_application_of_the_users_own(data_dir: Path) -> None:
    # As if another Ray cluster were the one to use, and were gone
    with Terminal("tests.dev.site", data_dir=data_dir, RAY_ADDRESS="127.0.0.1:1") as terminal:
        http = terminal.until_ready().http
        assert http.get("/total/opening").json() == 1
        assert http.post("/baskets/b-1/add", json={"item": {"name": "x", "count": 2}}).json() == 1
        assert http.get("/total/b-1").json() == 2
        assert http.get("/fail/b-1").json()["code"] == "handler_failed"
        assert http.get("/total/b-1", headers={"origin": "https://evil.example"}).status_code == 403
        assert "/console/\n" in terminal.output
        assert http.get("/console/").headers["content-type"].startswith("text/html")
        state = http.get("/console/api/entities/Basket/b-1/-/now").json()
        assert (state["version"], state["inbox"]) == (2, [])
        assert http.get("/console/api/readyz").json() == {"status": "ready"}
        assert http.get("/entities").status_code == 404, "the console has its API for itself"
        terminal.interrupt()
        assert terminal.ended() == 0, terminal.output
        terminal.nothing_is_left()


def test_a_call_under_way_is_finished_before_the_end(data_dir: Path) -> None:
    with Terminal("tests.dev.shop", data_dir=data_dir) as terminal:
        http = terminal.until_ready().http
        assert http.post(f"{BASKET}/ponder", json={"seconds": 0.0}).status_code == 200
        with ThreadPoolExecutor(1) as pool:
            slow = pool.submit(http.post, f"{BASKET}/ponder", json={"seconds": 3.0})
            time.sleep(1.5)
            terminal.interrupt()
            assert slow.result().status_code == 200
        assert terminal.ended() == 0
        terminal.nothing_is_left()


def test_twice_means_at_once(data_dir: Path) -> None:
    with Terminal("tests.dev.shop", data_dir=data_dir) as terminal:
        terminal.until_ready()
        terminal.interrupt()
        terminal.until("Stopping")
        time.sleep(ECHO_S + 0.1)
        terminal.interrupt()
        assert terminal.ended() in {0, 130}  # 0 if the first was faster
        terminal.nothing_is_left(within_s=60)
    with Terminal("tests.dev.shop", data_dir=data_dir) as again:
        again.until_ready()
        again.interrupt()
        assert again.ended() == 0


@pytest.mark.parametrize("after_s", [0.0, 1.0, 2.5, 5.0])
def test_it_can_be_stopped_while_it_starts(data_dir: Path, after_s: float) -> None:
    with Terminal("tests.dev.shop", data_dir=data_dir) as terminal:
        terminal.until("Making a database")
        time.sleep(after_s)
        terminal.interrupt()
        assert terminal.ended() == 0, terminal.output
        terminal.nothing_is_left()
        assert "Traceback" not in terminal.output


def test_killed_it_leaves_nothing_either(data_dir: Path) -> None:
    with Terminal("tests.dev.shop", data_dir=data_dir) as terminal:
        http = terminal.until_ready().http
        http.post(f"{BASKET}/add", json={"item": {"name": "apple", "count": 3}}).raise_for_status()
        terminal.process.kill()
        terminal.ended()
        terminal.nothing_is_left(within_s=60)
    with Terminal("tests.dev.shop", data_dir=data_dir) as again:
        assert again.until_ready().http.get(f"{BASKET}/count").json() == 3
        again.interrupt()
        assert again.ended() == 0


def test_postgres_is_started_again_when_it_dies(data_dir: Path) -> None:
    with Terminal("tests.dev.shop", data_dir=data_dir) as terminal:
        http = terminal.until_ready().http
        http.post(f"{BASKET}/add", json={"item": {"name": "apple", "count": 3}}).raise_for_status()
        servers = [p for p in psutil.process_iter() if _is_postmaster(p, data_dir)]
        assert len(servers) == 1
        for process in [*servers[0].children(), servers[0]]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        headers = {"idempotency-key": "after"}
        deadline = time.monotonic() + 60
        while True:
            reply = http.post(f"{BASKET}/add?timeout=20", json={"item": {"name": "pear"}}, headers=headers)
            if reply.status_code == 200 or time.monotonic() > deadline:
                break
            time.sleep(0.5)
        assert (reply.status_code, reply.json()) == (200, 2), f"{reply.text}\n{terminal.output}"
        terminal.interrupt()
        assert terminal.ended() == 0
        terminal.nothing_is_left()


def _is_postmaster(process: psutil.Process, data_dir: Path) -> bool:
    try:
        words = process.cmdline()
    except psutil.Error:
        return False
    return len(words) > 2 and words[0].endswith("postgres") and words[1] == "-D" and str(data_dir) in words[2]


def test_a_database_of_the_users_own(data_dir: Path, dsn: str) -> None:
    with Terminal("tests.dev.shop", "--namespace", "elsewhere", data_dir=data_dir, PERDURE_DSN=dsn) as terminal:
        http: httpx.Client = terminal.until_ready().http
        http.post(f"{BASKET}/add", json={"item": {"name": "apple"}}).raise_for_status()
        assert not (data_dir / "postgres").exists()
        assert dsn not in terminal.output
        terminal.interrupt()
        assert terminal.ended() == 0
        terminal.nothing_is_left()


@pytest.fixture
def ordinary() -> dict[str, Any]:
    """How to run as somebody else than root, with a Python that they can run."""
    python = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    if os.geteuid() != 0:
        pytest.skip("only root can start processes as other users")
    if not os.access(python, os.X_OK):
        pytest.skip(f"there is no {python}, and {sys.executable} may be out of reach for others")
    packages = Path(psutil.__file__).parents[1]
    return {
        "user": "nobody",
        "python": python,
        "PYTHONPATH": os.pathsep.join([str(ROOT / ".links"), str(ROOT), str(packages)]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": "/nonexistent",
    }


def test_an_ordinary_user(data_dir: Path, ordinary: dict[str, Any]) -> None:
    shutil.chown(data_dir, "nobody")
    with Terminal("tests.dev.shop", data_dir=data_dir, **ordinary) as terminal:
        http = terminal.until_ready().http
        assert http.post(f"{BASKET}/add", json={"item": {"name": "apple"}}).json() == 1
        owners = {process.username() for process in terminal.left_behind()}
        assert owners == {"nobody"}
        terminal.interrupt()
        assert terminal.ended() == 0
        terminal.nothing_is_left()


def test_an_ordinary_user_without_permission(data_dir: Path, ordinary: dict[str, Any]) -> None:
    with Terminal("tests.dev.shop", data_dir=data_dir / "data", **ordinary) as terminal:
        assert terminal.ended() == 1
        time.sleep(0.2)
        assert terminal.output.startswith("error[data_directory_unusable]: "), terminal.output
        assert "Permission denied" in terminal.output
        assert "--data-dir" in terminal.output
