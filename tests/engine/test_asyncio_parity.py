"""asyncio in workflows is durable and repeatable (P7): live, evicted after every turn, crashed at every commit.

Each program's result, state and effects are the same in all of them; no activity whose outcome is committed runs again.
"""

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from perdure.entities import Entity, EntityId, NotDurable, activity, activity_info, condition, handler, workflow
from perdure.entities.engine.settings import EngineSettings
from perdure.entities.testing import LocalCluster

from .faults import Crasher, Fault, FaultyStore
from .programs import QUICKLY, CardDeclined, no_retry
from .waiting import eventually

violations: list[str] = []
stores: list[FaultyStore] = []


@activity(retry=QUICKLY)
async def does(number: int) -> int:
    key = activity_info().idempotency_key
    if key in stores[-1].settled:
        violations.append(key)
    return number * 10


@activity(retry=no_retry)
async def declines(number: int) -> int:
    raise CardDeclined(str(number))


async def both(number: int, seconds: float = 0.001) -> int:
    result = await does(number)
    await asyncio.sleep(seconds)
    return result


class Parity(Entity):
    """One workflow per piece of asyncio."""

    log: list[Any] = []
    go: int = 0

    @handler
    async def open(self) -> None:
        self.go += 1

    @workflow
    async def sleep(self) -> Any:
        return [await asyncio.sleep(0.001 * n, n) for n in range(3)]

    @workflow
    async def gather(self) -> Any:
        nested = asyncio.gather(both(3), both(4))
        return [str(one) for one in await asyncio.gather(both(1), declines(2), nested, return_exceptions=True)]

    @workflow
    async def gather_fails(self) -> Any:
        slow = asyncio.create_task(both(1))
        try:
            await asyncio.gather(slow, declines(2))
        except CardDeclined as declined:
            return [str(declined), await slow]
        return "?"

    @workflow
    async def wait_all(self) -> Any:
        done, pending = await asyncio.wait([asyncio.create_task(both(n)) for n in range(3)])
        return [sorted(task.result() for task in done), len(pending)]

    @workflow
    async def wait_first(self) -> Any:
        tasks = [asyncio.create_task(both(1)), asyncio.create_task(condition(lambda: False))]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.wait(pending)
        return [[task.result() for task in done], [task.cancelled() for task in pending]]

    @workflow
    async def wait_exception(self) -> Any:
        tasks = [asyncio.create_task(declines(1)), asyncio.create_task(condition(lambda: False))]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        pending.pop().cancel()
        return [str(task.exception()) for task in done]

    @workflow
    async def wait_timeout(self) -> Any:
        task = asyncio.create_task(condition(lambda: False))
        done, pending = await asyncio.wait([task], timeout=0.002)
        return [len(done), len(pending), await both(1)]

    @workflow
    async def wait_for(self) -> Any:
        results: list[Any] = [await asyncio.wait_for(both(1), 60)]
        with contextlib.suppress(TimeoutError):
            results.append(await asyncio.wait_for(asyncio.Event().wait(), 0.002))
        return [*results, await both(2)]

    @workflow
    async def timeout(self) -> Any:
        async with asyncio.timeout(60) as outer:
            try:
                async with asyncio.timeout(0.002):
                    await condition(lambda: False)
            except TimeoutError:
                outer.reschedule(asyncio.get_running_loop().time() + 30)
                return [outer.expired(), await both(1)]
        return "?"

    @workflow
    async def group(self) -> Any:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(both(n)) for n in range(3)]
            group.create_task(self.appends(group))
        return [task.result() for task in tasks]

    async def appends(self, group: asyncio.TaskGroup) -> None:
        result = await both(7)
        self.log.append(result)
        group.create_task(self.appends_one())

    async def appends_one(self) -> None:
        result = await both(8)
        self.log.append(result)

    @workflow
    async def group_fails(self) -> Any:
        async def cleans(number: int) -> None:
            try:
                await condition(lambda: False)
            finally:
                result = await both(number)
                self.log.append(result)

        declined = ""
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(3):
                    group.create_task(cleans(number))
                group.create_task(declines(9))
        except* CardDeclined as errors:
            declined = str(errors.exceptions[0])
        return [declined, sorted(self.log)]

    @workflow
    async def shield(self) -> Any:
        inner = asyncio.create_task(both(1, 0.003))

        async def outer() -> int:
            return await asyncio.shield(inner)

        task = asyncio.create_task(outer())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return [task.cancelled(), await inner]

    @workflow
    async def as_completed(self) -> Any:
        tasks = [asyncio.create_task(asyncio.sleep(0.004 * (3 - n), n)) for n in range(3)]
        return sorted([await one for one in asyncio.as_completed(tasks)])

    @workflow
    async def event(self) -> Any:
        event = asyncio.Event()

        async def waits(number: int) -> int:
            await event.wait()
            return await both(number)

        tasks = [asyncio.create_task(waits(n)) for n in range(3)]
        await both(5)
        event.set()
        return await asyncio.gather(*tasks)

    @workflow
    async def locks(self) -> Any:
        lock, order = asyncio.Lock(), list[int]()

        async def enters(number: int) -> None:
            async with lock:
                order.append(number)
                await both(number)
                order.append(number)

        await asyncio.gather(*(enters(n) for n in range(3)))
        return order

    @workflow
    async def semaphores(self) -> Any:
        semaphore, inside, most = asyncio.BoundedSemaphore(2), 0, 0

        async def enters(number: int) -> None:
            nonlocal inside, most
            async with semaphore:
                inside += 1
                most = max(most, inside)
                await both(number)
                inside -= 1

        await asyncio.gather(*(enters(n) for n in range(4)))
        return [most, inside]

    @workflow
    async def conditions(self) -> Any:
        turn, at = asyncio.Condition(), 0

        async def waits(number: int) -> None:
            nonlocal at
            async with turn:
                await turn.wait_for(lambda: at == number)
                await both(number)
                self.log.append(number)
                at += 1
                turn.notify_all()

        await asyncio.gather(*(waits(n) for n in (2, 0, 1)))
        return self.log

    @workflow
    async def queues(self) -> Any:
        queue: asyncio.Queue[int] = asyncio.PriorityQueue(2)

        async def produces() -> None:
            for number in (3, 1, 2):
                result = await both(number)
                await queue.put(result)

        producer, items = asyncio.create_task(produces()), list[int]()
        for _ in range(3):
            items.append(await queue.get())
            queue.task_done()
        await queue.join()
        await producer
        return sorted(items)

    @workflow
    async def generators(self) -> Any:
        async def counts() -> AsyncGenerator[int]:
            try:
                for number in itertools.count():
                    yield await both(number)
            finally:
                result = await both(99)
                self.log.append(result)

        seen = list[int]()
        async for number in counts():
            seen.append(number)
            if number >= 20:
                break
        async with contextlib.aclosing(counts()) as more:
            seen.append(await anext(more))
        await condition(lambda: len(self.log) == 2)
        return [seen, [number async for number in self.twice(3)], self.log]

    async def twice(self, count: int) -> AsyncGenerator[int]:
        for number in range(count):
            result = await does(number)
            yield result

    @workflow
    async def managers(self) -> Any:
        @contextlib.asynccontextmanager
        async def opened(number: int) -> AsyncGenerator[int]:
            self.log.append(f"open {number}")
            try:
                yield await both(number)
            except CardDeclined:
                self.log.append("declined")
            finally:
                await both(0)
                self.log.append(f"close {number}")

        async with contextlib.AsyncExitStack() as stack:
            numbers = [await stack.enter_async_context(opened(n)) for n in (1, 2)]
            await declines(3)
        return [numbers, self.log]

    @workflow
    async def exceptions(self) -> Any:
        try:
            try:
                await declines(1)
            finally:
                result = await both(2)
                self.log.append(result)
        except CardDeclined as declined:
            try:
                raise ValueError("second") from declined
            except ValueError as error:
                await both(3)
                return [str(error), str(error.__cause__), self.log]
        return "?"

    @workflow
    async def interleaved(self) -> Any:
        seen = list[int]()
        for wanted in range(1, 4):
            await condition(lambda wanted=wanted: self.go >= wanted)  # type: ignore[misc]
            seen.append(wanted)
            result = await both(wanted)
            self.log.append(result)
        return [seen, self.log]


