"""The SQL of the group commit: one array statement per kind of row, and checks that abort inside the transaction.

A check that fails divides by zero: the transaction is gone without a further round trip. Which entity was to blame is
found out afterwards (commit.py), since it is rare.
"""

# ruff: noqa: S608 - only constants and the checked name of the schema are put together

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from . import arrays, checksums

_KINDS: dict[str, tuple[arrays.Encoder, str]] = {
    "int4": (arrays.int4s, "int4[]"),
    "int8": (arrays.int8s, "int8[]"),
    "text": (arrays.texts, "text[]"),
    "jsonb": (arrays.jsons, "jsonb[]"),
    "bytea": (arrays.byteas, "bytea[]"),
    "bool": (arrays.bools, "bool[]"),
    "time": (arrays.times, "timestamptz[]"),
}

_ADDRESS = "shard int4, type text, key text"
_MESSAGE = "kind text, name text, args jsonb, sender text, reply_to text, extra jsonb"
_MESSAGE_VALUES = (
    "u.shard, u.type, u.key, u.position, u.message_id, u.kind, u.name, u.args, u.sender, u.reply_to,"
    " nullif(u.extra, 'null')"
)


@dataclass(frozen=True, eq=False)
class ArrayStatement:
    """SQL over rows sent as one array per column: `columns` lists them as `name kind, …`.

    In `template`, `{s}` is the schema, `{u}` the rows (as `u`), `{columns}` their names.
    """

    columns: str
    template: str

    @cached_property
    def _parsed(self) -> list[tuple[str, arrays.Encoder, str]]:
        return [(name, *_KINDS[kind]) for name, kind in (column.split() for column in self.columns.split(", "))]

    @cache  # noqa: B019 - the statements are module constants
    def sql(self, schema: str) -> str:
        """The text for one schema (already quoted)."""
        names = ", ".join(name for name, _, _ in self._parsed)
        unnested = ", ".join(f"${number}::{array}" for number, (_, _, array) in enumerate(self._parsed, 1))
        rows = f"unnest({unnested}) as u ({names})"
        return self.template.replace("{u}", rows).replace("{s}", schema).replace("{columns}", names)

    def parameters(self, rows: Sequence[tuple[Any, ...]]) -> list[object]:
        """The rows, column by column, ready to send."""
        return [encode(values) for (_, encode, _), values in zip(self._parsed, zip(*rows, strict=True), strict=True)]


def _counted(change: str) -> str:
    """The change must hit as many rows as were sent, or the transaction aborts."""
    return f"with hit as ({change} returning 1) select 1 / ((select count(*) from hit) = cardinality($1))::int4"


def _same(*names: str) -> str:
    return " and ".join(f"t.{name} = u.{name}" for name in ("shard", "type", "key", *names))


def _delete(table: str, *key: str, where: str = "") -> str:
    return f"delete from {{s}}.{table} t using {{u}} where {_same(*key)}{where}"


def _insert(table: str, *, select: str = "u.*", more: str = "", then: str = "") -> str:
    return f"insert into {{s}}.{table} ({{columns}}{more}) select {select} from {{u}} {then}"


def _replacing(key: str, columns: str) -> str:
    changes = ", ".join(f"{column} = excluded.{column}" for column in columns.split(", "))
    return f"on conflict (shard, type, key, {key}) do update set {changes}"


CHECK_HOST = """
select 1 / (select count(*) from (
    select from {s}.hosts where incarnation = $1 and status in ('active', 'draining') for key share
) h)::int4"""
"""First of all: from here to the end of the transaction nobody can fence this host (KEY SHARE excludes FOR UPDATE,
and lets lease renewals pass)."""

CHECK_SHARDS = """
select 1 / (count(*) = cardinality($1::int4[]))::int4
from unnest($1::int4[], $2::int8[]) as u (shard, epoch)
join {s}.shards t on t.shard = u.shard and t.epoch = u.epoch and t.owner = $3"""
"""After the host is locked, hence a statement of its own: it must not see anything older than the lock."""

CLOCK = "select (extract(epoch from clock_timestamp()) * 1000000)::int8"

# Deletions, in the order of execution

CONSUMED = ArrayStatement(f"{_ADDRESS}, position int8, message_id text", _delete("inbox", "position", "message_id"))
REMINDERS_GONE = ArrayStatement(
    f"{_ADDRESS}, name text, generation int8, due_at time, is_fired bool",
    _counted(
        _delete(
            "reminders", "name", "generation", "due_at", where=" and (not u.is_fired or t.due_at <= clock_timestamp())"
        )
    ),
)
REMINDERS_CANCELLED = ArrayStatement(f"{_ADDRESS}, name text", _delete("reminders", "name"))
ITEMS_TAKEN = ArrayStatement(
    f"{_ADDRESS}, mailbox text, position int8", _counted(_delete("mailbox_items", "mailbox", "position"))
)
ATTEMPTS_GONE = ArrayStatement(f"{_ADDRESS}, operation text", _delete("attempts", "operation"))

# Writes

