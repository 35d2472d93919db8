"""Random asyncio programs as workflows: what they are made of, how they are generated and played.

A program's result is a tree that does not depend on timing. It is played undisturbed, and evicted after every turn with
crashes and failures at random commits; result, state, and what reached others must be the same (P1, P2, P7).
`python -m campaigns programs --rounds 2000 --seed 1` plays many.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from perdure.entities import (
    Entity,
    EntityId,
    Mailbox,
    WorkflowFailed,
    activity,
    activity_info,
    condition,
    handler,
    now,
    patched,
    query,
    uuid4,
    workflow,
)
from perdure.entities.engine.settings import EngineSettings
from perdure.entities.testing import LocalCluster

from .faults import Crasher, Fault, FaultyStore
from .programs import QUICKLY, CardDeclined
from .waiting import eventually

Program = list[Any]


@dataclass
class Outside:
    """What activities see."""

    store: FaultyStore = field(default_factory=FaultyStore)
    violations: list[str] = field(default_factory=list[str])
    failures: dict[str, int] = field(default_factory=dict[str, int])
    began: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """By idempotency key: which host's thread began which attempt, and when."""


outside = Outside()


@activity(retry=QUICKLY.__class__(initial=QUICKLY.initial, maximum=QUICKLY.maximum, non_retryable=[CardDeclined]))
async def step(number: int, failures: int, is_fatal: bool) -> int:
    info = activity_info()
    began = outside.began.setdefault(info.idempotency_key, [])
    began.append(f"attempt {info.attempt} on thread {threading.get_ident():x} at {time.monotonic():.4f}")
    if info.idempotency_key in outside.store.settled:
        outside.violations.append(f"{info.idempotency_key} began although it has its outcome: {'; '.join(began)}")
    if is_fatal:
        raise CardDeclined(str(number))
    failed = outside.failures.get(info.idempotency_key, 0)
    if failed < failures:
        outside.failures[info.idempotency_key] = failed + 1
        raise ValueError("again")
    return number * 10


class Peer(Entity):
    total: int = 0

    @handler
    async def add(self, number: int) -> int:
        self.total += number
        return number

    @workflow
    async def child(self, number: int) -> int:
        result = await step(number, 1, False)
        if number > 100:
            raise CardDeclined(str(number))
        self.total += result
        await asyncio.sleep(0.001)
        return number


