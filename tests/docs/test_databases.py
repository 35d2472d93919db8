"""The shell commands of the pages on operations and deployment, on a real server with Postgres' own programs."""

import os
import shlex
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from perdure.cluster.embedded import EmbeddedPostgres
from perdure.cluster.postgres.sessions import SessionSettings
from perdure.cluster.postgres.store import PostgresStore
from perdure.entities import Entity, handler, query
from perdure.entities.testing import LocalCluster
from tests.packaging.test_deploy import PROGRAMS
from tests.store.backup import program

from .blocks import block
from .shell import Said, bash

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PERDURE = f'{shlex.quote(sys.executable)} -m tests.dev.main "$@"'
NAMED = 'printf "%s" {0}; printf " %q" "$@"; echo'
ONLY_DB = f"""
perdure() {{ case "$1" in db) {PERDURE};; *) {NAMED.format("perdure")};; esac; }}
ray() {{ {NAMED.format("ray")}; }}
"""
"""`perdure` itself for the database; of what needs a cluster of machines, the words."""
DSN = "postgresql://perdure:…@db.example/{}?sslmode=verify-full&sslrootcert=system"
NAMESPACE = "perdure"


class Order(Entity):
    status: str = "New"

    @handler
    async def become(self, status: str) -> None:
        self.status = status

    @query
    async def at(self) -> str:
        return self.status


@pytest.fixture
def dsn(server: EmbeddedPostgres) -> str:
    """A database of the test's own."""
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute("drop database if exists shop")
        connection.execute("create database shop template template0")
    return make_conninfo(server.dsn, dbname="shop")


async def status_of(dsn: str, become: str = "") -> str:
    """Of Order/o-1, by a host that begins and ends here."""
    async with (
        PostgresStore(SessionSettings(dsn=dsn), namespace=NAMESPACE) as store,
        LocalCluster([Order], store=store),
    ):
        if become:
            await Order.ref("o-1").become(become)
        return await Order.ref("o-1").at()


async def test_the_commands_of_the_database(dsn: str, tmp_path: Path) -> None:
    upgrade, rest = block("docs/operations.md", "perdure db accept").split("\n", 1)
    stand_in = f"perdure() {{ {PERDURE}; }}"
    environment = {"PERDURE_DSN": ""}
    await bash(
        upgrade.replace("postgresql://…", shlex.quote(dsn)), folder=tmp_path, environment=environment, before=stand_in
    )
    await status_of(dsn, become="Paid")
    with psycopg.connect(dsn) as connection:  # as nobody should
        connection.execute(f"""update {NAMESPACE}.entities set state = '{{"status": "Free"}}'""".encode())
    environment = {"PERDURE_DSN": dsn}
    failing = rest.replace("perdure db verify ", "perdure db verify 2>&1 || test $? = 5 ")
    assert failing != rest
    _, _, verify, _ = await bash(failing, folder=tmp_path, environment=environment, before=stand_in)
    assert "Order/o-1" in verify.output
    assert await status_of(dsn) == "Free", "accepted"
    with psycopg.connect(dsn) as connection:  # the DBA's way
        connection.execute(f"drop schema {NAMESPACE} cascade".encode())
        connection.execute((tmp_path / "perdure.sql").read_bytes())
    assert await status_of(dsn, become="New again") == "New again"


async def test_the_page_on_deployment(server: EmbeddedPostgres, dsn: str, tmp_path: Path) -> None:
    restored = make_conninfo(dsn, dbname="perdure_restored")
    where = conninfo_to_dict(server.dsn)
    environment = {
        "PATH": os.pathsep.join([str(Path(program(server, "pg_dump")).parent), os.environ["PATH"]]),
        **{name: str(where[key]) for name, key in (("PGHOST", "host"), ("PGPORT", "port"), ("PGUSER", "user"))},
    }

    async def told(part: str) -> list[Said]:
        text = block("docs/deployment.md", part)
        for name, actual in (("perdure_restored", restored), ("perdure", dsn)):
            text = text.replace(DSN.format(name), actual)
        text = f"export PERDURE_DSN={shlex.quote(current)}\n{text}"
        return await bash(text, folder=tmp_path, environment=environment, before=ONLY_DB)

    current = dsn
    commands = await told("perdure up shop.app --hosts 8 --release 2026-11-21 ")
    await status_of(dsn, become="Paid")
    commands += await told("ray start")
    await told("pg_dump")
    await status_of(dsn, become="after the backup")
    await told("createdb")
    current = restored
    commands += await told("perdure db fence")
    assert await status_of(restored) == "Paid"
    assert await status_of(dsn) == "after the backup"
    verbs = [understood(one.output) for one in commands if one.output.startswith(("perdure ", "ray "))]
    assert verbs == ["up", "doctor", "start", "serve", "up"]


def understood(command: str) -> str:
    """The verb of a command, whose words its own parser takes. Raises UsageError."""
    name, *words = shlex.split(command)
    main: Any = PROGRAMS[name]
    verb, parser, rest = main.resolve_command(main.make_context(name, [*words], resilient_parsing=True), words)
    parser.make_context(verb, rest)
    return str(verb)