ENTITIES_CHANGED = ArrayStatement(
    f"{_ADDRESS}, expected int8, version int8, state jsonb, schema_version int4, clock int8",
    _counted(
        "update {s}.entities t set version = u.version, state = u.state, schema_version = u.schema_version,"
        f" clock = u.clock, checksum = {checksums.ENTITIES.made('u')}, updated_at = statement_timestamp()"
        f" from {{u}} where {_same()} and t.version = u.expected"
    ),
)
ENTITIES_NEW = ArrayStatement(
    f"{_ADDRESS}, version int8, state jsonb, schema_version int4, clock int8",
    _insert(
        "entities",
        more=", updated_at, checksum",
        select=f"u.*, statement_timestamp(), {checksums.ENTITIES.made('u')}",
    ),
)
HISTORY = ArrayStatement(
    f"{_ADDRESS}, message_id text, version int8, kind text, name text, sender text, fingerprint bytea, args jsonb,"
    " ok bool, outcome jsonb, state jsonb",
    _insert(
        "history",
        more=", recorded_at",
        select="u.shard, u.type, u.key, u.message_id, u.version, u.kind, u.name, u.sender, u.fingerprint, u.args, u.ok,"
        " u.outcome, nullif(u.state, 'null'), statement_timestamp()",
    ),
)
INBOX = ArrayStatement(
    f"{_ADDRESS}, position int8, message_id text, {_MESSAGE}",
    _insert(
        "inbox",
        more=", checksum",
        select=f"{_MESSAGE_VALUES}, {checksums.INBOX.made('u')}",
        then="on conflict do nothing",
    ),
)
REMINDERS = ArrayStatement(
    f"{_ADDRESS}, name text, kind text, generation int8, due_at time, every_us int8, catch_up_all bool, handler text,"
    " args jsonb, cron text",
    _insert(
        "reminders",
        more=", checksum",
        select=f"u.*, {checksums.REMINDERS.made('u')}",
        then=_replacing("name", "kind, generation, due_at, every_us, catch_up_all, handler, args, cron, checksum"),
    ),
)
RUNS = ArrayStatement(
    f"{_ADDRESS}, workflow text, run_id text, status text, args jsonb, fingerprint bytea, started_at time,"
    " ended_at time, outcome jsonb, in_flight bool, waiting text, paused text, reply_to jsonb, chain jsonb,"
    " parent text, children jsonb",
    _insert(
        "runs",
        select="u.shard, u.type, u.key, u.workflow, u.run_id, u.status, u.args, u.fingerprint, u.started_at,"
        " nullif(u.ended_at, 'epoch'), u.outcome, u.in_flight, u.waiting, u.paused, u.reply_to, u.chain, u.parent,"
        " u.children",
        then=_replacing(
            "workflow",
            "run_id, status, args, fingerprint, started_at, ended_at, outcome, in_flight, waiting, paused, reply_to,"
            " chain, parent, children",
        ),
    ),
)
JOURNAL = ArrayStatement(
    f"{_ADDRESS}, workflow text, run_id text, number int4, version int8, entry jsonb, state jsonb",
    _insert(
        "journal",
        more=", recorded_at, checksum",
        select="u.shard, u.type, u.key, u.workflow, u.run_id, u.number, u.version, u.entry, nullif(u.state, 'null'),"
        f" statement_timestamp(), {checksums.JOURNAL.made('u')}",
    ),
)
ITEMS = ArrayStatement(
    f"{_ADDRESS}, mailbox text, position int8, message_id text, item jsonb",
    _insert("mailbox_items", more=", checksum", select=f"u.*, {checksums.ITEMS.made('u')}"),
)
ATTEMPTS = ArrayStatement(
    f"{_ADDRESS}, operation text, activity text, attempt int4, error jsonb, next_at time, first_at time,"
    " status text, details jsonb, started_at time",
    _insert(
        "attempts",
        then=_replacing("operation", "activity, attempt, error, next_at, first_at, status, details, started_at"),
    ),
)
DEAD_LETTERS = ArrayStatement(
    f"{_ADDRESS}, position int8, message_id text, {_MESSAGE}, attempts int4, error jsonb",
    _insert(
        "dead_letters",
        more=", died_at",
        select=f"{_MESSAGE_VALUES}, u.attempts, u.error, statement_timestamp()",
        then=_replacing("message_id", "position, kind, name, args, sender, reply_to, extra, attempts, error, died_at"),
    ),
)

LETTERS_REPLAYED = ArrayStatement(
    f"{_ADDRESS}, message_id text, new_id text, position int8",
    "with gone as (" + _delete("dead_letters", "message_id") + " returning t.*, u.new_id, u.position as new_position)"
    " insert into {s}.inbox"
    " (shard, type, key, position, message_id, kind, name, args, sender, reply_to, extra, checksum)"
    f" select again.*, {checksums.INBOX.made('again')} from (select shard, type, key, new_position as position,"
    " new_id as message_id, kind, name, args, sender, reply_to, extra from gone) again"
    " on conflict do nothing",
)
"""One statement takes the letter and sends it again: it cannot do one without the other."""
LETTERS_DISCARDED = ArrayStatement(f"{_ADDRESS}, message_id text", _delete("dead_letters", "message_id"))

AUDIT = ArrayStatement(
    HISTORY.columns,
    "insert into {s}.audit (shard, type, key, version, message_id, kind, name, sender, args, ok, outcome, recorded_at)"
    " select u.shard, u.type, u.key, u.version, u.message_id, u.kind, u.name, u.sender, u.args, u.ok, u.outcome,"
    " statement_timestamp() from {u} on conflict do nothing",
)
"""Rows of the history that are kept. Only an entity that was deleted and began anew could have one of this version."""

ORDER = (
    CONSUMED, REMINDERS_GONE, REMINDERS_CANCELLED, ITEMS_TAKEN, ATTEMPTS_GONE,
    LETTERS_DISCARDED, LETTERS_REPLAYED,
    ENTITIES_CHANGED, ENTITIES_NEW, HISTORY, INBOX, REMINDERS, RUNS, JOURNAL, ITEMS, ATTEMPTS, DEAD_LETTERS,
    AUDIT,
)  # fmt: skip
"""Deletions before writes, so that one commit can take a name away and give it again."""
