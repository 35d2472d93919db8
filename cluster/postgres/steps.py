"""Transactional steps on Postgres (protocol and promises: `perdure.entities.transactional`).

SQLAlchemy is imported by the first of them: it takes a quarter of what a host needs to start, and only users of such
steps need it (their code has imported it by then).

The attempts run on the activities' event loop, on connections of their own: user code decides how long such a
transaction lasts, and must not hold up commits. What is locked of ours is locked at the end, for the moment of the
commit: the row of the run, shared, so that a run that has been terminated meanwhile is seen, and one that is about to
be waits.
"""

# ruff: noqa: S608 - only constants and the checked name of the schema are put together

import inspect
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, get_type_hints

import psycopg

from ...entities.activity import ActivityInfo
from ...entities.codec import CannotDecode, PayloadCodec
from ...entities.errors import ApplicationError
from ...entities.ids import EntityId
from ...entities.messages import OperationAddress
from ...entities.store.encoded import unreadable
from ...entities.store.sealing import Sealer
from ...entities.transactional import StepAttempt
from .names import application_name, quoted

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

CONNECTIONS_MAX = 5
"""Steps that run at the same time on one host."""

_ADDRESS = "shard = :shard and type = :type and key = :key and workflow = :workflow and run_id = :run_id"
_RECORDED = f"select result::text from {{s}}.steps where {_ADDRESS} and number = :number"
_LOCK_RUN = f"select status from {{s}}.runs where {_ADDRESS} for share"
_RECORD = """
insert into {s}.steps (shard, type, key, workflow, run_id, number, step, result, recorded_at)
values (:shard, :type, :key, :workflow, :run_id, :number, :step, cast(:result as jsonb), clock_timestamp())
on conflict do nothing returning number"""


class _DoneElsewhere(Exception):
    """Another attempt has committed first."""


class PostgresSteps:
    """`StepTransactions` of one namespace."""

    def __init__(
        self,
        *,
        dsn: str,
        namespace: str,
        incarnation: str = "",
        is_pooled: bool = False,
        codec: PayloadCodec | None = None,
    ) -> None:
        self._sealer = Sealer(codec, namespace) if codec is not None else None
        self._dsn = dsn
        self._schema = quoted(namespace)
        self._application = application_name(incarnation)
        self._is_pooled = is_pooled
        self._engine: AsyncEngine | None = None

    async def run(self, attempt: StepAttempt) -> bytes:
        """See StepTransactions."""
        arguments = attempt.signature.load_arguments(attempt.args)
        address = _address(attempt)
        try:
            async with self._connect().begin() as connection:
                recorded = await self._recorded(connection, address)
                if recorded is not None:
                    return recorded
                value = await _execute(attempt.fn, connection, arguments)
                result = attempt.signature.dump_result(value)
                await self._record(connection, attempt.info, address, result)
                return result
        except _DoneElsewhere:
            async with self._connect().begin() as connection:
                recorded = await self._recorded(connection, address)
            assert recorded is not None, "rows of steps stay as long as their runs"
            return recorded

    async def close(self) -> None:
        """See StepTransactions."""
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.dispose()

    def _connect(self) -> "AsyncEngine":
        if self._engine is None:
            from sqlalchemy.ext.asyncio import create_async_engine  # noqa: PLC0415 - see the module

            self._engine = create_async_engine(
                "postgresql+psycopg://",
                async_creator=self._open,
                pool_size=CONNECTIONS_MAX,
                max_overflow=0,
                pool_pre_ping=True,
            )
        return self._engine

    async def _open(self) -> psycopg.AsyncConnection[Any]:
        return await psycopg.AsyncConnection.connect(
            self._dsn,
            application_name=self._application,
            prepare_threshold=None if self._is_pooled else 5,
            connect_timeout=5,
        )

    async def _recorded(self, connection: "AsyncConnection", address: dict[str, object]) -> bytes | None:
        row = (await connection.execute(self._of(_RECORDED), address)).first()
        if row is None:
            return None
        result = str(row[0]).encode()
        try:
            return result if self._sealer is None else self._sealer.open_step(*_place(address), result)
        except CannotDecode as why:
            raise unreadable(_place(address)[0], why) from None

    async def _record(
        self, connection: "AsyncConnection", info: ActivityInfo, address: dict[str, object], result: bytes
    ) -> None:
        run = (await connection.execute(self._of(_LOCK_RUN), address)).first()
        if run is None or run[0] != "running":
            raise ApplicationError(
                f"{info.entity}: step {info.activity} was rolled back, because its run has ended meanwhile",
                non_retryable=True,
            )
        if self._sealer is not None:
            result = self._sealer.seal_step(*_place(address), result)
        row = {**address, "step": info.activity, "result": result.decode()}
        if (await connection.execute(self._of(_RECORD), row)).first() is None:
            raise _DoneElsewhere

    def _of(self, template: str) -> Any:
        from sqlalchemy import text  # noqa: PLC0415 - see the module

        return text(template.replace("{s}", self._schema))


def _address(attempt: StepAttempt) -> dict[str, object]:
    operation = OperationAddress.parse(attempt.info.operation)
    entity = attempt.info.entity
    return {"shard": attempt.shard, "type": entity.type, "key": entity.key, **operation._asdict()}


def _place(address: dict[str, object]) -> tuple[EntityId, tuple[str, ...]]:
    """Of a step's result, for a codec."""
    entity = EntityId(str(address["type"]), str(address["key"]))
    return entity, tuple(str(address[name]) for name in ("workflow", "run_id", "number"))


async def _execute(fn: Callable[..., Any], connection: "AsyncConnection", arguments: dict[str, Any]) -> Any:
    async with _given(fn, connection) as given:
        return await fn(given, **arguments)


@asynccontextmanager
async def _given(
    fn: Callable[..., Any], connection: "AsyncConnection"
) -> "AsyncGenerator[AsyncConnection | AsyncSession]":
    """What the step's first parameter asks for."""
    from sqlalchemy.ext.asyncio import AsyncSession  # noqa: PLC0415 - see the module

    first = next(iter(inspect.signature(fn).parameters))
    wanted = get_type_hints(fn).get(first)
    if not (isinstance(wanted, type) and issubclass(wanted, AsyncSession)):
        yield connection
        return
    async with wanted(bind=connection, expire_on_commit=False) as session:
        yield session
        await session.flush()
