"""Sessions with Postgres: opened on demand, few, bounded in every wait, replaced after a failure.

Works behind PgBouncer in transaction mode (`is_pooled=True`): then nothing is kept in a session, neither prepared
statements nor settings; the settings are made at the beginning of each transaction instead.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import psycopg

from ...entities.store.port import StoreUnavailable
from .exchange import Session
from .names import application_name, without_password


@dataclass(frozen=True, kw_only=True)
class SessionSettings:
    """How to talk to Postgres. Every wait has a limit; times in seconds."""

    dsn: str = field(repr=False)
    incarnation: str = ""
    """Host on whose behalf we write; names the sessions so that whoever fences the host can end them."""
    is_pooled: bool = False
    """There is a PgBouncer in transaction mode in between: no prepared statements, no session settings."""
    connect_timeout_s: int = 5
    statement_timeout_s: float = 30
    lock_timeout_s: float = 10
    answer_timeout_s: float = 45
    """How long to wait for any answer at all (a cut cable sends none). Longer than the statement timeout."""
    acquire_timeout_s: float = 10
    """How long a caller waits for a free session."""

    @property
    def _parameters(self) -> dict[str, str]:
        return {
            "statement_timeout": f"{round(self.statement_timeout_s * 1000)}ms",
            "lock_timeout": f"{round(self.lock_timeout_s * 1000)}ms",
            # Our statements find few rows by primary key in tables that may have been empty when they were planned
            # and hold millions of rows a minute later: never let a plan be a scan or a hash of the whole table.
            "enable_seqscan": "off",
            "enable_hashjoin": "off",
            "enable_mergejoin": "off",
            "jit": "off",
            "default_transaction_isolation": "read committed",
        }

    @property
    def options(self) -> str:
        """Settings for the start of a session."""
        if self.is_pooled:
            return ""
        values = ((name, value.replace(" ", r"\ ")) for name, value in self._parameters.items())
        # A client that is stopped in the middle of a commit must not hold its locks for ever.
        return " ".join(f"-c {name}={value}" for name, value in values) + (
            f" -c idle_in_transaction_session_timeout={round(self.answer_timeout_s * 1000)}ms"
            " -c plan_cache_mode=force_generic_plan"
        )

    @property
    def preamble(self) -> str:
        """A statement that makes the settings for one transaction; empty if the session has them."""
        if not self.is_pooled:
            return ""
        return "select " + ", ".join(
            f"set_config('{name}', '{value}', true)"
            for name, value in self._parameters.items()
            if name != "default_transaction_isolation"  # too late inside a transaction; the guard looks at it
        )


class Pool:
    """At most `size` sessions, the most recently used first."""

    def __init__(self, settings: SessionSettings, *, size: int) -> None:
        self.settings = settings
        self._idle: list[Session] = []
        self._free = asyncio.Semaphore(size)

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[Session]:
        """A session, opened if need be; closed afterwards unless it is in order.

        Raises StoreUnavailable (`maybe_applied` False) if there is none in time. One attempt: the caller repeats.
        """
        try:
            # Not `wait_for`: before Python 3.12 a cancellation that comes together with the permit would lose it.
            async with asyncio.timeout(self.settings.acquire_timeout_s):
                await self._free.acquire()
        except TimeoutError:
            raise StoreUnavailable(
                f"no free database session within {self.settings.acquire_timeout_s} s", maybe_applied=False
            ) from None
        session: Session | None = None
        try:
            session = await self._idle_one() or await self._open()
            yield session
        finally:
            if session is not None:
                await self._take_back(session)
            self._free.release()

    async def close(self) -> None:
        """Close the idle sessions."""
        while self._idle:
            await self._idle.pop().close()

    async def _idle_one(self) -> Session | None:
        while self._idle:
            session = self._idle.pop()
            if session.is_silent:
                return session
            await session.close()  # the server has closed it meanwhile, or wants to tell us why
        return None

    async def _open(self) -> Session:
        settings = self.settings
        try:
            async with asyncio.timeout(settings.connect_timeout_s + 1):
                connection = await psycopg.AsyncConnection.connect(
                    settings.dsn,
                    autocommit=True,
                    prepare_threshold=None,  # exchange.py prepares for itself
                    connect_timeout=settings.connect_timeout_s,
                    application_name=application_name(settings.incarnation),
                    client_encoding="utf8",
                    options=settings.options,
                    keepalives_idle=5,
                    keepalives_interval=2,
                    keepalives_count=3,
                )
        except (psycopg.Error, OSError, TimeoutError) as error:
            reason = without_password(str(error) or "timed out", settings.dsn)
            raise StoreUnavailable(f"cannot connect to Postgres: {reason}", maybe_applied=False) from None
        return Session(
            connection,
            preamble=settings.preamble,
            is_prepared=not settings.is_pooled,
            answer_timeout_s=settings.answer_timeout_s,
        )

    async def _take_back(self, session: Session) -> None:
        if session.is_usable:
            self._idle.append(session)
        else:
            await session.close()
            await self.close()  # what broke one session (a restart, a failover) broke its idle neighbours too
