"""For looking at a whole namespace: indexes of what needs a person, the audit, and what hosts did in each minute."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

INDEXES = (
    "ix_runs_stopped on {s}.runs (status, type, key) where status in ('parked', 'failed')",
    "ix_runs_failed on {s}.runs (ended_at) where status = 'failed'",
    "ix_runs_paused on {s}.runs (started_at) where paused <> '' and ended_at is null",
    "ix_attempts_wedged on {s}.attempts (first_at) where status = 'paused' or (status = 'retrying' and attempt >= 5)",
    (
        "ix_attempts_decisions on {s}.attempts (activity, next_at, type, key, operation)"
        " where status = 'outside' and left(activity, 9) = 'decision:'"
    ),
    "ix_dead_letters_died on {s}.dead_letters (died_at, type, key, message_id)",
    "ix_audit_time on {s}.audit (recorded_at, type, key, message_id)",
)


def upgrade() -> None:
    schema = f'"{op.get_context().version_table_schema}"'
    op.execute(f"""
        create table {schema}.audit (
            shard integer not null,
            type text collate "C" not null,
            key text collate "C" not null,
            version bigint not null,
            message_id text collate "C" not null,
            kind text not null,
            name text not null,
            sender text not null,
            args jsonb not null,
            ok boolean not null,
            outcome jsonb not null,
            recorded_at timestamptz not null,
            constraint pk_audit primary key (shard, type, key, version, message_id)
        )""")
    op.execute(f"""
        create table {schema}.host_stats (
            minute timestamptz not null,
            incarnation text collate "C" not null,
            seconds integer not null,
            turns bigint not null,
            commits bigint not null,
            failed_commits bigint not null,
            commit_us_p50 bigint not null,
            commit_us_p99 bigint not null,
            activations bigint not null,
            constraint pk_host_stats primary key (minute, incarnation)
        )""")
    for index in INDEXES:
        op.execute(f"create index {index.replace('{s}', schema)}")


def downgrade() -> None:
    raise NotImplementedError("revisions are additive; the previous release runs on this one as well")
