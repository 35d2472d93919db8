"""Checksums beside the rows that hosts read back (see ../../checksums.py). NULL in rows of older releases: not checked.

`meta` keeps what this server computes for a constant, so that a move to another kind of server is noticed.
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

PROBE = """jsonb_hash_extended('{"probe": [1, 2.5, "\\u00fc", null, true]}', hashtextextended('perdure', 7))::text"""


def upgrade() -> None:
    schema = f'"{op.get_context().version_table_schema}"'
    for table in ("entities", "journal", "inbox", "mailbox_items", "reminders"):
        op.execute(f"alter table {schema}.{table} add column checksum bigint")
    op.execute(f"insert into {schema}.meta (name, value) select 'checksum_probe', {PROBE}")


def downgrade() -> None:
    raise NotImplementedError("revisions are additive; the previous release runs on this one as well")
