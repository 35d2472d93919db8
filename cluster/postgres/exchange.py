"""One transaction in one round trip.

All statements are put into the output buffer at once, then one Sync, then one wait for all answers: Postgres treats
everything up to the Sync as one implicit transaction. psycopg's own pipeline does the same with a wait per statement
and leaves open where an error surfaces; here the first error of the transaction is what the caller gets.
"""

import asyncio
import os
import select
import socket
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from struct import Struct
from typing import Any

import psycopg
from psycopg import postgres
from psycopg.pq import DiagnosticField, ExecStatus, Format, PipelineStatus, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult
from psycopg.waiting import Ready, Wait

from .arrays import POSTGRES_EPOCH_US, Array

Rows = list[tuple[Any, ...]]
Statement = tuple[str, Sequence[object]]
"""SQL with $1, $2, … and its parameters: arrays (arrays.py), or scalars whose type the SQL tells by a cast."""


class Refused(Exception):
    """The server refused a statement; the transaction did not happen (unless `is_fatal`: the session is gone)."""

    def __init__(self, sqlstate: str, message: str, *, is_fatal: bool) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.is_fatal = is_fatal


class Session:
    """A connection that runs one transaction at a time. Not for concurrent use."""

    def __init__(
        self,
        connection: psycopg.AsyncConnection[Any],
        *,
        preamble: str = "",
        is_prepared: bool = True,
        answer_timeout_s: float = 45,
    ) -> None:
        self._connection = connection
        self._preamble = preamble
        self._is_prepared = is_prepared
        self._answer_timeout_s = answer_timeout_s
        self._names: dict[str, bytes] = {}
        """Names of the statements that this session has prepared."""
        self._prepared = 0

    @property
    def is_usable(self) -> bool:
        """Whether the session is open, outside a transaction, and owes us no answer."""
        pgconn = self._connection.pgconn
        return (
            not self._connection.closed
            and pgconn.transaction_status == TransactionStatus.IDLE
            and pgconn.pipeline_status == PipelineStatus.OFF
        )

    @property
    def is_silent(self) -> bool:
        """Whether nothing has arrived since the last transaction: neither an end of the connection nor a message."""
        poll = select.poll()
        poll.register(self._connection.fileno(), select.POLLIN)
        return not poll.poll(0)

    async def close(self) -> None:
        """End the session; an unfinished transaction is rolled back by the server."""
        await self._connection.close()

    async def transact(self, statements: Sequence[Statement], *, is_snapshot: bool = False) -> list[Rows]:
        """Run all statements as one transaction; returns each one's rows. `is_snapshot`: reads only, all as of one
        moment.

        Raises Refused, or psycopg.OperationalError if the connection broke or gave no answer in time: then the
        transaction may have happened.
        """
        before = [self._preamble] if self._preamble else []
        after: list[Statement] = []
        if is_snapshot:
            before.insert(0, "begin isolation level repeatable read, read only")
            after.append(("commit", ()))
        answers = await self._transact([*((sql, ()) for sql in before), *statements, *after])
        return answers[len(before) : len(before) + len(statements)]

    async def _transact(self, statements: Sequence[Statement]) -> list[Rows]:
        pgconn = self._connection.pgconn
        watchdog = asyncio.get_running_loop().call_later(self._answer_timeout_s, self._cut)
        try:
            pgconn.enter_pipeline_mode()
            preparing = self._send(pgconn, statements)
            results = await self._connection.wait(_answers(pgconn))
            pgconn.exit_pipeline_mode()
        except BaseException:
            # Whether the transaction happened is unknown, and the next answer would be to the wrong question.
            await self.close()
            raise
        finally:
            watchdog.cancel()
        return self._rows(results, preparing)

    def _send(self, pgconn: PGconn, statements: Sequence[Statement]) -> list[str]:
        """Put everything into the output buffer. Returns for each command the SQL that it prepares, or ""."""
        preparing: list[str] = []
        for sql, values in statements:
            data, oids, formats = _parameters(values)
            if not self._is_prepared:
                pgconn.send_query_params(sql.encode(), data, oids, formats, Format.BINARY)
            else:
                name = self._names.get(sql)
                if name is None:
                    self._prepared += 1
                    name = b"perdure_%d" % self._prepared
                    pgconn.send_prepare(name, sql.encode(), oids)
                    preparing.append(sql)
                    self._names[sql] = name
                pgconn.send_query_prepared(name, data, formats, Format.BINARY)
            preparing.append("")
        pgconn.pipeline_sync()
        return preparing

    def _rows(self, results: list[PGresult], preparing: list[str]) -> list[Rows]:
        refused: Refused | None = None
        for result, sql in zip(results, preparing, strict=False):
            if sql and result.status != ExecStatus.COMMAND_OK:
                self._names.pop(sql, None)
            if refused is None and result.status == ExecStatus.FATAL_ERROR:
                refused = _refused(result)
        if refused is not None:
            raise refused
        return [_decoded(result) for result, sql in zip(results, preparing, strict=True) if not sql]

    def _cut(self) -> None:
        """Break the connection: whoever waits for its answer gets an error, even if the other side is frozen."""
        if not self._connection.closed:
            with socket.socket(fileno=os.dup(self._connection.fileno())) as end, suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def _answers(pgconn: PGconn) -> Generator[Wait, Ready | int, list[PGresult]]:
    """All results up to the Sync. Reads while it writes, so that full buffers on both sides cannot block each other."""
    results: list[PGresult] = []
    waiting_for = Wait.RW
    while True:
        ready = yield waiting_for
        if ready & Ready.R:
            pgconn.consume_input()
            was_separator = False
            while not pgconn.is_busy():
                result = pgconn.get_result()
                if result is None:
                    if was_separator:
                        break  # nothing more has arrived
                    was_separator = True
                    continue
                was_separator = False
                if result.status == ExecStatus.PIPELINE_SYNC:
                    return results
                results.append(result)
                if result.status == ExecStatus.FATAL_ERROR and _is_session_gone(result):
                    return results
        if ready & Ready.W and pgconn.flush() == 0:
            waiting_for = Wait.R


