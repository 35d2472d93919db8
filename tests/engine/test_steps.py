"""Transactional steps without a database: refused plainly, or done by the test kit's fake."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from perdure.entities import Entity, RetryPolicy, WorkflowFailed, transactional, workflow
from perdure.entities.testing import FakeSteps, LocalCluster

from .faults import Crasher, Fault, FaultyStore


@transactional(retry=RetryPolicy(attempts=2))
async def save(rows: list[str], row: str) -> int:
    rows.append(row)
    if row == "bad":
        raise ValueError(row)
    return len(rows)


class Clerk(Entity):
    @workflow
    async def run(self, row: str) -> int:
        return await save(row) + await save.options(retry=RetryPolicy(attempts=1))("second")


async def test_without_a_database_it_is_refused() -> None:
    async with LocalCluster([Clerk]):
        with pytest.raises(WorkflowFailed, match="transactional step, but there is no database here"):
            await Clerk.ref("c").run("first")


async def test_the_fake_commits_and_rolls_back_and_does_each_once() -> None:
    table: list[str] = []

    @asynccontextmanager
    async def connection() -> AsyncGenerator[list[str]]:
        rows = list(table)
        yield rows
        table[:] = rows

    steps = FakeSteps(connection)
    store = FaultyStore()
    async with LocalCluster([Clerk], store=store, hosts=2, steps=lambda: steps) as cluster:
        with pytest.raises(WorkflowFailed, match="bad"):
            await Clerk.ref("c").run("bad")
        assert table == []
        crasher = Crasher(cluster, store)
        store.pick = lambda _, batch: (
            Fault.CRASH_BEFORE if any(w.journal and b"value" in w.journal[-1].entry for w in batch.writes) and not
            crasher.crashes else Fault.NONE
        )  # fmt: skip
        assert await Clerk.ref("d").run("first") == 3
        await crasher.settle()
        assert crasher.crashes == 1
    assert table == ["first", "second"]
