"""The group commit: a batch as array statements, and the diagnosis if Postgres refuses it."""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import psycopg

from ...entities.ids import EntityId
from ...entities.messages import Envelope
from ...entities.shard import shard_of
from ...entities.store.port import HostFenced, NotStorable, StagedRefused, WriteConflict
from ...entities.store.rows import AttemptRow, Batch, EntityWrite
from . import staged
from . import statements as sql
from .arrays import int4s, int8s
from .exchange import Refused, Session, Statement
from .failures import DIVISION_BY_ZERO, PROBE_FITS, UNIQUE_VIOLATION, is_about_data, is_repeatable, unavailable
from .messages import to_columns

ATTEMPTS_MAX = 3
"""How often a commit is tried when it deadlocked or the like."""

_json = msgspec.json.Encoder().encode
_PROBE_END = ("select sqrt($1::float8)", (-1,))

Row = tuple[Any, ...]


@dataclass(slots=True)
class Rows:
    """The rows of a batch by statement."""

    shard_count: int
    by_statement: dict[sql.ArrayStatement, list[Row]] = field(
        default_factory=lambda: {statement: [] for statement in sql.ORDER}
    )

    def add_write(self, write: EntityWrite) -> None:
        """Add everything that is written for one entity."""
        rows = self.by_statement
        key: Row = (write.shard, *write.entity)
        new = (write.version, write.state, write.schema_version, write.clock)
        if write.expected_version:
            rows[sql.ENTITIES_CHANGED].append((*key, write.expected_version, *new))
        else:
            rows[sql.ENTITIES_NEW].append(key + new)
        rows[sql.HISTORY] += [key + row for row in write.history]
        if write.consumed:
            rows[sql.CONSUMED] += [key + row for row in write.consumed]
        if write.waiting:
            rows[sql.INBOX] += [key + to_columns(envelope) for envelope in write.waiting]
        if write.outbox:
            self._add_outbox(write.outbox)
        if write.reminders_gone or write.reminders_cancelled or write.reminders_set:
            self._add_reminders(key, write)
        if write.runs or write.journal or write.items_put or write.items_taken:
            self._add_runs(key, write)
        if write.attempts_set or write.attempts_gone:
            rows[sql.ATTEMPTS_GONE] += [(*key, operation) for operation in write.attempts_gone]
            self.add_attempts((write.shard, write.entity, row) for row in write.attempts_set)
        for letter in write.dead_letters:
            rows[sql.DEAD_LETTERS].append((*key, *to_columns(letter.envelope), letter.attempts, letter.error))
        if write.letters_replayed or write.letters_discarded:
            rows[sql.LETTERS_REPLAYED] += [key + letter for letter in write.letters_replayed]
            rows[sql.LETTERS_DISCARDED] += [(*key, message_id) for message_id in write.letters_discarded]
        if write.audited:
            rows[sql.AUDIT] += [key + row for row in write.history if row.message_id in write.audited]

    def _add_reminders(self, key: Row, write: EntityWrite) -> None:
        rows = self.by_statement
        rows[sql.REMINDERS_GONE] += [key + row for row in write.reminders_gone]
        rows[sql.REMINDERS_CANCELLED] += [(*key, name) for name in write.reminders_cancelled]
        # A name that is set twice in one batch would be an error of "on conflict"; the last one counts.
        rows[sql.REMINDERS] += [key + row[1:] for row in {row.name: row for row in write.reminders_set}.values()]

    def _add_runs(self, key: Row, write: EntityWrite) -> None:
        rows = self.by_statement
        rows[sql.RUNS] += [
            (*key, *run[:-4], _json(run.reply_to), _json(run.chain), run.parent, _json(run.children))
            for run in {run.workflow: run for run in write.runs}.values()
        ]
        rows[sql.JOURNAL] += [key + row for row in write.journal]
        rows[sql.ITEMS] += [key + row for row in write.items_put]
        rows[sql.ITEMS_TAKEN] += [key + row for row in write.items_taken]

    def add_attempts(self, attempts: Iterable[tuple[int, EntityId, AttemptRow]]) -> None:
        """Add notes on retrying activities."""
        # As with reminders: the last one of an operation counts.
        last = {(entity, row.operation): (shard, *entity, *row) for shard, entity, row in attempts}
        self.by_statement[sql.ATTEMPTS] += last.values()

    def add_arrivals(self, arrivals: Iterable[tuple[int, Envelope]]) -> None:
        """Add messages for entities that make no turn."""
        self.by_statement[sql.INBOX] += [
            (shard, envelope.type, envelope.key, *to_columns(envelope)) for shard, envelope in arrivals
        ]

    def _add_outbox(self, outbox: Iterable[Envelope]) -> None:
        self.add_arrivals((shard_of(envelope.type, envelope.key, self.shard_count), envelope) for envelope in outbox)

    def statements(self, schema: str) -> list[Statement]:
        """Those statements that have rows, in order of execution."""
        attempts = self.by_statement[sql.ATTEMPTS]
        if len(attempts) > 1:  # as for reminders: (shard, type, key, operation) once each, the last one counts
            self.by_statement[sql.ATTEMPTS] = list({row[:4]: row for row in attempts}.values())
        letters = self.by_statement[sql.DEAD_LETTERS]
        if len(letters) > 1:
            self.by_statement[sql.DEAD_LETTERS] = list({(*row[:3], row[4]): row for row in letters}.values())
        return [
            (statement.sql(schema), statement.parameters(rows)) for statement, rows in self.by_statement.items() if rows
        ]


