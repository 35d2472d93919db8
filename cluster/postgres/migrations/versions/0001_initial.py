"""Everything. Frozen: later changes are later revisions. Why each index is there: ../../schema.py."""

from alembic import context, op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

STATEMENTS = (
    """create table {s}.meta (
    name text not null,
    value text not null,
    constraint pk_meta primary key (name)
)""",
    """create table {s}.shards (
    shard integer not null,
    owner text default '' not null,
    epoch bigint default '0' not null,
    constraint pk_shards primary key (shard)
)""",
    """create table {s}.hosts (
    incarnation text collate "C" not null,
    address text not null,
    node text not null,
    pid bigint not null,
    status text not null,
    capacity integer not null,
    lease_until timestamptz not null,
    registered_at timestamptz not null,
    gone_at timestamptz,
    constraint pk_hosts primary key (incarnation)
) with (fillfactor = 50)""",
    """create table {s}.entities (
    shard integer not null,
    type text collate "C" not null,
    key text collate "C" not null,
    version bigint not null,
    state jsonb not null,
    schema_version integer not null,
    clock bigint not null,
    updated_at timestamptz not null,
    constraint pk_entities primary key (shard, type, key)
) with (fillfactor = 80)""",
    """create table {s}.history (
    shard integer not null,
    type text collate "C" not null,
    key text collate "C" not null,
    message_id text collate "C" not null,
    version bigint not null,
    kind text not null,
    name text not null,
    sender text not null,
    fingerprint bytea not null,
    args jsonb not null,
    ok boolean not null,
    outcome jsonb not null,
    recorded_at timestamptz not null,
    constraint pk_history primary key (shard, type, key, message_id)
)""",
    "create index ix_history_expiry on {s}.history using brin (recorded_at)",
    """create table {s}.inbox (
    shard integer not null,
    type text collate "C" not null,
    key text collate "C" not null,
    position bigint not null,
    message_id text collate "C" not null,
    kind text not null,
    name text not null,
    args jsonb not null,
    sender text not null,
    reply_to text not null,
    extra jsonb,
    constraint pk_inbox primary key (shard, type, key, position, message_id)
)""",
    """create table {s}.reminders (
    shard integer not null,
    type text collate "C" not null,
    key text collate "C" not null,
    name text collate "C" not null,
    kind text not null,
    generation bigint not null,
    due_at timestamptz not null,
    every_us bigint not null,
    catch_up_all boolean not null,
    handler text not null,
    args jsonb not null,
    constraint pk_reminders primary key (shard, type, key, name)
)""",
    "create index ix_reminders_due on {s}.reminders (shard, due_at)",
    """create table {s}.runs (
    shard integer not null,
    type text collate "C" not null,
    key text collate "C" not null,
    workflow text collate "C" not null,
    run_id text collate "C" not null,
    status text not null,
    args jsonb not null,
    fingerprint bytea not null,
    started_at timestamptz not null,
    ended_at timestamptz,
    outcome jsonb not null,
    in_flight boolean not null,
    waiting text not null,
    reply_to jsonb not null,
    chain jsonb not null,
    constraint pk_runs primary key (shard, type, key, workflow)
) with (fillfactor = 80)""",
    "create index ix_runs_expiry on {s}.runs using brin (ended_at)",
    "create index ix_runs_in_flight on {s}.runs (shard, type, key) where in_flight",
    """create table {s}.journal (
    shard integer not null,
    type text collate "C" not null,
    key text collate "C" not null,
    workflow text collate "C" not null,
    run_id text collate "C" not null,
    number integer not null,
    version bigint not null,
    entry jsonb not null,
    recorded_at timestamptz not null,
    constraint pk_journal primary key (shard, type, key, workflow, run_id, number)
)""",
    "create index ix_journal_expiry on {s}.journal using brin (recorded_at)",
    """create table {s}.mailbox_items (
    shard integer not null,
    type text collate "C" not null,
    key text collate "C" not null,
    mailbox text collate "C" not null,
    position bigint not null,
    message_id text not null,
    item jsonb not null,
    constraint pk_mailbox_items primary key (shard, type, key, mailbox, position)
)""",
    """create table {s}.attempts (
    shard integer not null,
    type text collate "C" not null,
    key text collate "C" not null,
    operation text collate "C" not null,
    activity text not null,
    attempt integer not null,
    error jsonb not null,
    next_at timestamptz not null,
    first_at timestamptz not null,
    constraint pk_attempts primary key (shard, type, key, operation)
)""",
    """create table {s}.dead_letters (
    shard integer not null,
    type text collate "C" not null,
    key text collate "C" not null,
    message_id text collate "C" not null,
    position bigint not null,
    kind text not null,
    name text not null,
    args jsonb not null,
    sender text not null,
    reply_to text not null,
    extra jsonb,
    attempts integer not null,
    error jsonb not null,
    died_at timestamptz not null,
    constraint pk_dead_letters primary key (shard, type, key, message_id)
)""",
    """create table {s}.parked (
    shard integer not null,
    type text collate "C" not null,
    key text collate "C" not null,
    reason text not null,
    parked_at timestamptz not null,
    constraint pk_parked primary key (shard, type, key)
)""",
)


def upgrade() -> None:
    schema = f'"{op.get_context().version_table_schema}"'
    for statement in STATEMENTS:
        op.execute(statement.replace("{s}", schema))
    shard_count = int(context.config.attributes["shard_count"])
    op.execute(f"insert into {schema}.meta (name, value) values ('shard_count', '{shard_count}')")  # noqa: S608
    op.execute(f"insert into {schema}.shards (shard) select generate_series(0, {shard_count - 1})")


def downgrade() -> None:
    raise NotImplementedError("there is nothing before the first revision; drop the schema instead")
