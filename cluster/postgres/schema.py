"""The tables of one namespace: one Postgres schema each (bind it with `schema_translate_map={None: namespace}`).

Rules that hold for all of them
-------------------------------
* Primary keys begin with the shard, so that the tables can be distributed by it. No sequences, foreign keys,
  triggers or procedures. Nothing here needs an extension, ICU or lz4.
* Addresses compare byte by byte (collation "C"): two keys are one entity only if equal code point by code point,
  order is that of Python's `sorted`, and an operating system's new locale data cannot corrupt an index.
* What people may want to query (state, arguments, outcomes) is jsonb; instants are timestamptz.
* No index on a column that changes with every turn, and room in the pages: updates then stay in their page (HOT).
* Changes are additive (see migrations/__init__.py).
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

metadata = MetaData()

_INSTANT = DateTime(timezone=True)
_NAME = Text(collation="C")
_JSON = JSONB(none_as_null=True)


def _required(
    name: str, type_: Text | Integer | BigInteger | Boolean | DateTime | JSONB | LargeBinary
) -> Column[object]:
    return Column(name, type_, nullable=False)


def _address() -> list[Column[object]]:
    """Which entity a row belongs to."""
    return [
        Column("shard", Integer, nullable=False, autoincrement=False),
        _required("type", _NAME),
        _required("key", _NAME),
    ]


def _message() -> list[Column[object]]:
    """An envelope, apart from its address, id and position."""
    return [
        _required("kind", Text()),
        _required("name", Text()),
        _required("args", _JSON),
        _required("sender", Text()),
        _required("reply_to", Text()),
        Column("extra", _JSON),  # fields that rarely differ from their defaults: chain, trace, time limit, …
    ]


# Facts about the namespace: `shard_count` never changes; `targets` is what should run (JSON).
meta = Table("meta", metadata, Column("name", Text, nullable=False), _required("value", Text()),
             PrimaryKeyConstraint("name", name="pk_meta"))  # fmt: skip

# Who owns which shard. The row is the truth; hosts and supervisors only have opinions.
shards = Table(
    "shards",
    metadata,
    Column("shard", Integer, nullable=False, autoincrement=False),
    Column("owner", Text, nullable=False, server_default=""),
    Column("epoch", BigInteger, nullable=False, server_default="0"),
    Column("taken_at", _INSTANT, nullable=False, server_default=text("to_timestamp(0)")),  # from an owner that died
    PrimaryKeyConstraint("shard", name="pk_shards"),
)

# Host incarnations. Every commit locks its host's row FOR KEY SHARE, every fence FOR UPDATE; renewals conflict with
# neither. Rewritten every few seconds, hence the room in its pages.
hosts = Table(
    "hosts",
    metadata,
    _required("incarnation", _NAME),
    _required("address", Text()),
    _required("node", Text()),
    _required("pid", BigInteger()),
    _required("status", Text()),
    _required("capacity", Integer()),
    _required("lease_until", _INSTANT),
    _required("registered_at", _INSTANT),
    Column("gone_at", _INSTANT),
    PrimaryKeyConstraint("incarnation", name="pk_hosts"),
    postgresql_with={"fillfactor": 50},
)

# The snapshot of each entity. The key is the only index: everything else changes with every turn.
entities = Table(
    "entities",
    metadata,
    *_address(),
    _required("version", BigInteger()),
    _required("state", _JSON),
    _required("schema_version", Integer()),
    _required("clock", BigInteger()),
    _required("updated_at", _INSTANT),
    Column("checksum", BigInteger),  # see checksums.py; NULL = not checked
    PrimaryKeyConstraint("shard", "type", "key", name="pk_entities"),
    postgresql_with={"fillfactor": 80},
)

# Outcome of every message, kept for the retention time.
history = Table(
    "history",
    metadata,
    *_address(),
    _required("message_id", _NAME),
    _required("version", BigInteger()),
    _required("kind", Text()),
    _required("name", Text()),
    _required("sender", Text()),
    _required("fingerprint", LargeBinary()),
    _required("args", _JSON),
    _required("ok", Boolean()),
    _required("outcome", _JSON),
    _required("recorded_at", _INSTANT),
    # What the turn left: an object; `true` = what it found; NULL = not kept. Added last, as in the database.
    Column("state", _JSON),
    # The guard of exactly-once: a message cannot have two outcomes. It also finds an entity's history (by prefix),
    # so there is no second index to pay for in every turn.
    PrimaryKeyConstraint("shard", "type", "key", "message_id", name="pk_history"),
    # For the janitor: rows arrive in order of time, so a few bytes per range of pages suffice.
    Index("ix_history_expiry", "recorded_at", postgresql_using="brin"),
)

# Messages waiting for a turn, in the order in which they are applied: the index is the queue.
inbox = Table(
    "inbox",
    metadata,
    *_address(),
    _required("position", BigInteger()),
    _required("message_id", _NAME),
    *_message(),
    Column("checksum", BigInteger),  # see checksums.py; NULL = not checked
    PrimaryKeyConstraint("shard", "type", "key", "position", "message_id", name="pk_inbox"),
)

# Whatever is due in the future.
reminders = Table(
    "reminders",
    metadata,
    *_address(),
    _required("name", _NAME),
    _required("kind", Text()),
    _required("generation", BigInteger()),
    _required("due_at", _INSTANT),
    _required("every_us", BigInteger()),
    _required("catch_up_all", Boolean()),
    _required("handler", Text()),
    _required("args", _JSON),
    # Expression and time zone of a recurring one, in one text; empty for all others.
    Column("cron", Text, nullable=False, server_default=""),
    Column("checksum", BigInteger),  # see checksums.py; NULL = not checked
    PrimaryKeyConstraint("shard", "type", "key", "name", name="pk_reminders"),
    # The owner of a shard reads the next window of due times.
    Index("ix_reminders_due", "shard", "due_at"),
)

# The latest run of each workflow, with its outcome; as long as its entity: a start repeated years later joins it.
runs = Table(
    "runs",
    metadata,
    *_address(),
    _required("workflow", _NAME),
    _required("run_id", _NAME),
    _required("status", Text()),
    _required("args", _JSON),
    _required("fingerprint", LargeBinary()),
    _required("started_at", _INSTANT),
    Column("ended_at", _INSTANT),
    _required("outcome", _JSON),
    _required("in_flight", Boolean()),
    _required("waiting", Text()),
    Column("paused", Text, nullable=False, server_default=""),
    _required("reply_to", _JSON),
    _required("chain", _JSON),
    # Parent-close policies: who started it, and what ends with it.
    Column("parent", Text, nullable=False, server_default=""),
    Column("children", _JSON, nullable=False, server_default=text("'[]'")),
    PrimaryKeyConstraint("shard", "type", "key", "workflow", name="pk_runs"),
    # Whoever gains a shard activates these at once; few among many, hence partial.
    Index("ix_runs_in_flight", "shard", "type", "key", postgresql_where=text("in_flight")),
    # What needs a person (see survey.py), rare: nothing is paid for other runs. By key, for lists of such entities.
    Index("ix_runs_stopped", "status", "type", "key", postgresql_where=text("status in ('parked', 'failed')")),
    Index("ix_runs_failed", "ended_at", postgresql_where=text("status = 'failed'")),
    Index("ix_runs_paused", "started_at", postgresql_where=text("paused <> '' and ended_at is null")),
    postgresql_with={"fillfactor": 80},
)

# What the runs' operations came to, for rebuilding coroutines.
journal = Table(
    "journal",
    metadata,
    *_address(),
    _required("workflow", _NAME),
    _required("run_id", _NAME),
    _required("number", Integer()),
    _required("version", BigInteger()),
    _required("entry", _JSON),
    _required("recorded_at", _INSTANT),
    Column("state", _JSON),  # as in history
    Column("checksum", BigInteger),  # see checksums.py; NULL = not checked
    PrimaryKeyConstraint("shard", "type", "key", "workflow", "run_id", "number", name="pk_journal"),
    Index("ix_journal_expiry", "recorded_at", postgresql_using="brin"),  # for the janitor, as for history
)

# Transactional steps that were committed, with their results, as long as their runs live: a late attempt finds its row.
steps = Table(
    "steps",
    metadata,
    *_address(),
    _required("workflow", _NAME),
    _required("run_id", _NAME),
    Column("number", Integer, nullable=False, autoincrement=False),
    _required("step", Text()),
    _required("result", _JSON),
    _required("recorded_at", _INSTANT),
    PrimaryKeyConstraint("shard", "type", "key", "workflow", "run_id", "number", name="pk_steps"),
    Index("ix_steps_expiry", "recorded_at", postgresql_using="brin"),  # for the janitor, as for history
)

# Signals that nobody has received yet.
mailbox_items = Table(
    "mailbox_items",
    metadata,
    *_address(),
    _required("mailbox", _NAME),
    _required("position", BigInteger()),
    _required("message_id", Text()),
    _required("item", _JSON),
    Column("checksum", BigInteger),  # see checksums.py; NULL = not checked
    PrimaryKeyConstraint("shard", "type", "key", "mailbox", "position", name="pk_mailbox_items"),
)

# Activities that failed and will be tried again, wait for a person or for the outside world, or have sent heartbeats.
# Read and deleted with their entity by key; the indexes are for people, and hold rare rows only.
attempts = Table(
    "attempts",
    metadata,
    *_address(),
    _required("operation", _NAME),
    _required("activity", Text()),
    _required("attempt", Integer()),
    _required("error", _JSON),
    _required("next_at", _INSTANT),
    _required("first_at", _INSTANT),
    Column("status", Text, nullable=False, server_default="retrying"),
    Column("details", _JSON, nullable=False, server_default=text("'null'::jsonb")),
    Column("started_at", _INSTANT, nullable=False, server_default=text("to_timestamp(0)")),
    PrimaryKeyConstraint("shard", "type", "key", "operation", name="pk_attempts"),
    # What has failed many times, or waits for an operator: see survey.WEDGED_ATTEMPTS.
    Index(
        "ix_attempts_wedged",
        "first_at",
        postgresql_where=text("status = 'paused' or (status = 'retrying' and attempt >= 5)"),
    ),
    # The work list, each group's by due time: see survey.DECISION.
    Index(
        "ix_attempts_decisions",
        "activity",
        "next_at",
        "type",
        "key",
        "operation",
        postgresql_where=text("status = 'outside' and left(activity, 9) = 'decision:'"),
    ),
)

# Messages given up, until somebody replays or discards them. A message that dies again replaces its row.
dead_letters = Table(
    "dead_letters",
    metadata,
    *_address(),
    _required("message_id", _NAME),
    _required("position", BigInteger()),
    *_message(),
    _required("attempts", Integer()),
    _required("error", _JSON),
    _required("died_at", _INSTANT),
    PrimaryKeyConstraint("shard", "type", "key", "message_id", name="pk_dead_letters"),
    # The list of all of them, oldest first, page by page.
    Index("ix_dead_letters_died", "died_at", "type", "key", "message_id"),
)

# Entities whose stored state the current code cannot load: a note for people.
parked = Table(
    "parked",
    metadata,
    *_address(),
    _required("reason", Text()),
    _required("parked_at", _INSTANT),
    PrimaryKeyConstraint("shard", "type", "key", name="pk_parked"),
)

# Messages and runs over which hosts have died or had to be ended: empty as long as nothing crashes.
suspects = Table(
    "suspects",
    metadata,
    *_address(),
    _required("message_id", _NAME),
    _required("points", Integer()),
    _required("reason", Text()),
    _required("noted_at", _INSTANT),
    Column("changes", ARRAY(Text), nullable=False, server_default=text("'{}'")),  # ids of the last ones in `points`
    # Read and written by it, for messages that are known.
    PrimaryKeyConstraint("shard", "type", "key", "message_id", name="pk_suspects"),
    # For the janitor. The table is small, and rarely written: no reason to save the b-tree.
    Index("ix_suspects_expiry", "noted_at"),
)

# What operators did: rows of the history that are kept for good. Written by the same commit (P2); few.
audit = Table(
    "audit",
    metadata,
    *_address(),
    _required("version", BigInteger()),
    _required("message_id", _NAME),
    _required("kind", Text()),
    _required("name", Text()),
    _required("sender", Text()),
    _required("args", _JSON),
    _required("ok", Boolean()),
    _required("outcome", _JSON),
    _required("recorded_at", _INSTANT),
    PrimaryKeyConstraint("shard", "type", "key", "version", "message_id", name="pk_audit"),
    # The list of all of it, newest first, page by page. A b-tree: the table is small, and rarely written.
    Index("ix_audit_time", "recorded_at", "type", "key", "message_id"),
)

# What each host did in each minute, for a day: a row per host and minute, beside the hot path.
host_stats = Table(
    "host_stats",
    metadata,
    _required("minute", _INSTANT),
    _required("incarnation", _NAME),
    _required("seconds", Integer()),
    _required("turns", BigInteger()),
    _required("commits", BigInteger()),
    _required("failed_commits", BigInteger()),
    _required("commit_us_p50", BigInteger()),
    _required("commit_us_p99", BigInteger()),
    _required("activations", BigInteger()),
    # By time: the last hour is read, and what is a day old deleted.
    PrimaryKeyConstraint("minute", "incarnation", name="pk_host_stats"),
)
