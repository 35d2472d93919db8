"""What is done about damaged rows: messages are set apart, reminders are reported, and a person can look and accept.

* A damaged message leaves the inbox for the dead letters in one statement, column by column as it is, with the reason.
  So it holds up nobody, and whoever mends the letter can replay it. Anybody may do this, in whatever order: the row is
  only moved if it is there.
* A damaged reminder stays where it is and does not fire. Its entity gets a note for people; a row that has been
  restored fires with the next reading.
* `find_damage` checks every row of a namespace; `accept` declares the rows of an entity right as they are.
"""

# ruff: noqa: S608 - only constants and the checked name of the schema are put together

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import psycopg

from ...entities.errors import DamagedRow
from ...entities.ids import EntityId
from ...entities.messages import encode_json
from ...entities.shard import shard_of
from . import checksums
from .arrays import int4s, int8s, jsons, texts
from .exchange import Session
from .names import quoted
from .reads import DamagedMessage

FOUND_MAX = 1_000

_BURY = """
with gone as (
    delete from {s}.inbox t
    using unnest($1::int4[], $2::text[], $3::text[], $4::int8[], $5::text[], $6::jsonb[])
        as u (shard, type, key, position, message_id, error)
    where t.shard = u.shard and t.type = u.type and t.key = u.key and t.position = u.position
        and t.message_id = u.message_id
    returning t.*, u.error
)
insert into {s}.dead_letters
    (shard, type, key, message_id, position, kind, name, args, sender, reply_to, extra, attempts, error, died_at)
select shard, type, key, message_id, position, kind, name, args, sender, reply_to, extra, 0, error,
    statement_timestamp() from gone
on conflict (shard, type, key, message_id) do update set position = excluded.position, kind = excluded.kind,
    name = excluded.name, args = excluded.args, sender = excluded.sender, reply_to = excluded.reply_to,
    extra = excluded.extra, attempts = excluded.attempts, error = excluded.error, died_at = excluded.died_at"""


@dataclass(frozen=True, kw_only=True)
class Undertaker:
    """Moves damaged messages of one namespace."""

    schema: str
    """Quoted."""
    shard_count: int

    async def bury(self, session: Session, messages: Sequence[DamagedMessage]) -> None:
        """Into the dead letters with them."""
        entities = [message.entity for message in messages]
        errors = [
            encode_json(
                DamagedRow(
                    f"{m.entity}: the stored message {m.message_id} is not as it was written ({m.reason}); it was not "
                    "applied. Compare the letter with a backup or with its sender; then replay or discard it"
                ).body()
            )
            for m in messages
        ]
        parameters = (
            int4s([shard_of(*entity, self.shard_count) for entity in entities]),
            texts([entity.type for entity in entities]),
            texts([entity.key for entity in entities]),
            int8s([message.position for message in messages]),
            texts([message.message_id for message in messages]),
            jsons(errors),
        )
        await session.transact([(_BURY.replace("{s}", self.schema), parameters)])


class Damage(NamedTuple):
    """A row that is not as it was written."""

    table: str
    entity: EntityId
    row: str
    """What names it within its entity."""


async def find_damage(dsn: str, namespace: str) -> list[Damage]:
    """Damaged rows of a namespace, at most 1,000 of each table. Reads all rows; locks nothing."""
    found: list[Damage] = []
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True, prepare_threshold=None) as connection:
        for sums in checksums.ALL:
            place = " || ' ' || ".join(f"t.{name}" for name in (sums.number, *sums.place) if not name.endswith("_at"))
            sql = (
                f"select t.type, t.key, {place.replace('t.' + sums.number, f't.{sums.number}::text', 1)}"
                f" from {quoted(namespace)}.{sums.table} t where not {sums.holds('t')}"
                f" order by t.type, t.key limit {FOUND_MAX}"
            )
            rows = await (await connection.execute(sql.encode())).fetchall()
            found += [Damage(sums.table, EntityId(type_name, key), row) for type_name, key, row in rows]
    return found


async def accept(dsn: str, namespace: str, entity: EntityId | None) -> int:
    """Declare the rows of an entity right as they are; None: those of all, for a move to another kind of server.

    Returns how many were not. They are checked again once a turn has written them.
    """
    schema = quoted(namespace)
    async with await psycopg.AsyncConnection.connect(dsn, prepare_threshold=None) as connection:
        count = 0
        for sums in checksums.ALL:
            where = (
                "t.checksum is not null" if entity is None else f"t.type = %s and t.key = %s and not {sums.holds('t')}"
            )
            sql = f"update {schema}.{sums.table} t set checksum = null where {where}"
            count += (await connection.execute(sql.encode(), entity)).rowcount
        if entity is None:
            sql = f"update {schema}.meta set value = {checksums.PROBE} where name = '{checksums.META}'"
            await connection.execute(sql.encode())
    return count
