"""Waiting for what Postgres knows, without sleeping for luck."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

import psycopg

from .conftest import World

Connection = psycopg.AsyncConnection[Any]


@contextlib.asynccontextmanager
async def transaction_of(world: World, *, application_name: str = "test") -> AsyncGenerator[Connection]:
    """A transaction that stays open until the test ends it."""
    connection = await psycopg.AsyncConnection.connect(world.dsn, application_name=application_name)
    await connection.execute(f"set search_path to {world.namespace}".encode())
    try:
        yield connection
    finally:
        await connection.close()


async def really_blocked(world: World, *, count: int = 1) -> list[int]:
    """Returns the process ids once `count` sessions wait for a lock in a statement on this namespace."""
    async with await psycopg.AsyncConnection.connect(world.dsn, autocommit=True) as observer:
        for _ in range(2_000):
            rows = await (
                await observer.execute(
                    "select pid from pg_stat_activity where wait_event_type = 'Lock' and query like %s",
                    (f'%"{world.namespace}"%',),
                )
            ).fetchall()
            if len(rows) >= count:
                return [pid for (pid,) in rows]
            await asyncio.sleep(0.005)
    raise AssertionError("nobody is blocked")


HOLD_HOST = "select from hosts where incarnation = 'h1' for key share"
"""What every commit of h1 does first."""
