"""What activities wait for, and runs that people have paused."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

STATEMENTS = (
    "alter table {s}.attempts add column status text default 'retrying' not null",
    "alter table {s}.attempts add column details jsonb default 'null'::jsonb not null",
    "alter table {s}.attempts add column started_at timestamptz default to_timestamp(0) not null",
    "alter table {s}.runs add column paused text default '' not null",
)


def upgrade() -> None:
    schema = f'"{op.get_context().version_table_schema}"'
    for statement in STATEMENTS:
        op.execute(statement.replace("{s}", schema))


def downgrade() -> None:
    raise NotImplementedError("changes are additive: older code runs on this schema as it is")
