"""Messages and runs suspected of ending their hosts (promise P9)."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

STATEMENTS = (
    """create table {s}.suspects (
    shard integer not null,
    type text collate "C" not null,
    key text collate "C" not null,
    message_id text collate "C" not null,
    points integer not null,
    reason text not null,
    noted_at timestamptz not null,
    constraint pk_suspects primary key (shard, type, key, message_id)
)""",
    "create index ix_suspects_expiry on {s}.suspects (noted_at)",
)


def upgrade() -> None:
    schema = f'"{op.get_context().version_table_schema}"'
    for statement in STATEMENTS:
        op.execute(statement.replace("{s}", schema))


def downgrade() -> None:
    op.execute(f'drop table "{op.get_context().version_table_schema}".suspects')
