"""Checksums of rows that hosts read back: what is damaged is noticed before it is believed (invariant I32).

Upholds P2 and P9: a damaged row is never run on and never written over; it holds up its own entity and nobody else.

A checksum is one bigint beside the row, made and compared by Postgres over the value that it stores, so the text that
was sent and the text that comes back need not be alike. The upper half counts what the row counts (version, generation,
position), the lower half is a 32-bit hash of the JSON, seeded with the row's address: a row under another address, or
with another type tag, is damaged too. It finds bit flips, truncation, copied rows and hand-made changes; it is no
signature against somebody who can compute it. NULL means "not checked": rows of a release before revision
0007, and rows that an operator has accepted (`perdure db accept`). Nothing else does: a row that counts more than its
checksum is damaged like any other, so a flipped bit in its version cannot switch the comparison off.

The functions hash what hash partitioning hashes, hence do not change between releases of Postgres; they do between
processors of different byte order. `PROBE` tells (see guard).
"""

from dataclasses import dataclass

_COUNT = 0x7FFF_FFFF
_HASH = 0xFFFF_FFFF

META = "checksum_probe"
PROBE = """(jsonb_hash_extended('{"probe": [1, 2.5, "\\u00fc", null, true]}', hashtextextended('perdure', 7)))::text"""
"""Text of a number that another kind of server computes otherwise; kept in `meta` under the name `checksum_probe`."""


@dataclass(frozen=True)
class Checksum:
    """The checksum of one table: its JSON column, what it counts by, and what else belongs to the row."""

    table: str
    json: str
    number: str
    place: tuple[str, ...]
    """Columns (beside the entity's address) that are hashed with the JSON."""

    def made(self, row: str) -> str:
        """SQL of the checksum, for a row named `row` that has the columns."""
        columns = [f"{row}.{name}" for name in ("type", "key", *self.place)]
        place = " || '/' || ".join("extract(epoch from " + c + ")" if c.endswith("_at") else c for c in columns)
        number = f"{row}.{self.number}::int8"
        return (
            f"((({number} & {_COUNT}) << 32) |"
            f" (jsonb_hash_extended({row}.{self.json}, hashtextextended({place}, {number})) & {_HASH}))"
        )

    def holds(self, row: str) -> str:
        """SQL that is true of a stored row that is as it was written, or not checked."""
        return f"({row}.checksum is null or {row}.checksum = {self.made(row)})"


ENTITIES = Checksum("entities", "state", "version", ("schema_version", "clock"))
JOURNAL = Checksum("journal", "entry", "version", ("workflow", "run_id", "number"))
INBOX = Checksum("inbox", "args", "position", ("message_id", "kind", "name", "sender", "reply_to"))
ITEMS = Checksum("mailbox_items", "item", "position", ("mailbox", "message_id"))
REMINDERS = Checksum("reminders", "args", "generation", ("name", "kind", "due_at", "every_us", "handler", "cron"))
ALL = (ENTITIES, JOURNAL, INBOX, ITEMS, REMINDERS)
