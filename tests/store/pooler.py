"""A PgBouncer in transaction mode in front of a server of these tests."""

import shutil
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from perdure.cluster.embedded import EmbeddedPostgres
from tests.scratch import scratch_directory

from .backup import account_of

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
WHY_NOT = "there is no pgbouncer here: apt-get install pgbouncer"
PORT = 6432  # only part of the socket's file name
CLIENTS_MAX = 500


@contextmanager
def pgbouncer(server: EmbeddedPostgres, **settings: object) -> Generator[str]:
    """The DSN of its way to the server; `settings` are PgBouncer's, beside those that docs/deployment.md names."""
    assert PROGRAM is not None, WHY_NOT
    with scratch_directory("perdure-pooler-") as directory:
        account = account_of(server)
        if account is not None:
            shutil.chown(directory, account.uid, account.gid)
        to = conninfo_to_dict(server.dsn)
        lines = {
            "listen_addr": "",
            "unix_socket_dir": directory,
            "listen_port": PORT,
            "auth_type": "any",
            "pool_mode": "transaction",
            "default_pool_size": 20,
            "max_client_conn": CLIENTS_MAX,
            "logfile": directory / "log",
        } | settings
        text = "".join(f"{name} = {value}\n" for name, value in lines.items())
        file = directory / "pgbouncer.ini"
        target = f"host={to['host']} port={to['port']} user={to['user']}"
        file.write_text(f"[databases]\n* = {target}\n[pgbouncer]\n{text}")
        process = subprocess.Popen(
            [PROGRAM, "--quiet", str(file)],
            cwd="/",
            user=None if account is None else account.uid,
            group=None if account is None else account.gid,
            stderr=subprocess.DEVNULL,
        )
        dsn = make_conninfo(server.dsn, host=str(directory), port=PORT)
        try:
            _answers(process, dsn, directory / "log")
            yield dsn
        finally:
            process.terminate()
            process.wait(30)


def _answers(process: "subprocess.Popen[bytes]", dsn: str, log: Path) -> None:
    while pq.PGconn.ping(dsn.encode()) != pq.Ping.OK:
        assert process.poll() is None, log.read_text() if log.exists() else "it ended without a word"
        time.sleep(0.02)