NAMES = sorted(name for name, member in vars(Parity).items() if type(member).__name__ == "Workflow")


async def play(name: str, store: FaultyStore, settings: EngineSettings) -> Any:
    stores.append(store)
    async with LocalCluster([Parity], store=store, settings=settings) as cluster:
        crasher = Crasher(cluster, store)
        await getattr(Parity.ref("p"), name).start()
        for _ in range(3):
            await Parity.ref("p").open()
        result = await getattr(Parity.ref("p"), name).result(timeout=20)
        await eventually(lambda: not store.reminder_rows())
        await crasher.settle()
        await cluster.drained()
    state = json.loads(store.state("Parity/p"))
    state["log"].sort(key=str)  # activities that run at the same time end in any order
    assert store.attempt_rows() == []
    assert violations == []
    return result, state


LIVE = EngineSettings(mail_poll_s=0.05)
EVICTING = EngineSettings(mail_poll_s=0.05, evict_after_every_turn=True)


@pytest.mark.parametrize("name", NAMES)
async def test_it_is_the_same_live_evicted_and_crashed_at_every_commit(name: str) -> None:
    undisturbed = await play(name, FaultyStore(), LIVE)
    store = FaultyStore()
    assert await play(name, store, EVICTING) == undisturbed
    commits = sum(bool(batch.writes) for batch in store.commits)
    assert commits >= 3
    for at in range(commits):
        for fault in (Fault.CRASH_BEFORE, Fault.CRASH_AFTER):
            store, counter = FaultyStore(), itertools.count()
            store.pick = lambda _, batch, c=counter, f=fault, a=at: (  # type: ignore[misc]
                f if batch.writes and next(c) == a else Fault.NONE
            )
            assert await play(name, store, LIVE if at % 2 else EVICTING) == undisturbed, f"{fault} {at}"
    assert EntityId("Parity", "p") in store._entities


class Bare(Entity):
    @workflow
    async def completes(self) -> str:
        coroutines = [asyncio.sleep(0.001)]
        try:
            for one in asyncio.as_completed(coroutines):
                await one
        except NotDurable as error:
            return str(error)
        return "?"


async def test_as_completed_of_bare_coroutines_is_refused_with_the_alternative() -> None:
    async with LocalCluster([Bare]):
        assert "give it tasks: as_completed([asyncio.create_task(one)" in await Bare.ref("b").completes()