class Machine(Entity):
    """Interprets a program. Its result is a tree that does not depend on timing."""

    level: int = 0
    total: int = 0
    got: list[str] = []
    kept: list[int] = []
    letters = Mailbox(str)

    @workflow
    async def run(self, parts: list[Any], results: list[Any]) -> Any:
        """`parts`: (program, how to go on after it: 0 in this run, 1 as new, 2 as new leaving things open)."""
        kept = self.kept
        kept.append(-1)
        begin = now()
        while parts:
            (program, ending), *parts = parts
            result = await self.do(program)
            results.append(result)
            if ending and parts:
                if ending == 2:
                    asyncio.create_task(asyncio.sleep(60))  # noqa: RUF006 - left open on purpose
                    asyncio.create_task(condition(lambda: False))  # noqa: RUF006
                    await asyncio.sleep(0)
                await self.run.continue_as_new(parts, results)
        assert now() >= begin
        assert str(uuid4())
        return results

    @handler
    async def set_level(self, level: int) -> None:
        self.level = max(level, self.level)
        self.kept.append(level)

    @query
    async def look(self) -> tuple[int, list[str]]:
        return self.total, sorted(self.got)

    async def do(self, program: Program) -> Any:
        what, *rest = program
        return await getattr(self, f"do_{what}")(*rest)

    async def do_seq(self, *parts: Program) -> Any:
        return [await self.do(part) for part in parts]

    async def do_gather(self, *parts: Program) -> Any:
        results = await asyncio.gather(*(self.do(part) for part in parts), return_exceptions=True)
        return [repr(result) if isinstance(result, BaseException) else result for result in results]

    async def do_group(self, *parts: Program) -> Any:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.do(part)) for part in parts]
        return [task.result() for task in tasks]

    async def do_failing_group(self, siblings: int) -> Any:
        async def waits(number: int) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                result = await step(number, 0, False)
                self.total += result  # `self.total += await ...` would read the total before the await
                await asyncio.sleep(number % 2 / 1_000)

        declined = ""
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(siblings):
                    group.create_task(waits(number))
                group.create_task(step(siblings, 0, True))
        except* CardDeclined as errors:
            declined = str(errors.exceptions[0])
        return declined

    async def do_wait(self, *parts: Program) -> Any:
        tasks = [asyncio.create_task(self.do(part)) for part in parts]
        done, _ = await asyncio.wait(tasks)
        for task in done:  # a set: the order has to be repeatable
            result = await step(1 if task.exception() is None else 2, 0, False)
            self.total += result
        return len(done)

    async def do_sleep(self, milliseconds: int) -> Any:
        await asyncio.sleep(milliseconds / 1_000)
        return "slept"

    async def do_step(self, number: int, failures: int, is_fatal: bool) -> Any:
        result = await step(number, failures, is_fatal)
        self.total += result
        return result

    async def do_try(self, part: Program) -> Any:
        try:
            return await self.do(part)
        except CardDeclined as declined:
            await asyncio.sleep(0)
            return f"declined {declined}"

    async def do_condition(self, level: int) -> Any:
        return await condition(lambda: self.level >= level)

    async def do_never(self, milliseconds: int) -> Any:
        return await condition(lambda: self.level > 1_000, timeout=milliseconds / 1_000)

    async def do_receive(self) -> Any:
        letter = await self.letters.receive()
        self.got.append(letter)
        return "received"

    async def do_receive_in_time(self) -> Any:
        async with asyncio.timeout(60):
            letter = await self.letters.receive()
        self.got.append(letter)
        return "received"

    async def do_race(self, part: Program) -> Any:
        """A part against one that never comes, whose cleanup waits too."""

        async def never() -> None:
            try:
                await condition(lambda: False, timeout=60)
            finally:
                result = await step(1, 0, False)
                self.total += result

        tasks = [asyncio.create_task(never()), asyncio.create_task(self.do(part))]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.wait(pending)
        return [task.result() for task in done]

    async def do_cancelled_shield(self, part: Program) -> Any:
        inner = asyncio.create_task(self.do(part))

        async def outer() -> Any:
            return await asyncio.shield(inner)

        task = asyncio.create_task(outer())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return [task.cancelled(), await inner]

    async def do_completed(self, *parts: Program) -> Any:
        tasks = [asyncio.create_task(self.do(part)) for part in parts]
        return sorted([str(await one) for one in asyncio.as_completed(tasks)])

    async def do_limited(self, *parts: Program) -> Any:
        limit = asyncio.Semaphore(2)

        async def enters(part: Program) -> Any:
            async with limit:
                return await self.do(part)

        return await asyncio.gather(*(enters(part) for part in parts))

    async def do_generator(self, count: int) -> Any:
        ended = asyncio.Event()

        async def counts() -> AsyncGenerator[int]:
            try:
                for number in range(count + 1):
                    yield await step(number, 0, False)
            finally:
                result = await step(3, 1, False)
                self.total += result
                ended.set()

        seen: list[int] = []
        async for number in counts():
            seen.append(number)
            if len(seen) == count:
                break
        await ended.wait()
        return seen

    async def do_timeout_cleanup(self, milliseconds: int) -> Any:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(milliseconds / 1_000):
                try:
                    await asyncio.gather(condition(lambda: False), asyncio.sleep(60))
                finally:
                    result = await step(2, 0, False)
                    self.total += result
        return "cleaned up"

    async def do_events(self, *parts: Program) -> Any:
        event = asyncio.Event()

        async def waits(part: Program) -> Any:
            await event.wait()
            return await self.do(part)

        tasks = [asyncio.create_task(waits(part)) for part in parts]
        await step(4, 0, False)
        event.set()
        return await asyncio.gather(*tasks)

    async def do_failing_child(self, number: int) -> Any:
        try:
            return await Peer.ref(f"{self.key}-failing-{number}").child(100 + number)
        except WorkflowFailed as failed:
            return failed.error_type

    async def do_patched(self, part: Program) -> Any:
        return await self.do(part) if patched("always") else "old"

    async def do_generous(self, part: Program) -> Any:
        async with asyncio.timeout(60):
            return await self.do(part)

    async def do_too_short(self, milliseconds: int) -> Any:
        try:
            return await asyncio.wait_for(asyncio.get_running_loop().create_future(), milliseconds / 1_000)
        except TimeoutError:
            return "timed out"

    async def do_cancel(self, milliseconds: int) -> Any:
        async def waits() -> None:
            try:
                await condition(lambda: False)
            finally:
                result = await step(5, 0, False)
                self.total += result

        task = asyncio.create_task(waits())
        await asyncio.sleep(milliseconds / 1_000)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    async def do_shield(self, part: Program) -> Any:
        return await asyncio.shield(self.do(part))

    async def do_call(self, number: int) -> Any:
        return await Peer.ref(self.key).add(number)

    async def do_send(self, number: int) -> Any:
        await Peer.ref(self.key).add.send(number)
        return "sent"

    async def do_child(self, number: int) -> Any:
        return await Peer.ref(f"{self.key}-{number}").child(number)

    async def do_queue(self, count: int) -> Any:
        queue: asyncio.Queue[int] = asyncio.Queue(1)

        async def produce() -> None:
            for number in range(count):
                await queue.put(await step(number, 0, False))

        producer = asyncio.create_task(produce())
        items = [await queue.get() for _ in range(count)]
        await producer
        return items


