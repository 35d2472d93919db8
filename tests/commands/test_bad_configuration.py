"""B75-B90 of the table of bad inputs: what a person gets wrong on the command line, in settings, in the database.

In process, as far as that tells anything; `perdure dev` as a program is in tests/dev (B79, B82, B87), servers with
dangerous settings in tests/store/test_guard.py (B77, B78), Ray clusters that are away or of other versions in
tests/cluster/test_joining.py (B83).
"""

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner, Result

from perdure.api.cli import app as command
from perdure.api.variables import environment_warnings, file_warnings
from perdure.cluster.embedded import EmbeddedPostgres
from perdure.cluster.postgres import advice, majors, migrations
from perdure.cluster.postgres.names import has_password
from tests.scratch import scratch_directory

Run = Callable[..., Result]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    with scratch_directory("perdure-commands-") as directory, EmbeddedPostgres(directory) as running:
        migrations.upgrade(running.dsn, "shop", shard_count=4)
        yield running


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Run]:
    """Runs a command line in an empty directory; it must end with `exit_code`, without a traceback."""
    monkeypatch.chdir(tmp_path)
    for name in ("PERDURE_DSN", "PERDURE_NAMESPACE", "PERDURE_API_KEYS"):
        monkeypatch.delenv(name, raising=False)

    def invoke(*words: str, exit_code: int, input: str = "", **environment: str) -> Result:
        result = CliRunner().invoke(command, words, env=environment, input=input)
        assert result.exit_code == exit_code, (words, result.output, result.exception)
        assert "Traceback" not in result.output
        return result

    yield invoke
    logging.getLogger().handlers.clear()


SECRET = "hunter2"

WRONG: list[tuple[str, tuple[str, ...], dict[str, str], int, str]] = [
    ("B75 none", ("db", "check"), {}, 2, r"error[no_dsn]"),
    ("B75 malformed", ("db", "check"), {"PERDURE_DSN": f"postgresql://u:{SECRET}@[::1/db"}, 2, "error[bad_dsn]"),
    ("B75 another database", ("db", "check"), {"PERDURE_DSN": f"mysql://u:{SECRET}@h/db"}, 2, "error[bad_dsn]"),
    (
        "B75 in argv",
        ("db", "check", "--dsn", f"postgresql://u:{SECRET}@127.0.0.1:1/d"),
        {},
        3,
        "read the password in --dsn",
    ),
    (
        "B75 port",
        ("db", "check"),
        {"PERDURE_DSN": f"postgresql://u:{SECRET}@h:99999/db"},
        3,
        "error[database_unreachable]",
    ),
    (
        "B75 unreachable",
        ("status",),
        {"PERDURE_DSN": f"host=127.0.0.1 port=1 password={SECRET}"},
        3,
        "database_unreachable",
    ),
    ("B80 option", ("db", "check", "--nmespace", "x"), {}, 2, "--namespace"),
    ("B80 command", ("stauts",), {}, 2, "stauts"),
    ("B80 variable", ("db", "check"), {"PERDURE_DNS": "x"}, 2, "did you mean PERDURE_DSN?"),
    (
        "B80 prefix",
        ("db", "check"),
        {"PERDUR_DSN": "x"},
        2,
        "PERDUR_DSN means nothing to Perdure; did you mean PERDURE_DSN?",
    ),
    ("B81 hosts", ("dev", "m", "--hosts", "0"), {}, 2, "greater than or equal to 1"),
    ("B81 hosts of a cluster", ("up", "m", "--hosts", "-1"), {}, 2, "greater than or equal to 1"),
    ("B81 port", ("dev", "m", "--port", "99999"), {}, 2, "less than or equal to 65535"),
    ("B81 limit", ("replay", "m", "--limit", "0"), {}, 2, "greater than or equal to 1"),
    ("B81 port as a setting", ("db", "check"), {"PERDURE_PORT": "99999"}, 2, "PERDURE_PORT: Input should be less than"),
    ("B81 negative", ("db", "check"), {"PERDURE_CALL_WAIT_S": "-1"}, 2, "PERDURE_CALL_WAIT_S"),
    ("B81 endless", ("db", "check"), {"PERDURE_CALL_WAIT_MAX_S": "inf"}, 2, "PERDURE_CALL_WAIT_MAX_S"),
    ("B81 no number", ("db", "check"), {"PERDURE_BODY_TIMEOUT_S": "nan"}, 2, "PERDURE_BODY_TIMEOUT_S"),
    ("B84 type", ("db", "check"), {"PERDURE_DOCS": "perhaps"}, 2, "error[bad_setting]: PERDURE_DOCS"),
    ("B86 not confirmed", ("db", "accept", "--all"), {"PERDURE_DSN": "host=/nowhere"}, 2, "error[not_confirmed]"),
    ("B75 none to serve", ("serve", "m"), {}, 2, "error[no_dsn]"),
    (
        "B79 others could reach it",
        ("serve", "m", "--host", "0.0.0.0"),
        {"PERDURE_DSN": "host=/nowhere"},
        2,
        "error[insecure_bind]",
    ),
    ("B86 fence not confirmed", ("db", "fence"), {"PERDURE_DSN": "host=/nowhere"}, 2, "error[not_confirmed]"),
    ("B86 nothing named", ("db", "accept", "--yes"), {"PERDURE_DSN": "host=/nowhere"}, 2, "Type/key"),
    ("B86 no address", ("db", "accept", "order", "--yes"), {"PERDURE_DSN": "host=/nowhere"}, 2, "error[bad_key]"),
]


