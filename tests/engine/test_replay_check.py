"""Recorded runs against changed code, executing nothing: what would be parked is found before a deploy (P7, P9)."""

from pathlib import Path

import pytest

from perdure.entities import Registry
from perdure.entities.testing import LocalCluster, check_replay
from perdure.entities.testing.replay import decode_recording, encode_recording, recorded_runs, replay

from .conftest import QUICK
from .faults import FaultyStore
from .scenes import world
from .test_code_changes import Failing, One, Three
from .test_p7_replay import V1, Continued, Fewer, More, Other, OtherArguments, OtherState, half_done
from .waiting import becomes


async def recorded(store: FaultyStore, path: Path) -> Path:
    path.write_bytes(encode_recording([loaded async for loaded in recorded_runs(store)]))
    return path


@pytest.mark.parametrize(
    ("cls", "reason"),
    [
        (Other, "Order/o.run: journal entry 0: recorded #0 activity charge, but the current code asks for #0 activity"),
        (Fewer, "asks for nothing more"),
        (More, "recorded #1 condition, but the current code asks for #1 activity flaky"),
        (OtherState, "RECEIPT 5"),
        (OtherArguments, "amount"),
    ],
)
async def test_a_misfit_is_named_as_a_host_would_name_it(
    store: FaultyStore, tmp_path: Path, cls: type[V1], reason: str
) -> None:
    await half_done(store)
    path = await recorded(store, tmp_path / "recorded.json")
    ran, commits = world.ran.copy(), len(store.commits)
    with pytest.raises(AssertionError) as raised:
        check_replay([cls], path)
    assert reason in str(raised.value)
    assert (world.ran, len(store.commits)) == (ran, commits), "nothing is executed, nothing written"


async def test_code_that_fits_passes(store: FaultyStore, tmp_path: Path) -> None:
    await half_done(store)
    path = await recorded(store, tmp_path / "recorded.json")
    for cls in (V1, Continued):
        assert check_replay([cls], path).runs == 1
    with pytest.raises(AssertionError, match="only 1 recorded runs; at least 2"):
        check_replay([V1], path, at_least=2)
    with pytest.raises(AssertionError, match="no entity class 'Order'"):
        check_replay([One], path)


async def test_runs_are_replayed_across_a_migration(store: FaultyStore, tmp_path: Path) -> None:
    async with LocalCluster([One], store=store, settings=QUICK):
        for key in "abc":
            await One.ref(key).run.start()
            await One.ref(key).letters.send("x")
            await One.ref(key).rename("Grace")
            await becomes(One.ref(key).full, "Grace Lovelace 1")
    path = await recorded(store, tmp_path / "recorded.json")
    report = check_replay([Three], path, at_least=3)
    assert (report.runs, report.entries) == (3, 6)
    bad = replay(Registry([Failing]), decode_recording(path.read_bytes()))
    assert len(bad.misfits) == 3
    assert "@upgrade(from_version=3)" in str(bad)


async def test_only_live_runs_are_recorded_page_by_page(store: FaultyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.entities.testing.replay.PAGE", 2)
    async with LocalCluster([V1, One], store=store, settings=QUICK):
        for number in range(5):
            await V1.ref(f"o{number}").run.start(number)
        await One.ref("p").run.start()
        await V1.ref("o3").open()
        await V1.ref("o3").run.result()
    keys = [loaded.entity.key async for loaded in recorded_runs(store, "Order")]
    assert keys == ["o0", "o1", "o2", "o4"]
    assert [loaded.entity.key async for loaded in recorded_runs(store, limit=3)] == ["o0", "o1", "o2"]
    assert [loaded.entity.key async for loaded in recorded_runs(store)][-1] == "p"


def test_anything_else_is_no_recording() -> None:
    for garbage in (b"", b"[]", b'{"format": 2, "entities": []}'):
        with pytest.raises(ValueError, match=r"not an export|format 2"):
            decode_recording(garbage)
