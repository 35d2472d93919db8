"""`perdure db fence`: what to do with a restored database before any host may use it.

A dump or a recovered server holds the hosts of the moment it is of, as owners of their shards. One that still runs, and
whose DSN leads to the restored database now, would find its row in order and go on, with entities in memory that are
newer than the database: it would answer from a past that is gone. Once fenced it can neither commit nor renew its lease
(P4), and ends itself. On a namespace in use nothing is lost either: its hosts are replaced, as if they had died.
"""

import asyncio

from ...cluster.postgres.sessions import SessionSettings
from ...cluster.postgres.store import PostgresStore
from ..database import check_database
from .options import confirm

_LIVE = frozenset({"active", "draining"})


def fence(settings: SessionSettings, namespace: str, *, yes: bool) -> str:
    """Fence every host that the database knows; says how many. Raises Failure, StartRefused, StoreUnavailable."""
    confirm(f"end every host that the database of namespace {namespace!r} knows, by refusing its commits", yes=yes)
    check_database(settings.dsn, namespace, is_pooled=settings.is_pooled)
    fenced = asyncio.run(fence_all(settings, namespace))
    return (
        f"namespace {namespace!r}: {len(fenced)} hosts of its past are fenced; new ones may start (perdure up). A host"
        " that still runs ends itself within its lease"
    )


async def fence_all(settings: SessionSettings, namespace: str) -> list[str]:
    """Make further commits of all hosts impossible that the directory holds as alive. Returns their names."""
    async with PostgresStore(settings, namespace=namespace) as store:
        live = [host.incarnation for host in await store.hosts() if host.status in _LIVE]
        for incarnation in live:
            await store.fence(incarnation, is_dead=True)
    return live
