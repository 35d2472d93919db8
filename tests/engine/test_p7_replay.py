"""P7: a step whose result is committed is never executed again; code that does not fit its journal is parked."""

import asyncio
from datetime import timedelta

import pytest

from perdure.entities import Entity, EntityId, Mailbox, RunParked, activity, condition, handler, query, remind, workflow
from perdure.entities.store.rows import Batch
from perdure.entities.testing import LocalCluster

from .conftest import QUICK
from .faults import Crasher, Fault, FaultyStore
from .programs import charge, flaky
from .scenes import Account, world
from .waiting import becomes, eventually


@activity
async def ship(name: str) -> str:
    world.ran[f"ship {name}"] += 1
    return f"shipped {name}"


class V1(Entity, name="Order"):
    paid: str = ""
    go: bool = False
    colour: str = "red"
    letters = Mailbox(str)

    @workflow
    async def run(self, amount: int) -> str:
        self.paid = await charge(amount)
        await condition(lambda: self.go)
        return await ship("pen")

    @handler
    async def open(self) -> None:
        self.go = True

    @handler
    async def paint(self, colour: str) -> str:
        self.colour = colour
        return colour

    @query
    async def look(self) -> str:
        return f"{self.paid}, {self.colour}"


class Other(V1, name="Order"):
    """Ships first, then charges."""

    @workflow
    async def run(self, amount: int) -> str:
        await ship("pen")
        self.paid = await charge(amount)
        await condition(lambda: self.go)
        return "other"


class Fewer(V1, name="Order"):
    @workflow
    async def run(self, amount: int) -> str:
        return "nothing to do"


class More(V1, name="Order"):
    @workflow
    async def run(self, amount: int) -> str:
        self.paid = await charge(amount)
        await flaky("more")
        await condition(lambda: self.go)
        return "more"


class Raises(V1, name="Order"):
    @workflow
    async def run(self, amount: int) -> str:
        raise ValueError(amount)


class OtherState(V1, name="Order"):
    """Asks for the same, but leaves another state behind."""

    @workflow
    async def run(self, amount: int) -> str:
        self.paid = (await charge(amount)).upper()
        await condition(lambda: self.go)
        return await ship("pen")


class Continued(V1, name="Order"):
    """Differs only in what no run has reached yet."""

    @workflow
    async def run(self, amount: int) -> str:
        self.paid = await charge(amount)
        await condition(lambda: self.go)
        return await ship("pencil")


class OtherArguments(V1, name="Order"):
    @workflow
    async def run(self, amount: str) -> str:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        return amount


async def half_done(store: FaultyStore) -> None:
    async with LocalCluster([V1], store=store, settings=QUICK):
        await V1.ref("o").run.start(5)
        await becomes(V1.ref("o").look, "receipt 5, red")


MISFITS = [
    (Other, r"recorded #0 activity charge, but the current code asks for #0 activity ship"),
    (Fewer, r"recorded #0 activity charge, but the current code asks for nothing more"),
    (More, r"recorded #1 condition, but the current code asks for #1 activity flaky"),
    (Raises, r"recorded #0 activity charge, but the current code asks for nothing more"),
    (OtherArguments, r"amount"),
]


@pytest.mark.parametrize(("misfit", "reason"), MISFITS, ids=lambda one: getattr(one, "__name__", ""))
async def test_code_that_does_not_fit_parks_the_run_and_fixed_code_resumes_it(
    store: FaultyStore, misfit: type[V1], reason: str
) -> None:
    await half_done(store)
    async with LocalCluster([misfit], store=store, settings=QUICK) as cluster:
        parked = misfit.ref("o")
        assert await parked.paint("blue") == "blue", "handlers go on"
        assert await parked.look() == "receipt 5, blue", "so do queries"
        with pytest.raises(RunParked, match=rf"(?s)Order/o\.run is parked: .*{reason}.*deploy code that fits"):
            await parked.run.result()
        await parked.open()
        await cluster.crash()
        assert await parked.look() == "receipt 5, blue"
        assert world.ran["ship pen"] == 0, "nothing of it is executed"
    async with LocalCluster([V1], store=store, settings=QUICK):
        assert await V1.ref("o").look() == "receipt 5, blue"
        assert await V1.ref("o").run.result(timeout=timedelta(seconds=5)) == "shipped pen"
    assert world.ran["charge 5"] == 1
    assert world.ran["ship pen"] == 1


async def test_code_that_leaves_another_state_behind_is_noticed_while_nobody_else_has_changed_it(
    store: FaultyStore,
) -> None:
    await half_done(store)
    async with LocalCluster([OtherState], store=store, settings=QUICK):
        assert await OtherState.ref("o").look() == "receipt 5, red"
        with pytest.raises(RunParked, match=r"(?s)receipt 5.*RECEIPT 5"):
            await OtherState.ref("o").run.result()
    async with LocalCluster([V1], store=store, settings=QUICK):
        await V1.ref("o").open()
        assert await V1.ref("o").run.result() == "shipped pen"


