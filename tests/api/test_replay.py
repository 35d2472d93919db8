"""`POST /replay`: a real download against code that fits it and code that does not; nothing is executed (P7, P9)."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import pytest

from perdure.api import Settings, changes, create_app, replay
from perdure.api.changes import Recorded, replay_module
from perdure.api.failures import Failure
from perdure.entities import Entity, Mailbox, Registry, activity, query, replays, workflow
from perdure.entities.testing import LocalCluster

from .conftest import HERE

charged: list[int] = []
released = threading.Event()


@activity
async def charge(amount: int) -> str:
    charged.append(amount)
    return f"paid {amount}"


@activity
async def bill(amount: int) -> str:
    raise AssertionError("nothing is executed")


class Order(Entity):
    paid: str = ""
    nudges = Mailbox(str)

    @workflow
    async def run(self, amount: int) -> str:
        self.paid = await charge(amount)
        return await self.nudges.receive()

    @workflow
    async def quick(self, amount: int) -> str:
        return await charge(amount)

    @query
    async def state(self) -> str:
        return self.paid


def changed() -> type[Entity]:
    class Order(Entity):
        paid: str = ""
        nudges = Mailbox(str)

        @workflow
        async def run(self, amount: int) -> str:
            self.paid = await bill(amount)
            return await self.nudges.receive()

        @workflow
        async def quick(self, amount: int) -> str:
            await charge(amount)
            return await charge(amount)

    return Order


def without_workflows() -> type[Entity]:
    class Order(Entity):
        paid: str = ""

    return Order


def endless() -> type[Entity]:
    class Order(Entity):
        paid: str = ""

        @workflow
        async def run(self, amount: int) -> str:
            released.wait(60)
            self.paid = await charge(amount)
            return ""

    return Order


def gateway(*classes: type[Entity]) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(create_app(classes, settings=Settings()), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url=HERE)


async def download(key: str = "o") -> Any:
    """Of an entity with a live run and one that has ended."""
    charged.clear()
    async with LocalCluster([Order]), gateway(Order) as http:
        await Order.ref(key).run.start(7)
        await Order.ref(key).quick.start(8)
        assert await Order.ref(key).quick.result() == "paid 8"
        async with asyncio.timeout(30):
            while await Order.ref(key).state() != "paid 7":
                await asyncio.sleep(0.005)
        answer = await http.get(f"/entities/Order/{key}/-/export")
        assert answer.status_code == 200
        assert sorted(charged) == [7, 8]
        return answer.json()


async def replayed(cls: type[Entity], export: Any, status: int = 200, query: str = "?type=Order") -> Any:
    async with gateway(cls) as http:
        answer = await http.post(f"/replay{query}", json=export)
    assert answer.status_code == status, answer.text
    return answer.json()


async def test_the_code_that_ran_fits_and_nothing_is_executed() -> None:
    export = await download()
    told = await replayed(Order, export)
    assert [(one["workflow"], one["status"], one["verdict"]) for one in told["runs"]] == [
        ("quick", "completed", "fits"),
        ("run", "running", "fits"),
    ]
    assert (told["type"], told["key"], told["verdicts"], told["is_whole"]) == ("Order", "o", {"fits": 2}, True)
    assert all(one["entries"] == 2 for one in told["runs"])
    assert sorted(charged) == [7, 8]


async def test_changed_code_is_told_where_it_differs() -> None:
    told = await replayed(changed(), await download())
    quick, run = told["runs"]
    assert (run["verdict"], run["entries"]) == ("differs", 0)
    assert (run["recorded"], run["expected"]) == ("#0 activity charge", "#0 activity bill")
    assert (quick["verdict"], quick["entries"]) == ("differs", 1)
    assert (quick["recorded"], quick["expected"]) == ("nothing more", "#1 activity charge")
    assert sorted(charged) == [7, 8]


async def test_what_this_gateway_does_not_have_is_named() -> None:
    class Customer(Entity):
        name: str = ""

    export = await download()
    assert [one["verdict"] for one in (await replayed(without_workflows(), export))["runs"]] == ["unknown_workflow"] * 2
    [one] = (await replayed(Customer, export))["runs"]
    assert (one["verdict"], one["workflow"]) == ("unknown_type", "")
    assert "no entity class 'Order'" in one["reason"]


async def test_an_ended_run_whose_journal_is_not_whole_and_entries_that_are_none_are_told() -> None:
    export = await download()
    quick = [row for row in export["journal"] if row["workflow"] == "quick"]
    export["journal"] = [row for row in export["journal"] if row["workflow"] == "run"] + quick[1:]
    assert (await replayed(Order, export))["verdicts"] == {"incomplete": 1, "fits": 1}
    export["journal"] = [row | {"entry": "none"} for row in export["journal"]]
    assert (await replayed(Order, export))["verdicts"] == {"incomplete": 1, "unreadable": 1}


async def test_whatever_else_is_raised_on_the_way_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("beyond all that was foreseen")

    export = await download()
    monkeypatch.setattr(replays, "rebuild_run", broken)
    told = await replayed(Order, export)
    assert told["verdicts"] == {"unreadable": 2}
    assert told["runs"][0]["reason"] == "KeyError: 'beyond all that was foreseen'"


SPOILT: dict[str, Callable[[Any], Any]] = {
    "a list": lambda export: [export],
    "an empty object": lambda export: {},
    "another format": lambda export: export | {"perdure_export": 2},
    "half a run": lambda export: export | {"runs": [{"workflow": "run"}]},
    "an unknown status": lambda export: export | {"runs": [export["runs"][0] | {"status": "sleeping"}]},
    "a time in words": lambda export: export | {"journal": [{"at_us": "yesterday"}]},
    "an empty key": lambda export: export | {"entity": export["entity"] | {"key": ""}},
}


@pytest.mark.parametrize("what", SPOILT)
async def test_anything_else_is_refused(what: str) -> None:
    told = await replayed(Order, SPOILT[what](await download()), 422)
    assert told["code"] == "invalid_argument"


async def test_the_history_is_of_the_type_that_the_right_was_asked_for() -> None:
    told = await replayed(Order, await download(), 422, "?type=Customer")
    assert "a history of Order/o" in told["detail"]


async def test_a_body_beyond_the_limit_is_refused() -> None:
    export = await download()
    app = create_app([Order], settings=Settings(body_bytes_max=1_024))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=HERE) as http:
        assert (await http.post("/replay", json=export)).status_code == 413


async def test_code_that_does_not_end_holds_up_neither_the_loop_nor_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    export = await download()
    export["runs"] = [row for row in export["runs"] if row["workflow"] == "run"]
    monkeypatch.setattr(replay, "REPLAY_S_MAX", 0.05)
    released.clear()
    try:
        async with gateway(endless()) as http:
            told = (await http.post("/replay", json=export)).json()
            assert (told["runs"], told["is_whole"]) == ([], False)
            again = await http.post("/replay", json=export)
            assert (again.status_code, again.json()["code"]) == (429, "busy")
    finally:
        released.set()


async def test_the_command_reads_the_same_file(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "order.json"
    path.write_bytes(msgspec.json.encode(await download()))
    source = Recorded(path, "", "perdure", "", 10)
    said: list[str] = []
    monkeypatch.setattr(changes, "_registry", lambda module: Registry([Order]))
    replay_module("shop", source, export=None, say=said.append)
    assert said == ["1 live runs, 4 journal entries: all fit"]
    path.write_bytes(b'{"perdure_export": 7}')
    with pytest.raises(Failure, match="no export of format 1"):
        replay_module("shop", source, export=None, say=said.append)
