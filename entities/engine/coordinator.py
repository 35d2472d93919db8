"""Committing a transaction: by the owner of its first entity (protocol: `perdure.entities.transactions`).

One request may come several times, to this host or to the next. Each time the store decides: a transaction is written
once, because its history rows carry its id and because every version is compared. A refusal is final (versions and
epochs only grow), but it may be the refusal of a repeat, so the record is looked up before it is believed.
"""

import asyncio
import logging
from typing import TYPE_CHECKING

from ..errors import (
    IdempotencyMismatch,
    OutcomeUnknown,
    PerdureError,
    TransactionConflict,
    Unavailable,
    error_from_body,
)
from ..ids import EntityId, SendClock, new_message_id
from ..messages import Envelope, Kind, Reply, Status, decode_error, encode_json
from ..store.port import HostFenced, NotStorable, StoreUnavailable, WriteConflict
from ..store.rows import STATE_NOT_KEPT, Batch, EntityWrite, HistoryRow, ReminderKind, ReminderRow
from ..transaction_messages import Commit, Part, Recorded, Step, decode, encode
from .children import reply_address
from .deliveries import Respond

if TYPE_CHECKING:
    from .engine import Engine

log = logging.getLogger("perdure.engine")

PAUSES_S = (0.05, 0.1, 0.2, 0.5)
LIMIT_S = 10.0
"""How long a commit is tried if the caller named no time limit."""

Answer = tuple[Status, bytes]


