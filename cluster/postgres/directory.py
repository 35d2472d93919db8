"""The Directory half of the store: host incarnations, leases and shard ownership, by compare-and-set only.

Locks: a commit holds its host's row FOR KEY SHARE. Whatever takes shards from a host or ends it locks that row
FOR UPDATE first, hence waits for a commit under way; a lease renewal is an ordinary update and waits for neither.
"""

# ruff: noqa: S608 - only constants and the checked name of the schema are put together

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ...entities.store.port import HostFenced, StoreUnavailable
from ...entities.store.rows import HostRow, ShardOwner
from .arrays import int4s, int8s
from .exchange import Refused, Rows, Session, Statement
from .failures import LOCK_NOT_AVAILABLE, UNIQUE_VIOLATION
from .names import application_name
from .statements import CLOCK

GONE_SHOWN_S = 3_600
"""How long `hosts()` still shows a host that is stopped or fenced."""
LOCK_TIMEOUT_MS = 1_000
"""How long a fence waits for the host's commit under way before it ends the host's sessions."""
LOCK_ATTEMPTS_MAX = 5

_LIVE = "status in ('active', 'draining')"
_LEASE_END = "clock_timestamp() + $2::float8 * interval '1 second'"

_REGISTER = f"""
insert into {{s}}.hosts (incarnation, lease_until, address, node, pid, status, capacity, registered_at)
values ($1::text, {_LEASE_END}, $3::text, $4::text, $5::int8, 'active', $6::int4, clock_timestamp())"""

# A lease that is lost in a crash of the server merely ends early, so the renewal need not wait for the disk.
_WITHOUT_WAITING_FOR_DISK = ("select set_config('synchronous_commit', 'off', true)", ())
_RENEW = f"""
update {{s}}.hosts set lease_until = {_LEASE_END} where incarnation = $1::text and {_LIVE} returning incarnation"""

_DRAIN = "update {s}.hosts set status = 'draining' where incarnation = $1::text and status = 'active'"

_LOCK_HOST = "select from {s}.hosts where incarnation = $1::text for update"
_IS_OVER = "(lease_until <= clock_timestamp() or lease_until = to_timestamp(0) + $2::int8 * interval '1 microsecond')"
_MAY_FENCE = f"""
select not exists (select from {{s}}.hosts where incarnation = $1::text and {_LIVE} and not {_IS_OVER})"""
_FENCE = f"""
update {{s}}.hosts set status = 'fenced', gone_at = clock_timestamp()
where incarnation = $1::text and {_LIVE} and ($3::bool or {_IS_OVER})"""
_IS_GONE = f"select not exists (select from {{s}}.hosts where incarnation = $1::text and {_LIVE})"
_END_SESSIONS = """
select pg_terminate_backend(pid) from pg_stat_activity
where application_name = $1::text and state <> 'idle' and pid <> pg_backend_pid()"""

_CHECK_CLAIMER = "select incarnation from {s}.hosts where incarnation = $1::text and status = 'active' for key share"
# Locked by a statement of its own: the next one then sees whatever was committed while this one waited. In order, so
# that two claimers cannot deadlock.
_LOCK_SHARDS = "select from {s}.shards where shard = any($1::int4[]) order by shard for update"
_CLAIM = f"""
update {{s}}.shards t set owner = $2::text, epoch = t.epoch + 1,
    taken_at = case t.owner when '' then t.taken_at else clock_timestamp() end
where t.shard = any($1::int4[])
    and exists (select from {{s}}.hosts where incarnation = $2::text and status = 'active')
    and not exists (select from {{s}}.hosts h where h.incarnation = t.owner and h.{_LIVE})
returning t.shard, t.epoch"""

_RAISE = """
update {s}.shards t set epoch = u.epoch + 1 from unnest($1::int4[], $2::int8[]) as u (shard, epoch)
where t.shard = u.shard and t.epoch = u.epoch and t.owner = $3"""
_RAISED = """
select t.shard, t.epoch from unnest($1::int4[], $2::int8[]) as u (shard, epoch)
join {s}.shards t on t.shard = u.shard and t.epoch = u.epoch + 1 and t.owner = $3"""

_RELEASE = "update {s}.shards set owner = '' where owner = $1::text and shard = any($2::int4[])"
_RELEASE_ALL = "update {s}.shards set owner = '' where owner = $1::text"
_STOP = f"""
update {{s}}.hosts set status = 'stopped', gone_at = clock_timestamp() where incarnation = $1::text and {_LIVE}"""

_OWNERS = "select shard, owner, epoch, taken_at from {s}.shards order by shard"
_HOSTS = f"""
select incarnation, address, node, pid, status, lease_until, capacity from {{s}}.hosts
where {_LIVE} or gone_at > clock_timestamp() - $1::float8 * interval '1 second'
order by incarnation"""


