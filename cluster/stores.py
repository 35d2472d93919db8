"""How the cluster's processes open the store: which sessions serve what, and how long each may wait."""

from dataclasses import dataclass, field
from typing import Protocol

from ..entities.codec import PayloadCodec
from ..entities.store.archive import Archive
from ..entities.store.encoded import EncodedStore
from ..entities.store.port import Directory, EntityStore
from ..entities.store.survey import Survey
from .postgres.sessions import SessionSettings
from .postgres.steps import PostgresSteps
from .postgres.store import PostgresStore


class Store(EntityStore, Directory, Protocol):
    """Both halves of the store port, its read side, and its end."""

    def archive(self) -> Archive:
        """For people and tools."""
        ...

    def survey(self) -> Survey:
        """The whole namespace, for people and tools."""
        ...

    async def close(self) -> None:
        """Close the sessions."""
        ...


@dataclass(frozen=True, kw_only=True)
class StoreAddress:
    """A namespace in a database."""

    dsn: str = field(repr=False)
    namespace: str
    is_pooled: bool = False
    """There is a PgBouncer in transaction mode in between."""
    codec: PayloadCodec | None = None
    """Between every payload and the database; None: nothing is."""

    def open(self, incarnation: str = "") -> Store:
        """For everything but lease renewals. `incarnation`: the host that commits through it."""
        return self._open(SessionSettings(dsn=self.dsn, incarnation=incarnation, is_pooled=self.is_pooled))

    def _open(self, settings: SessionSettings) -> Store:
        store = PostgresStore(settings, namespace=self.namespace)
        return store if self.codec is None else EncodedStore(store, self.codec, namespace=self.namespace)

    def steps(self, incarnation: str) -> PostgresSteps:
        """Executes transactional steps for this host."""
        return PostgresSteps(
            dsn=self.dsn,
            namespace=self.namespace,
            incarnation=incarnation,
            is_pooled=self.is_pooled,
            codec=self.codec,
        )

    def open_for_renewals(self, lease_s: float) -> Store:
        """A session of its own that nothing else can keep busy, and that gives up before the lease does."""
        patience_s = max(1.0, lease_s / 2)
        settings = SessionSettings(
            dsn=self.dsn,
            is_pooled=self.is_pooled,
            connect_timeout_s=max(2, round(patience_s)),
            statement_timeout_s=patience_s,
            lock_timeout_s=patience_s,
            answer_timeout_s=patience_s,
            acquire_timeout_s=patience_s,
        )
        return self._open(settings)
