"""When each shard was last taken from an owner that had not released it: what it may have died of stays under suspicion
when the shard is handed on. A release before this one leaves the column as it is.
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    schema = f'"{op.get_context().version_table_schema}"'
    op.execute(f"alter table {schema}.shards add column taken_at timestamptz not null default to_timestamp(0)")


def downgrade() -> None:
    raise NotImplementedError("revisions are additive; the previous release runs on this one as well")