def touched_epochs(batch: Batch) -> dict[int, int]:
    """Epochs of the shards that the batch really touches. Raises KeyError if the batch does not name one (a bug)."""
    shards = {write.shard for write in batch.writes}
    shards.update(shard for _, shard, _ in batch.attempts)
    shards.update(shard for shard, _ in batch.arrivals)
    return {shard: batch.epochs[shard] for shard in shards}


@dataclass(frozen=True, kw_only=True)
class Committer:
    """Writes batches of one namespace."""

    schema: str
    """Quoted."""
    shard_count: int

    async def commit(self, session: Session, batch: Batch) -> int:
        """See EntityStore.commit."""
        checks = self._checks(batch)
        try:
            writes = self._writes(batch)
        except (ValueError, TypeError, struct.error) as error:
            raise self._not_encodable(batch, error) from error
        transaction = [*checks, *writes, *staged.statements(batch.writes), (sql.CLOCK, ())]
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                rows = await session.transact(transaction)
            except (Refused, psycopg.Error) as error:
                if not is_repeatable(error):
                    await self._blame_staged(session, batch, error)
                if is_about_data(error):
                    await self._diagnose(session, batch, error)
                if not is_repeatable(error) or attempt == ATTEMPTS_MAX or not session.is_usable:
                    raise unavailable(error) from None
            else:
                ((time_us,),) = rows[-1]
                return int(time_us)
        raise AssertionError("unreachable")

    def _checks(self, batch: Batch) -> list[Statement]:
        epochs = touched_epochs(batch)
        return [
            (sql.CHECK_HOST.replace("{s}", self.schema), (batch.incarnation,)),
            (
                sql.CHECK_SHARDS.replace("{s}", self.schema),
                (int4s(list(epochs)), int8s(list(epochs.values())), batch.incarnation),
            ),
        ]

    def _writes(self, batch: Batch) -> list[Statement]:
        rows = Rows(self.shard_count)
        if batch.attempts:
            # Notes are older than the turns beside them: a turn that ends the operation also ends its note.
            gone = {(write.entity, operation) for write in batch.writes for operation in write.attempts_gone}
            gone |= {(write.entity, row.operation) for write in batch.writes for row in write.attempts_set}
            rows.add_attempts(
                (shard, entity, row) for entity, shard, row in batch.attempts if (entity, row.operation) not in gone
            )
        for write in batch.writes:
            rows.add_write(write)
        rows.add_arrivals(batch.arrivals)
        return rows.statements(self.schema)

    def _not_encodable(self, batch: Batch, error: Exception) -> NotStorable:
        """Who holds a lone surrogate, an integer beyond 64 bits, or the like."""
        entities: list[EntityId] = []
        for part in _parts(batch):
            rows = Rows(self.shard_count)
            try:
                part.add_to(rows)
                rows.statements(self.schema)
            except (ValueError, TypeError, struct.error):
                entities.append(part.entity)
        return NotStorable(f"values of {_names(entities)} do not fit Postgres: {error}", entities=entities)

    async def _diagnose(self, session: Session, batch: Batch, error: Exception) -> None:
        """Find out what was wrong with a refused batch, and raise it."""
        try:
            if (refusal := await self._probe(session, batch, [])) is not None:
                if refusal == DIVISION_BY_ZERO:
                    raise HostFenced(
                        f"host {batch.incarnation} may not write any more: it is fenced or stopped, or does not own"
                        f" one of the shards {sorted(touched_epochs(batch))} at the epoch it believes"
                    )
                raise unavailable(Refused(refusal, str(error), is_fatal=False))
            culprits = await self._culprits(session, batch, _parts(batch))
        except (Refused, psycopg.Error) as failure:
            raise unavailable(failure) from error
        # Nobody to blame alone: the clock moved on, or two writes of the batch clash with each other.
        conflicting = [part.entity for part, refusal in culprits if refusal in (DIVISION_BY_ZERO, UNIQUE_VIOLATION)]
        unstorable = [part.entity for part, _ in culprits if part.entity not in conflicting]
        if unstorable and not conflicting:
            raise NotStorable(
                f"Postgres refused values of {_names(unstorable)}: {error}", entities=unstorable
            ) from None
        entities = conflicting or [part.entity for part in _parts(batch)]
        raise WriteConflict(
            f"{_names(entities)}: not as expected; nothing of the batch was written", entities=entities
        ) from None

    async def _blame_staged(self, session: Session, batch: Batch, error: Exception) -> None:
        """If the batch is refused because of what one entity's turn staged, raise that."""
        for write in batch.writes:
            if not write.staged or not session.is_usable:
                continue
            rows = Rows(self.shard_count)
            rows.add_write(write)
            without = [*self._checks(batch), *rows.statements(self.schema)]
            refusals: list[Refused] = []
            for probe in (without, [*without, *staged.statements([write])]):
                try:
                    await session.transact([*probe, _PROBE_END])
                except Refused as refused:
                    refusals.append(refused)
                except psycopg.Error as failure:
                    raise unavailable(failure) from error
            if [refused.sqlstate == PROBE_FITS for refused in refusals] == [True, False]:
                reason = refusals[1]
                raise StagedRefused(
                    f"Postgres refused staged SQL: {reason} ({reason.sqlstate})", entities=[write.entity]
                ) from error

    async def _culprits(self, session: Session, batch: Batch, parts: "Sequence[_Part]") -> "list[tuple[_Part, str]]":
        """Those parts of the batch that Postgres refuses even alone, by halving."""
        if not parts or (refusal := await self._probe(session, batch, parts)) is None:
            return []
        if len(parts) == 1:
            return [(parts[0], refusal)]
        middle = len(parts) // 2
        return [
            *await self._culprits(session, batch, parts[:middle]),
            *await self._culprits(session, batch, parts[middle:]),
        ]

    async def _probe(self, session: Session, batch: Batch, parts: "Sequence[_Part]") -> str | None:
        """Try these parts in a transaction that never commits. Returns why they are refused (SQLSTATE), if they are."""
        rows = Rows(self.shard_count)
        for part in parts:
            part.add_to(rows)
        try:
            await session.transact([*self._checks(batch), *rows.statements(self.schema), _PROBE_END])
        except Refused as refused:
            if refused.sqlstate == PROBE_FITS:
                return None
            if is_about_data(refused):
                return refused.sqlstate
            raise
        raise AssertionError("a probe has committed")


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of a batch that stands or falls alone."""

    entity: EntityId
    write: EntityWrite | None = None
    attempt: tuple[int, EntityId, AttemptRow] | None = None
    arrival: tuple[int, Envelope] | None = None

    def add_to(self, rows: Rows) -> None:
        if self.write is not None:
            rows.add_write(self.write)
        if self.attempt is not None:
            rows.add_attempts([self.attempt])
        if self.arrival is not None:
            rows.add_arrivals([self.arrival])


def _parts(batch: Batch) -> list[_Part]:
    return [
        *(_Part(write.entity, write=write) for write in batch.writes),
        *(_Part(entity, attempt=(shard, entity, row)) for entity, shard, row in batch.attempts),
        *(_Part(envelope.entity, arrival=(shard, envelope)) for shard, envelope in batch.arrivals),
    ]


def _names(entities: Sequence[EntityId]) -> str:
    shown = ", ".join(map(str, entities[:5]))
    return shown if len(entities) <= 5 else f"{shown} and {len(entities) - 5} more"
