"""What became of messages, on Postgres: a part of the archive (entities/store/fates.py says what is looked at).

Every row is found by the beginning of a primary key. `cross join lateral (… offset 0)` and `limit` hold the planner to
that whatever it believes of the sizes: one look into an index per message, never a whole table.
"""

# ruff: noqa: S608 - only constants are put together

from collections.abc import Awaitable, Callable, Sequence

from ...entities.ids import EntityId
from ...entities.shard import shard_of
from ...entities.store.fates import (
    INBOX_LOOK,
    LETTERS_LOOK,
    Fate,
    FateStatus,
    Outcome,
    Sent,
    Traces,
    Unapplied,
    UnappliedFew,
    due_id,
    newest,
)
from .arrays import int4s, texts
from .exchange import Rows, Statement

Read = Callable[[Sequence[Statement]], Awaitable[list[Rows]]]
"""Answers statements from one snapshot."""

_WANTED = (
    "unnest($1::int4[], $2::text[], $3::text[], $4::text[]) with ordinality as w (shard, type, key, message_id, place)"
)
_SAME = "t.shard = w.shard and t.type = w.type and t.key = w.key"


def _one(table: str, columns: str, where: str) -> str:
    return (
        f"select w.place, t.* from {_WANTED} cross join lateral"
        f" (select {columns} from {{s}}.{table} t where {_SAME} and {where} limit 1) t"
    )


_OUTCOMES = _one("history", "t.version, t.ok, t.recorded_at, t.sender", "t.message_id = w.message_id")
_DELAYED = _one("reminders", "t.due_at", "t.name = w.message_id and t.kind = 'message'")
_DEAD = _one("dead_letters", "t.died_at", "t.message_id = w.message_id")
# The inbox is ordered by position, so each receiver's is read once, whole.
_WAITING = f"""
select w.place from (select distinct w.shard, w.type, w.key from {_WANTED}) r cross join lateral (
    select t.message_id from {{s}}.inbox t
    where t.shard = r.shard and t.type = r.type and t.key = r.key and t.sender = $5::text offset 0
) t join {_WANTED} on w.shard = r.shard and w.type = r.type and w.key = r.key and w.message_id = t.message_id"""

# A row without an address says how many were looked at.
_INBOXES = f"""
with looked as materialized (
    select s.shard, t.* from generate_series(0, $1::int4 - 1) as s (shard) cross join lateral (
        select i.type, i.key, i.message_id, i.kind, i.name, i.position, i.sender from {{s}}.inbox i
        where i.shard = s.shard order by i.type, i.key, i.position, i.message_id limit {INBOX_LOOK}
    ) t
)
select type, key, message_id, kind, name, position from looked where sender = $2::text
union all
select '', '', '', '', '', max(n.count) from (select count(*) from looked group by shard) n"""
_LETTERS = f"""
with looked as materialized (
    select type, key, message_id, kind, name, position, sender, died_at from {{s}}.dead_letters
    order by died_at desc, type desc, key desc, message_id desc limit {LETTERS_LOOK}
)
select type, key, message_id, kind, name, position, died_at from looked where sender = $1::text
union all
select '', '', '', '', '', count(*), to_timestamp(0) from looked"""


async def read_fates(read: Read, shard_count: int, sender: EntityId, sent: Sequence[Sent]) -> list[Fate]:
    """`Fates.fates`."""
    if not sent:
        return []
    own = _wanted(sent, shard_count)
    # Each under its own id, then each under that which it has once it was delayed.
    both = _wanted([*sent, *(one._replace(message_id=due_id(one.message_id)) for one in sent)], shard_count)
    waiting, outcomes, delayed, dead = await read(
        [(_WAITING, (*own, str(sender))), (_OUTCOMES, both), (_DELAYED, own), (_DEAD, both)]
    )
    places = {place for (place,) in waiting}
    due: dict[int, int] = dict(delayed)
    died: dict[int, int] = dict(dead)
    known = {place: (Outcome(*columns), by) for place, *columns, by in outcomes}

    def traces(place: int) -> Traces:
        second = place + len(sent)
        outcome, by = known.get(place, (None, ""))
        return Traces(
            is_waiting=place in places,
            due_us=due.get(place, 0),
            outcome=outcome if by == str(sender) else None,
            due=known.get(second, (None, ""))[0],
            died_us=max(died.get(place, 0), died.get(second, 0)),
        )

    return [traces(place).fate() for place in range(1, len(sent) + 1)]


def _wanted(sent: Sequence[Sent], shard_count: int) -> tuple[object, ...]:
    return (
        int4s([shard_of(*one.receiver, shard_count) for one in sent]),
        texts([one.receiver.type for one in sent]),
        texts([one.receiver.key for one in sent]),
        texts([one.message_id for one in sent]),
    )


async def read_unapplied(read: Read, shard_count: int, sender: EntityId, *, limit: int) -> UnappliedFew:
    """`Fates.unapplied`."""
    waiting, letters = await read([(_INBOXES, (shard_count, str(sender))), (_LETTERS, (str(sender),))])
    found: list[Unapplied] = []
    is_cut = False
    for type_name, key, message_id, kind, name, position in waiting:
        if not type_name:
            is_cut |= (position or 0) >= INBOX_LOOK
            continue
        sent = Sent(EntityId(type_name, key), message_id)
        found.append(Unapplied(sent, kind, name, position, Fate(FateStatus.WAITING)))
    for type_name, key, message_id, kind, name, position, died_us in letters:
        if not type_name:
            is_cut |= position >= LETTERS_LOOK
            continue
        sent = Sent(EntityId(type_name, key), message_id)
        found.append(Unapplied(sent, kind, name, position, Fate(FateStatus.DEAD_LETTER, at_us=died_us)))
    return newest(found, limit=limit, is_cut=is_cut)
