"""Rows outlive the server that wrote them: after pg_upgrade, or restored on a newer one, their checksums still hold.

Postgres promises it (these functions place rows in hash partitions); `make postgres-versions` asks each version.
"""

import json
import sys
from typing import Any

import psycopg
import pytest
from psycopg import sql

from perdure.cluster.embedded import EmbeddedPostgres
from perdure.cluster.postgres.checksums import ALL, PROBE, Checksum

ADDRESS = {"type": "Straße", "key": "№ 7/a"}
VALUE = {"ü": [1, 2.5, -1e30, None, True, ""], "n": {"deep": "\u2028"}}
ROWS: dict[str, dict[str, Any]] = {
    "entities": {"version": 2**40 + 7, "schema_version": 3, "clock": 17},
    "journal": {"version": 5, "workflow": "run", "run_id": "r1", "number": 12},
    "inbox": {"position": 9, "message_id": "m", "kind": "call", "name": "n", "sender": "s", "reply_to": ""},
    "mailbox_items": {"position": 1, "mailbox": "paid", "message_id": "m"},
    "reminders": {
        "generation": 2, "name": "n", "kind": "reminder", "due_at": "2026-02-28T23:59:59.987654+01:00", "every_us": 1,
        "handler": "h", "cron": "* * * * *",
    },
}  # fmt: skip
MADE = {
    "entities": 31008211040,
    "journal": 25222106300,
    "inbox": 39765060872,
    "mailbox_items": 5657740535,
    "reminders": 8997370583,
}
PROBED = "-6217743879993080803"

pytestmark = pytest.mark.skipif(sys.byteorder != "little", reason="a server of the other byte order computes others")


def test_the_probe_is_the_same_on_every_version(server: EmbeddedPostgres) -> None:
    with psycopg.connect(server.dsn) as connection:
        assert connection.execute(f"select {PROBE}".encode()).fetchone() == (PROBED,)


@pytest.mark.parametrize("checksum", ALL, ids=lambda checksum: checksum.table)
def test_checksums_are_the_same_on_every_version(server: EmbeddedPostgres, namespace: str, checksum: Checksum) -> None:
    made = sql.SQL("select {} from jsonb_populate_record(null::{}, %s) r").format(
        sql.SQL(checksum.made("r")),  # pyright: ignore[reportArgumentType]
        sql.Identifier(namespace, checksum.table),
    )
    row = ADDRESS | {checksum.json: VALUE} | ROWS[checksum.table]
    with psycopg.connect(server.dsn) as connection:
        assert connection.execute(made, (json.dumps(row),)).fetchone() == (MADE[checksum.table],)
