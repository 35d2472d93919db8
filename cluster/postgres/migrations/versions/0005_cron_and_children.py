"""Cron reminders, and what a run knows of its parent and its children. Defaulted columns only."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

STATEMENTS = (
    "alter table {s}.reminders add column cron text default '' not null",
    "alter table {s}.runs add column parent text default '' not null",
    "alter table {s}.runs add column children jsonb default '[]' not null",
)


def upgrade() -> None:
    schema = f'"{op.get_context().version_table_schema}"'
    for statement in STATEMENTS:
        op.execute(statement.replace("{s}", schema))


def downgrade() -> None:
    raise NotImplementedError("changes are additive; go back to a release by deploying it, not by changing tables")
