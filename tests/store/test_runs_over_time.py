"""Runs that continue as new, are patched, migrated and recorded, on both stores: JSON columns keep what it takes."""

import asyncio
from typing import Any

from perdure.api.changes import Recorded, replay_module
from perdure.entities import Registry, upgrade
from perdure.entities.testing import LocalCluster
from perdure.entities.testing.replay import decode_recording, encode_recording, recorded_runs, replay

from .conftest import World
from .ledger import Old


class New(Old, name="Ledger", version=2):
    owner: dict[str, str] = {}

    @upgrade(from_version=1)
    @staticmethod
    def names_are_owners(state: dict[str, Any]) -> dict[str, Any]:
        return state | {"owner": {"first": state["first"]}}


async def test_a_run_continues_and_migrates(world: World) -> None:
    await world.store.fence("h1", is_dead=True)
    async with LocalCluster([Old], store=world.store) as cluster:
        await Old.ref("l").run.start(6)
        for amount in (1, 2, 3):
            await Old.ref("l").rename(f"Name {amount}")
            await Old.ref("l").amounts.send(amount)
        await cluster.drained()
    recorded = [loaded async for loaded in recorded_runs(world.store)]
    assert [row.run_id.rpartition(".")[2] for loaded in recorded for row in loaded.runs] == ["1"]
    for cls in (Old, New):
        report = replay(Registry([cls]), decode_recording(encode_recording(recorded)))
        assert (report.runs, report.misfits) == (1, [])
    if world.dsn:  # as the command does it
        said: list[str] = []
        source = Recorded(
            None, world.dsn, world.namespace, "Ledger", 10, "tests.store.conftest:a_codec" if world.codec else ""
        )
        await asyncio.to_thread(replay_module, "tests.store.ledger", source, export=None, say=said.append)
        assert said == ["1 live runs, 2 journal entries: all fit"]
    async with LocalCluster([New], store=world.store):
        for amount in (4, 5, 6):
            await New.ref("l").amounts.send(amount)
        assert await New.ref("l").run.result(timeout=10) == {"z": 9, "a": 12}
    (loaded,) = await world.store.load([recorded[0].entity])
    assert loaded.schema_version == 2
    assert b"Name 3" in (loaded.state or b"")
    assert [loaded async for loaded in recorded_runs(world.store)] == []