@pytest.mark.parametrize(
    ("words", "environment", "exit_code", "text"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG]
)
def test_what_is_wrong_is_one_line_and_an_exit_code(
    run: Run, words: tuple[str, ...], environment: dict[str, str], exit_code: int, text: str
) -> None:
    result = run(*words, exit_code=exit_code, **environment)
    assert text in result.output
    assert SECRET not in result.output


def test_b76_a_schema_that_is_missing_older_or_newer_names_the_command(run: Run, server: EmbeddedPostgres) -> None:
    dsn = {"PERDURE_DSN": server.dsn}
    missing = run("db", "check", "--namespace", "nowhere", exit_code=5, **dsn)
    assert "there is no namespace 'nowhere'" in missing.output
    assert "perdure db upgrade" in missing.output
    migrations.upgrade(server.dsn, "other", shard_count=4)
    for revision, command_ in (("0001", "perdure db upgrade"), ("9999", "pip install --upgrade perdure")):
        with psycopg.connect(server.dsn) as connection:
            connection.execute(f"update other.{migrations.VERSION_TABLE} set version_num = %s".encode(), (revision,))
        told = run("db", "check", "--namespace", "other", exit_code=5, **dsn)
        assert f"revision {revision}" in told.output
        assert command_ in told.output
    refused = run("db", "upgrade", "--namespace", "other", exit_code=5, **dsn)
    assert "newer than this code" in refused.output


def test_b78_a_role_without_rights_is_told_what_to_grant(run: Run, server: EmbeddedPostgres) -> None:
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute("create role clerk login")
        dsn = {"PERDURE_DSN": f"{server.dsn}&user=clerk", "PERDURE_NAMESPACE": "shop"}
        nothing = run("db", "check", exit_code=5, **dsn)
        assert "lacks rights on namespace 'shop'" in nothing.output, nothing.output
        assert "GRANT USAGE ON SCHEMA" in nothing.output
        connection.execute("grant usage on schema shop to clerk")
        connection.execute("grant select on all tables in schema shop to clerk")
        reads = run("db", "check", exit_code=5, **dsn)
        assert "may not read and write" in reads.output
        assert "entities" in reads.output
        connection.execute("grant insert, update, delete on all tables in schema shop to clerk")
        run("db", "check", exit_code=0, **dsn)
        refused = run("db", "upgrade", "--namespace", "fresh", exit_code=5, PERDURE_DSN=dsn["PERDURE_DSN"])
        assert "permission denied" in refused.output
        connection.execute("drop owned by clerk")
        connection.execute("drop role clerk")


def test_b84_a_file_of_settings_is_read_line_by_line(run: Run) -> None:
    Path(".env").write_text(
        "# ours\nPERDURE_NAMESPACE=shop\n\nexport PERDURE_NAMESPCE=x\nPERDURE_NAMESPACE=other\nnonsense\n"
        "OTHER_PROGRAM=1\nPERDURE_BODY_BYTES_MAX=many\n"
    )
    told = run("db", "check", exit_code=2).output.splitlines()
    assert told[:3] == [
        "warning: .env line 4: PERDURE_NAMESPCE means nothing to Perdure; did you mean PERDURE_NAMESPACE?",
        "warning: .env line 5: PERDURE_NAMESPACE was set in line 2 already; the last one counts",
        "warning: .env line 6 is no NAME=value",
    ]
    assert told[-1].startswith("error[bad_setting]: PERDURE_BODY_BYTES_MAX (.env line 8): ")


def test_b84_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    known = frozenset({"PERDURE_DSN"})
    assert file_warnings(tmp_path / "none", known, "PERDURE_") == []
    (tmp_path / "latin").write_bytes(b"PERDURE_DSN=\xff\n")
    assert "cannot be read" in file_warnings(tmp_path / "latin", known, "PERDURE_")[0]


def test_b80_other_programs_variables_are_none_of_ours() -> None:
    names = ["HOME", "PATH", "PERCONA_DSN", "PRODUCTION_DSN", "DSN", "PURE_DSN", "PERDURE__ONES_OWN", "PERDURE_DSN"]
    assert environment_warnings(names, frozenset({"PERDURE_DSN"}), "PERDURE_") == []


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        ("postgresql://u@h/d", False), ("postgresql://u:x@h/d", True), ("postgresql://u@h/d?password=x", True),
        ("host=h password=x", True), ("host=h", False), ("postgresql://u:x@[::1/d", True), ("nonsense", False),
    ],
)  # fmt: skip
def test_b75_passwords_in_command_lines_are_noticed(dsn: str, expected: bool) -> None:
    assert has_password(dsn) is expected


