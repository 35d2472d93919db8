"""What goes wrong on the command line is one line with a code, a hint and an exit code; never a traceback."""

import os
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from . import terminal
from .terminal import ROOT
from .warm import Warm, started

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("errors")]

Dev = Callable[..., object]
LINE = re.compile(r"error\[([a-z_]+)\]: (.+)\n")


def failed(done: object, code: str, exit_code: int) -> str:
    """The message of a command that failed in this way."""
    returncode, stderr = getattr(done, "returncode", None), str(getattr(done, "stderr", ""))
    found = LINE.fullmatch(stderr)
    assert found is not None, stderr
    assert (found[1], returncode) == (code, exit_code), stderr
    return found[2]


@pytest.fixture(scope="module")
def perdure() -> Iterator[Warm]:
    """Runs a command: forty starts from nothing would take minutes."""
    with started() as warm:
        yield warm


@pytest.fixture(scope="module")
def dev(perdure: Warm) -> Dev:
    """Runs `perdure dev`, which must fail."""

    def run(*arguments: str, data_dir: Path, cwd: Path = ROOT, **environment: str) -> object:
        if "--port" not in arguments:
            arguments = (*arguments, "--port", "0")
        return perdure("dev", *arguments, "--data-dir", str(data_dir), cwd=cwd, **environment)

    return run


def test_a_port_that_is_taken(dev: Dev, data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        message = failed(dev("tests.dev.shop", "--port", str(port), data_dir=data_dir), "address_refused", 5)
    assert f"port {port}" in message
    assert "--port" in message
    assert not (data_dir / "postgres").exists()


@pytest.mark.parametrize("port", ["99999", "-1", "x"])
def test_a_port_that_is_none(perdure: Warm, data_dir: Path, port: str) -> None:
    done = perdure("dev", "tests.dev.shop", "--port", port, "--data-dir", str(data_dir))
    assert done.returncode == 2
    assert "--port" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("no.such.module", "module_not_found"),
        ("tests.dev.nothing", "module_not_found"),
        ("tests/dev/shop.py", "bad_module"),
        ("tests.dev.terminal", "no_entities"),
        ("tests.dev.shop:application", "no_app"),
        ("tests.dev.shop:Item", "no_app"),
        ("", "bad_module"),
    ],
)
def test_a_module_that_is_none(dev: Dev, data_dir: Path, module: str, code: str) -> None:
    message = failed(dev(module, data_dir=data_dir), code, 2)
    assert module.split(":", maxsplit=1)[0].split(".", maxsplit=1)[0] in message


@pytest.mark.parametrize(
    ("text", "code", "part"),
    [
        ("import nothing_of_this_name", "import_failed", "nothing_of_this_name"),
        ("def f(:", "import_failed", "broken.py:1"),
        ("\n\n1 / 0", "import_failed", "broken.py:3: ZeroDivisionError"),
        ("raise SystemExit(3)", "import_failed", "sys.exit(3)"),
        (
            "from perdure.entities import Entity\nclass A(Entity):\n    x: int\n",
            "bad_definition",
            "field `x` has no default",
        ),
        (
            "from perdure.entities import Entity\ndef make():\n    class A(Entity): pass\n    return A\nA = make()\n",
            "bad_definition",
            "inside a function",
        ),
    ],
    ids=["missing", "syntax", "raises", "exits", "field", "local"],
)
def test_a_module_that_is_broken(dev: Dev, data_dir: Path, tmp_path: Path, *, text: str, code: str, part: str) -> None:
    (tmp_path / "broken.py").write_text(text)
    message = failed(dev("broken", data_dir=data_dir, cwd=tmp_path), code, 2)
    assert part in message


