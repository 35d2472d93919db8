"""Transactional steps that were committed."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

STATEMENTS = (
    """create table {s}.steps (
    shard integer not null,
    type text collate "C" not null,
    key text collate "C" not null,
    workflow text collate "C" not null,
    run_id text collate "C" not null,
    number integer not null,
    step text not null,
    result jsonb not null,
    recorded_at timestamptz not null,
    constraint pk_steps primary key (shard, type, key, workflow, run_id, number)
)""",
    "create index ix_steps_expiry on {s}.steps using brin (recorded_at)",
)


def upgrade() -> None:
    schema = f'"{op.get_context().version_table_schema}"'
    for statement in STATEMENTS:
        op.execute(statement.replace("{s}", schema))


def downgrade() -> None:
    raise NotImplementedError("revisions are additive; go on with the newer schema")