def test_b89_b90_what_is_only_unwise_is_warned_of_with_numbers() -> None:
    fine = advice.Facts(0.1, 100, 20, 4_096, majors.MAJOR_TESTED_MAX)
    assert advice.warnings(fine) == []
    for found, parts in (
        (fine._replace(clock_ahead_s=-90.0), ("90.0 s behind", "nothing breaks")),
        (fine._replace(clock_ahead_s=7.5), ("7.5 s ahead of",)),
        (fine._replace(connections_used=95), ("5 of 100 connections free", "max_connections")),
        (fine._replace(open_files=256), ("256 files", "ulimit -n")),
        (fine._replace(major=majors.MAJOR_TESTED_MAX + 1), ("19 is newer", "(15 to 18)")),
    ):
        [told] = advice.warnings(found)
        assert all(part in told for part in parts), told


def test_b90_a_full_server_is_warned_of(
    run: Run, server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(advice, "SESSIONS_OF_HOST", 10_000)
    run("db", "check", "--namespace", "shop", exit_code=0, PERDURE_DSN=server.dsn)
    assert "connections free" in caplog.text


def test_the_doctor_names_the_server_and_doubts_what_nobody_has_tested(
    run: Run, server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(server.dsn) as connection:
        version = connection.info.parameter_status("server_version")
        major = connection.info.server_version // 10_000

    def database() -> tuple[str, str]:
        told = run("doctor", "--output", "json", "--namespace", "shop", exit_code=0, PERDURE_DSN=server.dsn)
        [row] = [row for row in json.loads(told.stdout) if row["check"] == "database"]
        return row["result"], row["what"]

    assert database() == ("ok", f"Postgres {version}: durable, writable; namespace 'shop' fits this release")
    monkeypatch.setattr(majors, "MAJOR_TESTED_MAX", major - 1)
    result, what = database()
    assert result == "warning"
    assert f"Postgres {major} is newer than what this release of Perdure was tested on (15 to {major - 1})" in what


def test_b88_a_reader_that_goes_away_gets_no_traceback() -> None:
    for shell in ("{perdure} db upgrade --sql | head -1", "{perdure} db upgrade --sql >&-"):
        done = subprocess.run(
            ["bash", "-c", shell.replace("{perdure}", f"{sys.executable} -m tests.dev.main")],
            cwd=ROOT, capture_output=True, text=True, timeout=90, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr, (shell, done.stderr)


def test_the_hosts_of_a_restored_database_are_fenced(run: Run, server: EmbeddedPostgres) -> None:
    dsn = {"PERDURE_DSN": server.dsn, "PERDURE_NAMESPACE": "shop"}
    with psycopg.connect(server.dsn) as connection:
        connection.execute(
            "insert into shop.hosts (incarnation, address, node, pid, status, capacity, lease_until, registered_at)"
            " values ('h1', '', '', 1, 'active', 1, now() + interval '1 day', now())"
        )
    assert "1 hosts of its past are fenced" in run("db", "fence", "--yes", exit_code=0, **dsn).output
    assert "0 hosts of its past are fenced" in run("db", "fence", "--yes", exit_code=0, **dsn).output
    with psycopg.connect(server.dsn) as connection:
        assert connection.execute("select status from shop.hosts").fetchall() == [("fenced",)]
    missing = run("db", "fence", "--yes", "--namespace", "nowhere", exit_code=5, PERDURE_DSN=server.dsn)
    assert "there is no namespace 'nowhere'" in missing.output


def test_b83_without_ray_it_is_named() -> None:
    """As where there is no wheel of Ray for this Python."""
    program = "import sys; sys.modules['ray'] = None; from perdure.api.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "down", "--dsn", "postgresql://127.0.0.1:1/x"],
        cwd=ROOT, capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "error[ray_missing]: Ray is not installed for " in done.stderr
    assert "Traceback" not in done.stderr


def test_damaged_rows_are_found_and_accepted(run: Run, server: EmbeddedPostgres) -> None:
    dsn = {"PERDURE_DSN": server.dsn, "PERDURE_NAMESPACE": "shop"}
    assert "no row is damaged" in run("db", "verify", exit_code=0, **dsn).output
    with psycopg.connect(server.dsn) as connection:
        connection.execute(
            "insert into shop.entities (shard, type, key, version, state, schema_version, clock, updated_at, checksum)"
            " values (1, 'Order', 'o-1', 1, '{}', 1, 0, now(), (1::int8 << 32) + 7)"
        )
    told = run("db", "verify", exit_code=5, **dsn)
    assert "Order/o-1  entities" in told.output
    assert "error[damaged_rows]: 1 rows" in told.output
    run("db", "accept", "Order/o-1", exit_code=2, **dsn)
    assert "1 rows accepted" in run("db", "accept", "Order/o-1", "--yes", exit_code=0, **dsn).output
    run("db", "verify", exit_code=0, **dsn)
    assert "0 rows accepted" in run("db", "accept", "--all", "--yes", exit_code=0, **dsn).output
