"""The commit of a transaction over entities of several owners (protocol: `perdure.entities.transactions`).

It writes what a group commit writes, with other checks (P4, P8). The shards need not belong to the host that writes;
they must be at the epochs under which the entities were held. Their rows are locked FOR SHARE, in order, to the end
of the transaction: a claim (FOR UPDATE) comes before it, and then the epoch is another one, or after it, and then the
new owner reads what was written. Hosts' own commits do not lock shards, so nobody else waits.
"""

from dataclasses import dataclass

import psycopg

from ...entities.store.port import HostFenced, WriteConflict
from ...entities.store.rows import Batch
from . import statements as sql
from .arrays import int4s, int8s
from .commit import Committer
from .exchange import Refused, Session, Statement
from .failures import DIVISION_BY_ZERO, unavailable

_LOCK_SHARDS = "select from {s}.shards where shard = any($1::int4[]) order by shard for share"
# After the locks, hence a statement of its own: it must not see anything older than they are.
_CHECK_EPOCHS = """
select 1 / (count(*) = cardinality($1::int4[]))::int4
from unnest($1::int4[], $2::int8[]) as u (shard, epoch)
join {s}.shards t on t.shard = u.shard and t.epoch = u.epoch"""


@dataclass(frozen=True, kw_only=True)
class TransactionCommitter(Committer):
    """Writes transactions of one namespace."""

    def _checks(self, batch: Batch) -> list[Statement]:
        epochs = {write.shard: batch.epochs[write.shard] for write in batch.writes}
        shards = sorted(epochs)
        return [
            self._check_host(batch),
            (_LOCK_SHARDS.replace("{s}", self.schema), (int4s(shards),)),
            (
                _CHECK_EPOCHS.replace("{s}", self.schema),
                (int4s(shards), int8s([epochs[shard] for shard in shards])),
            ),
        ]

    def _check_host(self, batch: Batch) -> Statement:
        return sql.CHECK_HOST.replace("{s}", self.schema), (batch.incarnation,)

    async def _diagnose(self, session: Session, batch: Batch, error: Exception) -> None:
        """Find out what was wrong with a refused transaction, and raise it."""
        try:
            await session.transact([self._check_host(batch)])
        except Refused as refused:
            if refused.sqlstate == DIVISION_BY_ZERO:
                raise HostFenced(
                    f"host {batch.incarnation} is fenced, stopped or unknown; it may not write any more"
                ) from None
            raise unavailable(refused) from error
        except psycopg.Error as failure:
            raise unavailable(failure) from error
        try:
            await super()._diagnose(session, batch, error)
        except HostFenced:
            # It is not: what differs are the epochs of the shards.
            raise WriteConflict(
                "a shard of the transaction has changed hands; nothing was written",
                entities=[write.entity for write in batch.writes],
            ) from None
