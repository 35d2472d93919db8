"""When each shard was last taken from an owner that had not released it: what it may have died of stays under suspicion
when the shard is handed on. And which changes of a suspect's points are in them, so that each counts once.

A release before this one leaves both columns as they are.
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    schema = f'"{op.get_context().version_table_schema}"'
    op.execute(f"alter table {schema}.shards add column taken_at timestamptz not null default to_timestamp(0)")
    op.execute(f"alter table {schema}.suspects add column changes text[] not null default '{{}}'")


def downgrade() -> None:
    raise NotImplementedError("revisions are additive; the previous release runs on this one as well")
