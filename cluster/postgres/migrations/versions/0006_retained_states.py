"""History and journal rows keep the state that their turn left: for time travel. NULL in rows of older releases.

Ended runs keep their rows for good, so no janitor looks for those any more: the index that it used goes.
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    schema = f'"{op.get_context().version_table_schema}"'
    op.execute(f"alter table {schema}.history add column state jsonb")
    op.execute(f"alter table {schema}.journal add column state jsonb")
    op.execute(f"drop index {schema}.ix_runs_expiry")


def downgrade() -> None:
    raise NotImplementedError("revisions are additive; the previous release runs on this one as well")