WRAPPING = ("generous", "shield", "try", "race", "cancelled_shield", "patched")
BRANCHING = ("seq", "gather", "group", "wait", "completed", "limited", "events")


def generate_parts(random: Random) -> list[Any]:
    """A whole run: programs, and how it goes on after each."""
    depth = random.choice([1, 2, 2, 3])
    return [[generate(random, depth), random.choice([0, 1, 2])] for _ in range(random.choice([1, 1, 2, 3]))]


def generate(random: Random, depth: int) -> Program:
    leaves: list[Program] = [
        ["sleep", random.randint(0, 3)],
        ["step", random.randint(0, 9), random.choice([0, 0, 1, 2]), False],
        ["try", ["step", random.randint(0, 9), 0, True]],
        ["condition", random.randint(0, 3)],
        ["never", random.randint(0, 3)],
        ["receive"],
        ["too_short", random.randint(0, 3)],
        ["cancel", random.randint(0, 2)],
        ["failing_group", random.randint(1, 8)],
        ["call", random.randint(1, 9)],
        ["send", random.randint(1, 9)],
        ["child", random.randint(1, 3)],
        ["queue", random.randint(1, 3)],
        ["receive_in_time"],
        ["generator", random.randint(1, 3)],
        ["timeout_cleanup", random.randint(0, 3)],
        ["failing_child", random.randint(1, 3)],
    ]
    if depth == 0 or random.random() < 0.25:
        return random.choice(leaves)
    what = random.choice([*WRAPPING, *BRANCHING, "seq", "gather", "group"])
    if what in WRAPPING:
        return [what, generate(random, depth - 1)]
    return [what, *(generate(random, depth - 1) for _ in range(random.randint(1, 4)))]


def count(program: Program, what: str) -> int:
    return int(program[0] == what) + sum(count(part, what) for part in program[1:] if isinstance(part, list))


async def play(parts: list[Any], random: Random | None) -> tuple[Any, Any, int]:
    """Run it; with `random` disturbed by that. Returns its result, what it left, and its peers' total.

    Raises AssertionError for anything that no run may leave behind.
    """
    outside.__init__()  # type: ignore[misc]
    store = outside.store
    settings = EngineSettings(mail_poll_s=0.05, evict_after_every_turn=random is not None)
    if random is not None:
        kinds = [Fault.CRASH_BEFORE, Fault.CRASH_AFTER, Fault.BEFORE, Fault.AFTER, Fault.CONFLICT]
        store.pick = lambda number, _: random.choice(kinds) if random.random() < 0.12 and number < 60 else Fault.NONE
    async with LocalCluster([Machine, Peer], store=store, hosts=2, settings=settings) as cluster:
        crasher = Crasher(cluster, store)
        machine = Machine.ref("m")
        await machine.run.start(parts, [])
        letters = sum(count(program, "receive") + count(program, "receive_in_time") for program, _ in parts)
        for number in range(letters):
            await machine.letters.send(f"letter {number}")
        for level in range(1, 4):
            await machine.set_level(level)
        result = await machine.run.result(timeout=20)
        await eventually(lambda: not store.waiting_messages() and not store.reminder_rows())
        store.pick = lambda _number, _batch: Fault.NONE  # a host that dies while it is being stopped is no part of this
        await crasher.settle()
        await cluster.drained()
        left = await machine.look()
        total = sum(
            int(state.split(b'"total":')[1].split(b"}")[0])
            for entity, state in store.states().items()
            if entity.startswith("Peer/")
        )
    assert outside.violations == []
    assert store.dead_letters == []
    assert store.attempt_rows() == []
    assert [(str(entity), row.workflow) for entity, row in store.runs() if row.in_flight] == []
    assert store._entities[EntityId("Machine", "m")].items == {}
    return result, left, total


async def compare(seed: int) -> tuple[Any, Any]:
    """(what the program of this seed comes to undisturbed, and disturbed)."""
    random = Random(seed)
    parts = generate_parts(random)
    return await play(parts, None), await play(parts, random)