class Coordinator:
    """Owned by the engine; everything on the host's loop."""

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine
        self._waiting: dict[str, list[Respond]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def deliver(self, envelope: Envelope, respond: Respond) -> None:
        """A COMMIT or OUTCOME. A repeat of one that is under way waits for the same answer."""
        waiting = self._waiting.get(envelope.id)
        if waiting is not None:
            waiting.append(respond)
            return
        self._waiting[envelope.id] = [respond]
        task = asyncio.get_running_loop().create_task(self._answer(envelope))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Answer nobody any more."""
        self._waiting.clear()
        for task in self._tasks:
            task.cancel()

    async def _answer(self, envelope: Envelope) -> None:
        body: bytes
        try:
            commit = decode(envelope.args, Commit)
            if envelope.name == Step.COMMIT:
                status, body = await self._commit(envelope, commit)
            else:
                status, body = Status.OK, encode(await self._recorded(commit))
        except HostFenced as fenced:
            self._engine.fenced(str(fenced))
            return
        except StoreUnavailable as problem:
            status, body = Status.ERROR, encode_json(Unavailable(f"{envelope.entity}: {problem.message}").body())
        except PerdureError as problem:
            status, body = Status.ERROR, encode_json(problem.body())
        except Exception as error:
            log.exception("%s: a transaction could not be committed", envelope.entity)
            unknown = OutcomeUnknown(f"{envelope.entity}: the host failed while it committed a transaction: {error!r}")
            status, body = Status.ERROR, encode_json(unknown.body())
        for respond in self._waiting.pop(envelope.id, ()):
            respond(Reply(envelope.id, status, body))

    async def _commit(self, envelope: Envelope, commit: Commit) -> Answer:
        """Try until the store has decided, or time is up. Raises PerdureError."""
        engine = self._engine
        batch = self._batch(commit)
        deadline = engine.monotonic() + (envelope.timeout_us / 1e6 or LIMIT_S)
        is_unknown = envelope.is_retry
        refusal: PerdureError | None = None
        tries = 0
        while True:
            try:
                if refusal is None:
                    try:
                        sent = engine.monotonic()
                        database_us = await engine.store.transact(batch)
                        engine.clock.observe(database_us, sent=sent, received=engine.monotonic())
                    except (WriteConflict, NotStorable) as problem:
                        refusal = problem
                    else:
                        self._written(batch)
                        return Status.OK, encode(Recorded(is_committed=True, result=commit.result))
                recorded = await self._recorded(commit)
            except StoreUnavailable as problem:
                is_unknown = is_unknown or bool(problem.details.get("maybe_applied", True))
                pause_s = PAUSES_S[min(tries, len(PAUSES_S) - 1)]
                tries += 1
                if engine.monotonic() + pause_s > deadline:
                    what = OutcomeUnknown if is_unknown else Unavailable
                    raise what(f"{envelope.entity}: a transaction met a database in trouble: {problem}") from None
                await asyncio.sleep(pause_s)
                continue
            if recorded.is_committed:
                return Status.OK, encode(recorded)
            raise _refused(commit, refusal)

    async def _recorded(self, commit: Commit) -> Recorded:
        """What is known of it. Raises IdempotencyMismatch, StoreUnavailable."""
        first = EntityId(*commit.first)
        found = await self._engine.store.outcomes([(first, commit.transaction)])
        row = found.get((first, commit.transaction))
        if row is None:
            return Recorded(is_committed=False)
        if not row.fingerprint:
            raise error_from_body(decode_error(row.outcome))  # it is there, but cannot be read
        if row.fingerprint != commit.fingerprint:
            raise IdempotencyMismatch(
                f"{first}: the idempotency key was used before for a transaction with other arguments or entities; "
                "use a new key for a new request"
            )
        return Recorded(is_committed=True, fingerprint=row.fingerprint, result=row.outcome)

    def _batch(self, commit: Commit) -> Batch:
        """Raises UnknownType, StateNotSerialisable."""
        engine = self._engine
        batch = Batch(incarnation=engine.incarnation, epochs={}, writes=[])
        args = encode_json({"entities": [str(part.entity) for part in commit.parts]})
        for part in commit.parts:
            definition = engine.registry.get(part.entity.type)
            definition.check_loads(part.entity.key, part.state)
            is_kept = definition.keep_states and len(part.state) <= engine.settings.keep_state_bytes
            write = self._write(part)
            write.history.append(
                HistoryRow(
                    commit.transaction,
                    write.version,
                    Kind.TRANSACTION,
                    commit.name,
                    commit.sender,
                    commit.fingerprint,
                    args,
                    ok=True,
                    outcome=commit.result,
                    state=part.state if is_kept else STATE_NOT_KEPT,
                )
            )
            batch.writes.append(write)
            # Two entities of one shard that were held under different epochs: one of the two has changed hands.
            batch.epochs[write.shard] = min(part.held.epoch, batch.epochs.get(write.shard, part.held.epoch))
        return batch

    def _write(self, part: Part) -> EntityWrite:
        version = part.held.version + 1
        now_us = self._engine.now_us()
        clock = SendClock(part.held.clock)
        write = EntityWrite(
            entity=EntityId(*part.entity),
            shard=self._engine.shard_of(part.entity),
            expected_version=part.held.version,
            version=version,
            state=part.state,
            schema_version=part.schema_version,
        )
        for target, kind, name, args, delay_us, message_id, options in part.outgoing:
            write.outbox.append(
                Envelope(
                    id=message_id or new_message_id(),
                    type=target.type,
                    key=target.key,
                    kind=kind,
                    name=name,
                    args=args,
                    sender=str(part.entity),
                    position=clock.next(now_us),
                    delay_us=delay_us,
                    options=options,
                    reply_to=reply_address(part.entity, options) if options else "",
                )
            )
        write.clock = clock.last
        for name, wanted in part.reminders.items():
            if wanted is None:
                write.reminders_cancelled.append(name)
            else:
                row = ReminderRow(
                    write.entity, name, ReminderKind.REMINDER, version, wanted.due_us, wanted.every_us,
                    wanted.catch_up_all, wanted.handler, wanted.args, wanted.cron,
                )  # fmt: skip
                write.reminders_set.append(row)
        # The new state may be what a run waits for. If the owner dies before it has looked, the next one will.
        write.runs = [row._replace(in_flight=True) for row in part.held.runs]
        return write

    def _written(self, batch: Batch) -> None:
        for write in batch.writes:
            self._engine.figures.committed(self._engine.registry.get(write.entity.type), write)
            for envelope in write.outbox:
                self._engine.hint(envelope.entity)


def _refused(commit: Commit, refusal: PerdureError | None) -> PerdureError:
    names = ", ".join(str(part.entity) for part in commit.parts[:5])
    if isinstance(refusal, NotStorable):
        return TransactionConflict(f"transaction over {names}: {refusal.message}", is_final=True)
    return TransactionConflict(
        f"transaction over {names}: one of them was changed, or moved to another host, meanwhile; nothing was changed. "
        "Run it again (`run_transaction` and `@atomic` do)"
    )