async def test_a_parked_run_can_be_terminated(store: FaultyStore) -> None:
    await half_done(store)
    async with LocalCluster([Other], store=store, settings=QUICK):
        await Other.ref("o").run.terminate("hopeless")
        with pytest.raises(Exception, match="hopeless"):
            await Other.ref("o").run.result()
        assert await Other.ref("o").run.options(restart=True).start(6)


async def test_code_that_differs_only_ahead_goes_on(store: FaultyStore) -> None:
    await half_done(store)
    async with LocalCluster([Continued], store=store, settings=QUICK):
        await Continued.ref("o").open()
        assert await Continued.ref("o").run.result() == "shipped pencil"
    assert world.ran["charge 5"] == 1


async def test_a_journal_that_cannot_be_read_parks_the_run(store: FaultyStore) -> None:
    await half_done(store)
    stored = next(iter(store._entities.values()))
    for key, (at, row) in stored.journal.items():
        stored.journal[key] = (at, row._replace(entry=b'{"not": "an entry"}'))
    async with LocalCluster([V1], store=store, settings=QUICK):
        with pytest.raises(RunParked):
            await V1.ref("o").run.result()
        assert await V1.ref("o").paint("blue") == "blue"


async def test_replaying_executes_nothing(store: FaultyStore) -> None:
    await half_done(store)
    for _ in range(3):
        async with LocalCluster([V1], store=store, settings=QUICK) as cluster:
            assert await V1.ref("o").look() == "receipt 5, red"
            await cluster.crash()
            assert await V1.ref("o").look() == "receipt 5, red"
    assert world.ran["charge 5"] == 1
    assert store.attempt_rows() == []


async def test_state_from_before_the_run_is_there_in_replay(store: FaultyStore) -> None:
    async with LocalCluster([V1], store=store, settings=QUICK) as cluster:
        order = V1.ref("o")
        await order.paint("green")
        await order.run.start(5)
        await becomes(order.look, "receipt 5, green")
        await order.paint("blue")
        await cluster.crash()
        await order.open()
        assert await order.run.result() == "shipped pen"
        assert await order.look() == "receipt 5, blue"


class Tags(Entity):
    tags: set[int] = set()
    go: bool = False

    @workflow
    async def run(self) -> int:
        for number in range(60):
            self.tags.add(number)
        await asyncio.sleep(0.001)
        for number in range(60):
            if number not in (7, 8):  # in a small set 8 comes first, in one that was large 7
                self.tags.discard(number)
        await condition(lambda: self.go)
        return len(self.tags)

    @handler
    async def open(self) -> None:
        self.go = True

    @query
    async def count(self) -> int:
        return len(self.tags)


async def test_sets_in_the_state_do_not_park_a_run(store: FaultyStore) -> None:
    tags = Tags.ref("t")
    async with LocalCluster([Tags], store=store, settings=QUICK) as cluster:
        await tags.run.start()
        await becomes(tags.count, 2)
        for _ in range(3):
            await cluster.crash()
            assert await tags.count() == 2
        await tags.open()
        assert await tags.run.result() == 2


class Lonely(Entity):
    """Nobody calls it again: what wakes it is gone once its handler's turn is committed."""

    go: bool = False

    @workflow
    async def run(self) -> str:
        await condition(lambda: self.go)
        return "done"

    @handler
    async def open_later(self) -> None:
        remind(self.open_slowly, after=0.02)

    @handler
    async def open_slowly(self) -> None:
        await asyncio.sleep(0.001)  # so that its turn ends outside of a tick, and is committed before the run goes on
        self.go = True


async def test_a_run_goes_on_if_the_host_dies_right_after_a_condition_became_true(store: FaultyStore) -> None:
    """The handler's turn and the run's resume are two commits: the wake-up must not get lost between them."""

    def dies(_: int, batch: Batch) -> Fault:
        turns = [row.name for write in batch.writes for row in write.history]
        return Fault.CRASH_AFTER if "open_slowly" in turns and not batch.writes[0].journal else Fault.NONE

    store.pick = dies
    async with LocalCluster([Lonely], store=store, settings=QUICK) as cluster:
        crasher = Crasher(cluster, store)
        await Lonely.ref("l").run.start()
        await Lonely.ref("l").open_later()
        stored = store._entities[EntityId("Lonely", "l")]
        await eventually(lambda: stored.runs["run"].status == "completed")
        assert crasher.crashes == 1
        await crasher.settle()


async def test_account_of_activities_is_exact_over_many_runs(store: FaultyStore) -> None:
    async with LocalCluster([V1, Account], store=store, hosts=2, settings=QUICK) as cluster:
        orders = [V1.ref(f"o{number}") for number in range(30)]
        await asyncio.gather(*(order.run.start(number + 100) for number, order in enumerate(orders)))
        await asyncio.gather(*(order.open() for order in orders))
        await cluster.crash(0)
        results = await asyncio.gather(*(order.run.result() for order in orders))
        assert results == ["shipped pen"] * 30
        assert all(world.ran[f"charge {number + 100}"] in (1, 2) for number in range(30))