def test_debug_shows_the_traceback(perdure: Warm, data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0")
    done = perdure("dev", "broken", "--debug", "--port", "0", "--data-dir", str(data_dir), cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_data_directory_that_cannot_be(dev: Dev, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = failed(dev("tests.dev.shop", data_dir=tmp_path / "file" / "data"), "data_directory_unusable", 1)
    assert str(tmp_path / "file") in message
    assert "--data-dir" in message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_data_directory_without_permission(dev: Dev, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o555)
    message = failed(dev("tests.dev.shop", data_dir=tmp_path / "closed" / "data"), "data_directory_unusable", 1)
    assert "Permission denied" in message


def test_an_address_beyond_this_machine(dev: Dev, data_dir: Path) -> None:
    message = failed(dev("tests.dev.shop", "--host", "0.0.0.0", data_dir=data_dir), "insecure_bind", 2)
    assert "--insecure-bind" in message


@pytest.mark.parametrize(
    ("dsn", "code", "exit_code"),
    [
        ("what is this", "bad_dsn", 2),
        ("postgresql://user:hunter2@[::1/db", "bad_dsn", 2),
        ("mysql://user:hunter2@localhost/db", "bad_dsn", 2),
        ("postgresql://user:hunter2@127.0.0.1:1/db", "database_unreachable", 3),
        ("postgresql://user:hunter2@no-such-host.invalid/db", "database_unreachable", 3),
        ("host=/nowhere user=u password=hunter2", "database_unreachable", 3),
    ],
)
def test_a_database_that_cannot_be_used(dev: Dev, data_dir: Path, dsn: str, code: str, exit_code: int) -> None:
    message = failed(dev("tests.dev.shop", data_dir=data_dir, PERDURE_DSN=dsn), code, exit_code)
    assert "hunter2" not in message


def test_a_database_that_takes_no_writes(dev: Dev, data_dir: Path, dsn: str) -> None:
    read_only = f"{dsn}&options={quote('-c default_transaction_read_only=on')}"
    message = failed(dev("tests.dev.shop", data_dir=data_dir, PERDURE_DSN=read_only), "database_read_only", 5)
    assert "read only" in message


def test_a_database_that_would_lose_commits(dev: Dev, data_dir: Path, dsn: str) -> None:
    careless = f"{dsn}&options={quote('-c synchronous_commit=off')}"
    message = failed(dev("tests.dev.shop", data_dir=data_dir, PERDURE_DSN=careless), "start_refused", 5)
    assert "synchronous_commit" in message


@pytest.mark.parametrize("namespace", ["pg_x", "Ä", "x" * 60, "a b", "public"])
def test_a_namespace_that_cannot_be(perdure: Warm, dsn: str, namespace: str) -> None:
    message = failed(perdure("db", "upgrade", "--namespace", namespace, PERDURE_DSN=dsn), "start_refused", 5)
    assert "namespace" in message


def test_an_option_that_is_mistyped(perdure: Warm) -> None:
    done = perdure("dev", "x", "--prot", "1")
    assert done.returncode == 2
    assert "--port" in done.stderr


def test_a_setting_that_is_wrong(dev: Dev, data_dir: Path) -> None:
    message = failed(dev("tests.dev.shop", data_dir=data_dir, PERDURE_BODY_BYTES_MAX="many"), "bad_setting", 2)
    assert "PERDURE_BODY_BYTES_MAX" in message


def test_a_key_that_is_weak(dev: Dev, data_dir: Path) -> None:
    message = failed(dev("tests.dev.shop", data_dir=data_dir, PERDURE_API_KEYS="secret"), "bad_setting", 2)
    assert "PERDURE_API_KEYS" in message


def test_a_variable_that_is_mistyped(perdure: Warm, data_dir: Path) -> None:
    done = perdure("db", "upgrade", "--sql", PERDURE_NAMESPCE="x")
    assert done.returncode == 0
    assert done.stderr == "warning: PERDURE_NAMESPCE means nothing to Perdure; did you mean PERDURE_NAMESPACE?\n"


# --- perdure db -------------------------------------------------------------------------------------------------------


def test_db_needs_a_database(perdure: Warm) -> None:
    for command in ("upgrade", "check"):
        assert "PERDURE_DSN" in failed(perdure("db", command), "no_dsn", 2)


def test_db_upgrade_can_be_repeated_and_checked(perdure: Warm, dsn: str) -> None:
    missing = failed(perdure("db", "check", "--namespace", "fresh", PERDURE_DSN=dsn), "start_refused", 5)
    assert "perdure db upgrade" in missing
    for _ in range(2):
        done = perdure("db", "upgrade", "--namespace", "fresh", PERDURE_DSN=dsn)
        assert (done.returncode, done.stderr) == (0, "")
    done = perdure("db", "check", "--namespace", "fresh", PERDURE_DSN=dsn)
    assert (done.returncode, done.stdout) == (0, "namespace 'fresh' is in order\n")


def test_db_upgrade_can_print_its_sql_without_a_database(perdure: Warm) -> None:
    done = perdure("db", "upgrade", "--sql", "--namespace", "shop")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("BEGIN;")
    assert 'CREATE SCHEMA IF NOT EXISTS "shop"' in done.stdout
    assert done.stderr == ""


def test_help_is_there() -> None:
    done = terminal.perdure("--help")
    assert done.returncode == 0
    assert "dev" in done.stdout
    assert terminal.perdure().returncode in {0, 2}
