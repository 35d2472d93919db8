"""Both stores are the port, as type checkers see it; and the reverse: a port that grows makes this file fail."""

from perdure.cluster.postgres.sessions import SessionSettings
from perdure.cluster.postgres.store import PostgresStore
from perdure.entities.store.memory import MemoryStore
from perdure.entities.store.port import Directory, EntityStore


def test_both_stores_have_every_method_of_the_port() -> None:
    stores: list[EntityStore] = [MemoryStore(), PostgresStore(SessionSettings(dsn=""))]
    directories: list[Directory] = [MemoryStore(), PostgresStore(SessionSettings(dsn=""))]
    for port, implementations in ((EntityStore, stores), (Directory, directories)):
        names = {name for name in vars(port) if not name.startswith("_")}
        assert all(names <= set(dir(implementation)) for implementation in implementations)
