"""P1, P7, P10: what stays of an ended run after its messages and journal were pruned, and what that is good for."""

from collections import Counter

import pytest

from perdure.entities import AlreadyStarted, Entity, WorkflowFailed, activity, workflow
from perdure.entities.testing import LocalCluster

from .faults import FaultyStore
from .programs import CardDeclined

charged: Counter[int] = Counter()


@activity
async def charge(amount: int) -> str:
    charged[amount] += 1
    return f"receipt {amount}"


class Sale(Entity):
    receipt: str = ""

    @workflow
    async def pay(self, amount: int) -> str:
        self.receipt = await charge(amount)
        if amount == 13:
            raise CardDeclined("13")
        return self.receipt


async def months_pass(cluster: LocalCluster, store: FaultyStore) -> None:
    """Everything is older than the retention, and nothing is in memory."""
    await cluster.drained()
    await store.prune(older_than_us=-1, limit=1_000)
    await cluster.crash()


async def test_a_start_repeated_after_the_retention_joins_the_ended_run(store: FaultyStore) -> None:
    charged.clear()
    async with LocalCluster([Sale], store=store) as cluster:
        sale = Sale.ref("s")
        run_id = await sale.pay.start(5)
        assert await sale.pay.result() == "receipt 5"
        await months_pass(cluster, store)
        assert (store.history("Sale/s"), store.journal_length("Sale/s")) == ([], 0)
        assert await sale.pay.result() == "receipt 5"
        assert await sale.pay.start(5) == run_id
        assert await sale.pay.result() == "receipt 5"
        with pytest.raises(AlreadyStarted, match="restart=True"):
            await sale.pay.start(6)
        assert charged == {5: 1}


async def test_a_failure_is_remembered_as_well(store: FaultyStore) -> None:
    async with LocalCluster([Sale], store=store) as cluster:
        sale = Sale.ref("s")
        run_id = await sale.pay.start(13)
        with pytest.raises(WorkflowFailed, match="13"):
            await sale.pay.result()
        await months_pass(cluster, store)
        with pytest.raises(WorkflowFailed, match="13"):
            await sale.pay.result()
        assert await sale.pay.start(13) == run_id


async def test_one_row_is_kept_however_often_a_workflow_has_run(store: FaultyStore) -> None:
    async with LocalCluster([Sale], store=store) as cluster:
        sale = Sale.ref("s")
        for amount in range(20, 25):
            await sale.pay.options(restart=True).start(amount)
            assert await sale.pay.result() == f"receipt {amount}"
        await months_pass(cluster, store)
        assert [row.workflow for _, row in store.runs()] == ["pay"]
        assert store.journal_length("Sale/s") == 0
        assert await sale.pay.result() == "receipt 24"
