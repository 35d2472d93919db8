"""Random asyncio programs while somebody pauses, resumes and retries them, and hosts crash: same end (P1, P7, P9)."""

import asyncio
from contextlib import suppress
from random import Random
from typing import Any

import pytest

from perdure.entities import Conflict, NoSuchOperation, OperationSettled, RunEnded
from perdure.entities.engine.settings import EngineSettings
from perdure.entities.store.rows import Batch
from perdure.entities.testing import LocalCluster

from .faults import Crasher, Fault
from .random_programs import Machine, Peer, count, generate_parts, outside
from .waiting import eventually

SEEDS = range(7_000, 7_030)


async def meddle(random: Random) -> int:
    """Pause, resume and retry until the run has ended. Returns how often it was paused."""
    run = Machine.ref("m").run
    paused = 0
    while True:
        await asyncio.sleep(random.random() * 0.002)
        try:
            await run.pause(reason="let me see", operator="ann")
            paused += 1
            view = await run.operations()
            for operation in view.operations:
                if operation.status == "retrying" and random.random() < 0.5:
                    with suppress(Conflict, OperationSettled, NoSuchOperation):
                        await run.retry(operation.number)
            await asyncio.sleep(random.random() * 0.002)
            await run.resume(operator="ann")
        except RunEnded:
            return paused


async def nobody_takes_up_what_waits_for_people(batch: Batch) -> None:
    """A run that is paused has no work for whoever gains its shard."""
    outside.violations += [
        f"{write.entity}: {row.workflow} is paused and in flight"
        for write in batch.writes
        for row in write.runs
        if row.paused and row.in_flight
    ]


async def play(parts: list[Any], random: Random | None) -> tuple[Any, Any]:
    outside.__init__()  # type: ignore[misc]
    store = outside.store
    store.written = nobody_takes_up_what_waits_for_people
    settings = EngineSettings(mail_poll_s=0.05, evict_after_every_turn=random is not None and random.random() < 0.5)
    if random is not None:
        kinds = [Fault.CRASH_BEFORE, Fault.CRASH_AFTER, Fault.BEFORE, Fault.AFTER, Fault.CONFLICT]
        store.pick = lambda number, _: random.choice(kinds) if random.random() < 0.06 and number < 60 else Fault.NONE
    async with LocalCluster([Machine, Peer], store=store, hosts=2, settings=settings) as cluster:
        crasher = Crasher(cluster, store)
        machine = Machine.ref("m")
        await machine.run.start(parts, [])
        meddling = asyncio.create_task(meddle(random)) if random is not None else None
        letters = sum(count(program, "receive") + count(program, "receive_in_time") for program, _ in parts)
        for number in range(letters):
            await machine.letters.send(f"letter {number}")
        for level in range(1, 4):
            await machine.set_level(level)
        result = await machine.run.result(timeout=20)
        if meddling is not None:
            await meddling
        await eventually(lambda: not store.waiting_messages() and not store.reminder_rows())
        await crasher.settle()
        await cluster.drained()
        left = await machine.look()
        held = [item for stored in store._entities.values() for item in stored.items.values()]
    assert held == []
    assert outside.violations == []
    assert store.dead_letters == []
    assert store.attempt_rows() == []
    assert [(str(entity), row.workflow) for entity, row in store.runs() if row.in_flight] == []
    return result, left


@pytest.mark.parametrize("seed", SEEDS)
async def test_meddling_changes_nothing(seed: int) -> None:
    random = Random(seed)
    parts = generate_parts(random)
    undisturbed = await play(parts, None)
    assert await play(parts, random) == undisturbed, f"seed {seed}"