@dataclass(frozen=True, kw_only=True)
class DirectoryTables:
    """The directory of one namespace. Every method takes the session to run on."""

    schema: str
    """Quoted."""

    async def register(self, session: Session, host: HostRow, *, lease_s: float) -> None:
        parameters = (host.incarnation, lease_s, host.address, host.node, host.pid, host.capacity)
        try:
            await session.transact([self._of(_REGISTER, *parameters)])
        except Refused as refused:
            if refused.sqlstate != UNIQUE_VIOLATION:
                raise
            raise HostFenced(
                f"the name {host.incarnation} is taken; every incarnation of a host needs a new one"
            ) from None

    async def renew(self, session: Session, incarnation: str, *, lease_s: float) -> int:
        _, renewed, ((time_us,), *_) = await session.transact(
            [_WITHOUT_WAITING_FOR_DISK, self._of(_RENEW, incarnation, lease_s), (CLOCK, ())]
        )
        if not renewed:
            raise HostFenced(f"host {incarnation} is fenced, stopped or unknown; its lease cannot be renewed")
        return int(time_us)

    async def set_draining(self, session: Session, incarnation: str) -> None:
        await session.transact([self._of(_DRAIN, incarnation)])

    async def fence(self, session: Session, incarnation: str, *, is_dead: bool, waited_out_us: int) -> bool:
        if not is_dead:
            # Without the lock, so that a host in good health is not disturbed; asked again under it.
            (((may_fence,),),) = await session.transact([self._of(_MAY_FENCE, incarnation, waited_out_us)])
            if not may_fence:
                return False
        *_, ((is_gone,),) = await self._between_commits(
            session,
            incarnation,
            [self._of(_FENCE, incarnation, waited_out_us, is_dead), self._of(_IS_GONE, incarnation)],
        )
        return bool(is_gone)

    async def settle(self, session: Session, incarnation: str, epochs: Mapping[int, int]) -> dict[int, int]:
        shards = sorted(epochs)
        named = int4s(shards), int8s([epochs[shard] for shard in shards]), incarnation
        *_, ((is_gone,),), _, _, raised = await self._between_commits(
            session,
            incarnation,
            [
                self._of(_IS_GONE, incarnation),
                self._of(_LOCK_SHARDS, named[0]),
                self._of(_RAISE, *named),
                self._of(_RAISED, *named),
            ],
        )
        if is_gone:
            raise HostFenced(f"host {incarnation} is fenced, stopped or unknown; it owns nothing any more")
        return dict(raised)

    async def _between_commits(self, session: Session, incarnation: str, then: list[Statement]) -> list[Rows]:
        """Execute these with the host's row locked: its commit under way has ended, or is ended with its session."""
        for _ in range(LOCK_ATTEMPTS_MAX):
            try:
                return await session.transact(
                    [
                        (f"select set_config('lock_timeout', '{LOCK_TIMEOUT_MS}ms', true)", ()),
                        self._of(_LOCK_HOST, incarnation),
                        *then,
                    ]
                )
            except Refused as refused:
                if refused.sqlstate != LOCK_NOT_AVAILABLE:
                    raise
                await session.transact([(_END_SESSIONS, (application_name(incarnation),))])
        raise StoreUnavailable(
            f"a transaction that is not ended by pg_terminate_backend holds the row of host {incarnation}; look for it"
            " in pg_stat_activity",
            maybe_applied=False,
        )

    async def claim(self, session: Session, incarnation: str, shards: Collection[int]) -> dict[int, int]:
        wanted = int4s(sorted(set(shards)))
        claimer, _, claimed = await session.transact(
            [
                self._of(_CHECK_CLAIMER, incarnation),
                self._of(_LOCK_SHARDS, wanted),
                self._of(_CLAIM, wanted, incarnation),
            ]
        )
        if not claimer:
            raise HostFenced(f"host {incarnation} is not active; it cannot claim shards")
        return dict(sorted((shard, epoch) for shard, epoch in claimed))

    async def release(self, session: Session, incarnation: str, shards: Collection[int]) -> None:
        await session.transact(
            [self._of(_LOCK_HOST, incarnation), self._of(_RELEASE, incarnation, int4s(sorted(set(shards))))]
        )

    async def retire(self, session: Session, incarnation: str) -> None:
        await session.transact(
            [self._of(_LOCK_HOST, incarnation), self._of(_RELEASE_ALL, incarnation), self._of(_STOP, incarnation)]
        )

    async def owners(self, session: Session) -> list[ShardOwner]:
        (rows,) = await session.transact([self._of(_OWNERS)])
        return [ShardOwner(*row) for row in rows]

    async def hosts(self, session: Session) -> list[HostRow]:
        (rows,) = await session.transact([self._of(_HOSTS, GONE_SHOWN_S)])
        return [HostRow(*row) for row in rows]

    def _of(self, template: str, *parameters: object) -> Statement:
        return template.replace("{s}", self.schema), parameters