def _is_session_gone(result: PGresult) -> bool:
    severity = result.error_field(DiagnosticField.SEVERITY_NONLOCALIZED)
    return severity is None or severity in (b"FATAL", b"PANIC")


def _refused(result: PGresult) -> Refused:
    sqlstate = (result.error_field(DiagnosticField.SQLSTATE) or b"").decode()
    primary = result.error_field(DiagnosticField.MESSAGE_PRIMARY) or result.error_message or b"connection lost"
    return Refused(sqlstate, primary.decode(errors="replace").strip(), is_fatal=_is_session_gone(result))


# --- Values -----------------------------------------------------------------------------------------------------------


def _parameters(values: Sequence[object]) -> tuple[list[bytes | None], list[int], list[int]]:
    data: list[bytes | None] = []
    oids: list[int] = []
    formats: list[int] = []
    for value in values:
        if isinstance(value, Array):
            data.append(value.data)
            oids.append(value.oid)
            formats.append(Format.BINARY)
        else:
            data.append(None if value is None else str(value).encode())
            oids.append(0)
            formats.append(Format.TEXT)
    return data, oids, formats


_INT2, _INT4, _INT8 = Struct("!h").unpack, Struct("!i").unpack, Struct("!q").unpack


def _text(data: bytes) -> str:
    return data.decode()


_DECODERS: dict[int, Callable[[bytes], Any]] = {
    postgres.types["int2"].oid: lambda data: _INT2(data)[0],
    postgres.types["int4"].oid: lambda data: _INT4(data)[0],
    postgres.types["int8"].oid: lambda data: _INT8(data)[0],
    postgres.types["bool"].oid: lambda data: data == b"\x01",
    postgres.types["text"].oid: _text,
    postgres.types["varchar"].oid: _text,
    postgres.types["bytea"].oid: lambda data: data,
    # jsonb stays UTF-8 text (after its version byte): whoever needs the value parses it once, into the right type
    postgres.types["jsonb"].oid: lambda data: data[1:],
    # microseconds since the Unix epoch
    postgres.types["timestamptz"].oid: lambda data: _INT8(data)[0] + POSTGRES_EPOCH_US,
}


def _decoded(result: PGresult) -> Rows:
    if result.status != ExecStatus.TUPLES_OK or result.ntuples == 0:
        return []
    columns = range(result.nfields)
    decoders = [_DECODERS[result.ftype(column)] for column in columns]
    value = result.get_value
    return [
        tuple(None if (data := value(row, column)) is None else decoders[column](data) for column in columns)
        for row in range(result.ntuples)
    ]
