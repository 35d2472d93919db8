"""Log records of user code: told which turn they belong to, and written once however often a run is rebuilt (P7)."""

import asyncio
import json
import logging
from typing import Any

import pytest

from perdure.entities import (
    Entity,
    JsonFormatter,
    StartRefused,
    activity,
    condition,
    handler,
    is_replaying,
    log_context,
    logs,
    query,
    workflow,
)
from perdure.entities.testing import LocalCluster

from .conftest import QUICK
from .faults import FaultyStore
from .waiting import eventually

log = logging.getLogger("shop")
printed: list[str] = []


@activity
async def pack(what: str) -> str:
    log.info("packing %s", what)
    return what


@activity
def weigh() -> int:
    log.info("weighing")
    return 3


class Parcel(Entity):
    is_ready: bool = False

    @workflow
    async def run(self) -> str:
        log.info("begins")
        if not is_replaying():
            printed.append("begins")
        try:
            packed = await pack("books")
            log.info("is packed", extra={"version": "mine"})
            await weigh()
            await condition(lambda: self.is_ready)
        finally:
            log.info("is leaving")
        log.info("ends")
        return packed

    @handler
    async def ready(self) -> dict[str, Any]:
        log.info("is ready")
        self.is_ready = True
        return log_context()

    @handler
    async def wait(self) -> None:
        await asyncio.sleep(0)
        log.info("has waited")

    @query
    async def look(self) -> bool:
        log.info("is looked at")
        return self.is_ready


@pytest.fixture(autouse=True)
def _all_of_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "shop")
    printed.clear()


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "shop"]


def of(caplog: pytest.LogCaptureFixture, message: str) -> dict[str, Any]:
    """What the record of this message knows of its turn."""
    (record,) = [record for record in caplog.records if record.getMessage() == message]
    return dict(logs.fields_of(record))


async def test_a_replay_is_silent(store: FaultyStore, caplog: pytest.LogCaptureFixture) -> None:
    async with LocalCluster([Parcel], store=store, settings=QUICK) as cluster:
        await Parcel.ref("p").run.start()
        await eventually(lambda: len(store.settled) == 3)  # its start, and both activities
        for _ in range(3):
            await cluster.crash()  # each time the run is rebuilt from its journal, and its code closed before
            assert not await Parcel.ref("p").look()
        await Parcel.ref("p").ready()
        assert await Parcel.ref("p").run.result() == "books"
    once = ["begins", "packing books", "is packed", "weighing", "is ready", "is leaving", "ends"]
    assert [line for line in told(caplog) if line != "is looked at"] == once
    assert printed == ["begins"]


async def test_records_know_their_turn(store: FaultyStore, caplog: pytest.LogCaptureFixture) -> None:
    async with LocalCluster([Parcel], store=store, settings=QUICK):
        run_id = await Parcel.ref("p").run.start()
        await eventually(lambda: "weighing" in told(caplog))
        answered = await Parcel.ref("p").ready()
        await Parcel.ref("p").run.result()
        await Parcel.ref("q").wait()
        await Parcel.ref("q").look()
    assert of(caplog, "begins") == {"entity": "Parcel/p", "version": 1, "workflow": "run", "run": run_id}
    assert of(caplog, "packing books") == {
        "entity": "Parcel/p",
        "activity": "pack",
        "workflow": "run",
        "run": run_id,
        "operation": 0,
        "attempt": 1,
    }
    assert of(caplog, "weighing")["operation"] == 1
    ready = of(caplog, "is ready")
    assert ready == answered
    assert ready["handler"] == "ready"
    assert of(caplog, "ends")["version"] == ready["version"] + 1
    assert of(caplog, "has waited") == {"entity": "Parcel/q", "version": 1, "handler": "wait"}
    assert of(caplog, "is looked at") == {"entity": "Parcel/q", "version": 1, "query": "look"}
    assert log_context() == {}


async def test_a_line_of_json(cluster: LocalCluster, caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ValueError("näh")
    except ValueError:
        log.exception("went wrong: %d", 3, extra={"order": 7, "level": "mine"})
    (record,) = caplog.records
    vars(record)["perdure"] = {"entity": "Order/o-1", "version": 2}
    vars(record)["_ray_timestamp_ns"] = 7
    line = JsonFormatter(process="host").format(record)
    assert "\n" not in line
    found = json.loads(line)
    assert "ValueError: näh" in found.pop("exception")
    assert found.pop("time").endswith("+00:00")
    assert found == {
        "level": "error",
        "logger": "shop",
        "message": "went wrong: 3",
        "process": "host",
        "order": 7,
        "entity": "Order/o-1",
        "version": 2,
    }


@pytest.mark.parametrize(("name", "value"), [(logs.FORMAT, "xml"), (logs.LEVEL, "loud")])
def test_other_words_are_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(StartRefused, match=rf"{name} is one of .*not '{value}'"):
        logs.configure()


def test_text_names_the_turn() -> None:
    record = logging.makeLogRecord({"name": "shop", "levelname": "INFO", "msg": "paid"})
    formatter = logs.TextFormatter(with_time=False)
    assert formatter.format(record) == "INFO shop: paid"
    record.perdure = {"entity": "Order/o-1", "version": 7}
    assert formatter.format(record) == "INFO shop: paid [entity=Order/o-1 version=7]"
