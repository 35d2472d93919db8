"""A store whose payloads go through a codec: rows are sealed on their way in and opened on their way out (`sealing`).

It stands between the engine and any store, so neither knows of it, and without a codec there is nothing of it at all.

What cannot be read (security S31: the key is missing, a blob was changed or comes from another place)
* is never replaced: whatever would be derived from it is not done, so its rows stay as they are (promise P1);
* an entity with such a row is not activated: `Loaded.problem` says why, the engine parks it (P9);
* messages that come for an entity in memory wait in the inbox from the first unreadable one on, in order (P5);
* a reminder is not fired; those after it are (P6 once the key is back);
* an outcome is answered with an error: that the message was applied is known, only not what came of it (P1).
Whoever else asks gets PayloadUnreadable.
"""

import logging
from collections.abc import Collection, Sequence
from typing import TypeVar

from ..codec import CannotDecode, PayloadCodec
from ..errors import PayloadUnreadable
from ..ids import EntityId
from ..messages import Envelope, encode_json
from .encoded_archive import EncodedArchive
from .encoded_survey import EncodedSurvey
from .passing import InnerStore, PassingStore
from .rows import Batch, DuePosition, HistoryRow, JournalRow, Loaded, ReminderRow, RunRow, Suspicion
from .sealing import Sealer

log = logging.getLogger("perdure.store")

NOTED_MAX = 10_000
"""Entities whose unreadable rows have been reported are remembered up to this number, then reported again."""

T = TypeVar("T")


def unreadable(entity: EntityId, why: object) -> PayloadUnreadable:
    """The error about an entity with a row that cannot be read."""
    return PayloadUnreadable(
        f"{entity}: what is stored of it cannot be read: {why}. Nothing was changed. Give the hosts the key, or repair "
        "the row; then call it again"
    )


class EncodedStore(PassingStore):
    """`EntityStore`, `Directory` and archive of `inner`, with payloads encoded by `codec`. See the module."""

    def __init__(self, inner: InnerStore, codec: PayloadCodec, *, namespace: str = "perdure") -> None:
        super().__init__(inner)
        self.codec = codec
        self._sealer = Sealer(codec, namespace)
        self._noted: set[EntityId] = set()

    async def commit(self, batch: Batch) -> int:
        return await self.inner.commit(self._sealer.batch(batch))

    async def transact(self, batch: Batch) -> int:
        return await self.inner.transact(self._sealer.batch(batch))

    async def load(self, entities: Sequence[EntityId], *, inbox_max: int = 1_000) -> list[Loaded]:
        return [self._opened(loaded) for loaded in await self.inner.load(entities, inbox_max=inbox_max)]

    def _opened(self, loaded: Loaded) -> Loaded:
        try:
            return self._sealer.open_loaded(loaded)
        except CannotDecode as why:
            return Loaded(
                entity=loaded.entity,
                version=loaded.version,
                problem=unreadable(loaded.entity, why).message,
                damage=loaded.damage,
                is_noted=loaded.is_noted,
            )

    async def inbox(self, entities: Sequence[EntityId], *, per_entity_max: int = 1_000) -> list[Envelope]:
        readable: list[Envelope] = []
        stuck: set[EntityId] = set()
        for envelope in await self.inner.inbox(entities, per_entity_max=per_entity_max):
            if envelope.entity in stuck:
                continue
            try:
                readable.append(self._sealer.open_envelope(envelope))
            except CannotDecode as why:
                stuck.add(envelope.entity)
                await self._note(envelope.entity, f"message {envelope.id}: {why}")
        return readable

    async def outcomes(self, keys: Sequence[tuple[EntityId, str]]) -> dict[tuple[EntityId, str], HistoryRow]:
        found = await self.inner.outcomes(keys)
        return {key: self._outcome(key[0], row) for key, row in found.items()}

    def _outcome(self, entity: EntityId, row: HistoryRow) -> HistoryRow:
        try:
            return self._sealer.open_history(entity, row)
        except CannotDecode as why:
            error = PayloadUnreadable(
                f"{entity}.{row.name}: message {row.message_id} was applied (version {row.version}), but its outcome"
                f" cannot be read: {why}",
                version=row.version,
            )
            return row._replace(fingerprint=b"", args=b"null", ok=False, outcome=encode_json(error.body()))

    async def due(
        self, shards: Collection[int], *, until_us: int, limit: int, after: DuePosition | None = None
    ) -> tuple[int, list[ReminderRow]]:
        readable: list[ReminderRow] = []
        while True:  # page by page past those that cannot be read, however many they are
            time_us, rows = await self.inner.due(shards, until_us=until_us, limit=limit, after=after)
            readable += await self._reminders(rows)
            if len(readable) >= limit or len(rows) < limit:
                return time_us, readable[:limit]
            after = DuePosition.of(rows[-1])

    async def due_of(self, entities: Collection[EntityId], *, until_us: int, limit: int) -> list[ReminderRow]:
        return await self._reminders(await self.inner.due_of(entities, until_us=until_us, limit=limit))

    async def _reminders(self, rows: Sequence[ReminderRow]) -> list[ReminderRow]:
        return [opened for row in rows if (opened := await self._reminder(row)) is not None]

    async def _reminder(self, row: ReminderRow) -> ReminderRow | None:
        try:
            return self._sealer.open_reminder(row)
        except CannotDecode as why:
            await self._note(row.entity, f"reminder {row.name!r}: {why}")
            return None

    async def _note(self, entity: EntityId, why: str) -> None:
        """For people, once per entity: something of it is left alone although it is not (yet) parked."""
        if entity in self._noted:
            return
        if len(self._noted) >= NOTED_MAX:
            self._noted.clear()
        self._noted.add(entity)
        reason = unreadable(entity, why).message
        log.error("%s", reason)
        await self.inner.park(entity, reason)

    async def run(self, entity: EntityId, workflow: str) -> RunRow | None:
        row = await self.inner.run(entity, workflow)
        try:
            return None if row is None else self._sealer.open_run(entity, row)
        except CannotDecode as why:
            raise unreadable(entity, why) from None

    async def journal(self, entity: EntityId, workflow: str, run_id: str) -> list[JournalRow]:
        rows = await self.inner.journal(entity, workflow, run_id)
        try:
            return [self._sealer.open_journal(entity, row) for row in rows]
        except CannotDecode as why:
            raise unreadable(entity, why) from None

    async def park(self, entity: EntityId, reason: str) -> None:
        """As the inner store. Reasons may quote the state; those of this module do not, and stay readable."""
        if not reason.startswith(f"{entity}: what is stored of it cannot be read: "):
            reason = self._sealer.seal_text(entity, "parked", (), reason)
        await self.inner.park(entity, reason)

    async def suspect(self, evidence: Sequence[Suspicion]) -> None:
        await self.inner.suspect([self._sealer.seal_suspicion(row) for row in evidence])

    async def suspicions(self, keys: Sequence[tuple[EntityId, str]]) -> dict[tuple[EntityId, str], Suspicion]:
        found = await self.inner.suspicions(keys)
        return {key: self._sealer.open_suspicion(row) for key, row in found.items()}

    def archive(self) -> EncodedArchive:
        """The read side, opened by the same codec."""
        return EncodedArchive(self.inner.archive(), self._sealer)

    def survey(self) -> EncodedSurvey:
        """The whole namespace, opened by the same codec."""
        return EncodedSurvey(self.inner.survey(), self._sealer)
