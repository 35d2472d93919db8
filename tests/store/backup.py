"""Backups as an operator makes them: the programs of Postgres, on the servers of these tests."""

import asyncio
import subprocess
from pathlib import Path

import psutil
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from perdure.cluster.embedded import EmbeddedPostgres
from perdure.cluster.embedded.account import Account, choose_account, environment


def program(server: EmbeddedPostgres, name: str) -> str:
    """A program of the server's own release; skips the test where only the server is installed."""
    path = Path(psutil.Process(server.postmaster_pid).exe()).with_name(name)
    if not path.exists():
        pytest.skip(f"there is no {name} beside {path.parent}/postgres: install Postgres with its client programs")
    return str(path)


def account_of(server: EmbeddedPostgres) -> Account | None:
    """Who runs the server, and may read its data; None: this account."""
    return choose_account(server.data_directory, server.data_directory)


async def finished(command: list[str], account: Account | None = None) -> None:
    """Run it to its end, while this loop goes on; fails with what it complained of."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd="/",
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        user=None if account is None else account.uid,
        group=None if account is None else account.gid,
    )
    _, complaints = await process.communicate()
    assert process.returncode == 0, f"{command}: {complaints.decode()}"


async def dump(server: EmbeddedPostgres, namespace: str, file: Path) -> None:
    """Of one namespace: `docs/deployment.md` says the same."""
    command = [program(server, "pg_dump"), "--format=custom", f"--schema={namespace}", f"--file={file}"]
    await finished([*command, f"--dbname={server.dsn}"])


async def restore(server: EmbeddedPostgres, file: Path, database: str) -> str:
    """Into a new database. Returns its DSN."""
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute(f"create database {database} template template0".encode())
    dsn = make_conninfo(server.dsn, dbname=database)
    command = [program(server, "pg_restore"), "--single-transaction", "--no-owner", "--exit-on-error"]
    await finished([*command, f"--dbname={dsn}", str(file)])
    return dsn
