"""Activities and workflows that the workflow tests share."""

import asyncio
from datetime import timedelta
from typing import Any

from pydantic import Field

from perdure.entities import (
    ActivityFailed,
    ApplicationError,
    Entity,
    Mailbox,
    RetryPolicy,
    WorkflowFailed,
    activity,
    activity_info,
    condition,
    handler,
    now,
    query,
    random,
    remind,
    uuid4,
    workflow,
)

from .scenes import Account, world

QUICKLY = RetryPolicy(initial=timedelta(milliseconds=1), maximum=timedelta(milliseconds=5))


class CardDeclined(Exception):
    """What the payment service says."""


@activity(retry=QUICKLY)
async def charge(amount: int) -> str:
    world.ran[f"charge {amount}"] += 1
    if amount == 13:
        raise CardDeclined(f"card {amount} declined")
    return f"receipt {amount}"


strict_charge = charge.options(retry=RetryPolicy(non_retryable=[CardDeclined]))


@activity(retry=QUICKLY)
async def flaky(text: str) -> str:
    world.fail(f"activity {text}")
    return text


@activity(retry=QUICKLY)
def in_a_thread(number: int) -> int:
    world.ran["thread"] += 1
    return number * 2


@activity(retry=QUICKLY)
def stops_iterating() -> int:
    raise StopIteration(5)


@activity(retry=RetryPolicy(initial=timedelta(milliseconds=1), attempts=2), timeout=timedelta(milliseconds=20))
async def hangs() -> None:
    world.ran["hangs"] += 1
    await asyncio.Event().wait()


@activity(retry=QUICKLY, total_timeout=timedelta(milliseconds=30))
async def never_works() -> None:
    world.ran["never works"] += 1
    raise ValueError("not today")


@activity
async def returns_nonsense() -> int:
    return "nonsense"  # type: ignore[return-value]  # pyright: ignore[reportReturnType]


no_retry = RetryPolicy(attempts=1)


@activity(retry=QUICKLY)
async def slow(text: str) -> str:
    """Waits for the gate; says so when it is cancelled."""
    world.ran[f"slow {text}"] += 1
    loop = asyncio.get_running_loop()
    try:
        while not world.gate.is_set():
            await asyncio.sleep(0.001)
    except asyncio.CancelledError:
        world.ran[f"cancelled {text}"] += 1
        raise
    assert loop is asyncio.get_running_loop()
    return text


@activity(retry=QUICKLY)
async def who_am_i() -> tuple[str, int, str]:
    info = activity_info()
    world.ran[f"key {info.idempotency_key}"] += 1
    if info.attempt < 3:
        raise ValueError("again")
    return str(info.entity), info.attempt, info.idempotency_key


class Flow(Entity):
    """One workflow per feature; `log` is the state that everybody looks at."""

    log: list[str] = []
    numbers: list[int] = []
    level: int = Field(default=0, ge=0)
    go: bool = False
    letters = Mailbox(str)
    parcels = Mailbox(int)

    # --- from outside ---

    @handler
    async def say(self, text: str) -> None:
        self.log.append(text)

    @handler
    async def set_level(self, level: int) -> int:
        self.level = level
        return level

    @handler
    async def open(self) -> None:
        self.go = True

    @query
    async def lines(self) -> list[str]:
        return self.log

    @query
    async def how_high(self) -> int:
        return self.level

    # --- activities ---

    @workflow
    async def pays(self, amount: int) -> str:
        self.log.append("paying")
        receipt = await charge(amount)
        self.log.append(receipt)
        return receipt

    @workflow
    async def pays_strictly(self, amount: int) -> str:
        try:
            return await strict_charge(amount)
        except CardDeclined as declined:
            self.log.append(f"{type(declined).__module__.rpartition('.')[2]}: {declined}")
            await asyncio.sleep(0.01)
            raise ApplicationError("card declined") from declined

    @workflow
    async def tries(self, text: str) -> str:
        return await flaky(text)

    @workflow
    async def threads(self, count: int) -> list[int]:
        return list(await asyncio.gather(*(in_a_thread(number) for number in range(count))))

    @workflow
    async def stop_iteration(self) -> int:
        return await stops_iterating.options(retry=no_retry)()

    @workflow
    async def waits_for_a_hanging_one(self) -> str:
        try:
            await hangs()
        except ActivityFailed as failed:
            return f"{type(failed).__name__}: {failed}"
        return "?"

    @workflow
    async def runs_out_of_time(self) -> str:
        try:
            await never_works()
        except ActivityFailed as failed:
            return f"{type(failed).__name__}: {failed}"
        return "?"

    @workflow
    async def gets_nonsense(self) -> str:
        try:
            await returns_nonsense.options(retry=no_retry)()
        except Exception as error:
            return type(error).__name__
        return "?"

    @workflow
    async def asks_who(self) -> list[str]:
        entity, attempt, key = await who_am_i()
        return [entity, str(attempt), key]

    @workflow
    async def holds(self, text: str) -> str:
        self.log.append("holding")
        return await slow(text)

    # --- plain asyncio ---

    @workflow
    async def sleeps(self, seconds: float) -> str:
        began = now()
        await asyncio.sleep(seconds)
        self.log.append("awake")
        return "early" if (now() - began).total_seconds() < seconds else "in time"

    @workflow
    async def waits_for_go(self, timeout: float | None = None) -> bool:
        result = await condition(lambda: self.go, timeout=timeout)
        self.log.append(f"go {result}")
        return result

    @workflow
    async def waits_twice_for_go(self) -> list[bool]:
        first, second = asyncio.create_task(condition(lambda: self.go)), asyncio.create_task(condition(lambda: self.go))
        third = asyncio.create_task(condition(lambda: self.go and self.level > 100, timeout=60))
        first.add_done_callback(lambda _: third.cancel())
        await asyncio.wait([first, second, third])
        return [first.result(), second.result(), third.cancelled()]

    @workflow
    async def has_a_bad_predicate(self) -> str:
        def predicate() -> bool:
            return 10 // self.level > 100

        try:
            await condition(predicate)
        except ZeroDivisionError as error:
            return f"raised {error}"
        return "?"

    @workflow
    async def bad_predicate_later(self) -> str:
        def predicate() -> bool:
            if self.level == 3:
                raise CardDeclined("three")
            return False

        try:
            await condition(predicate)
        except CardDeclined as error:
            await asyncio.sleep(0)
            return f"raised {error}"
        return "?"

    @workflow
    async def gathers(self) -> list[str]:
        results = await asyncio.gather(
            charge(1), strict_charge(13), flaky("x"), asyncio.sleep(0.01), return_exceptions=True
        )
        return [str(result) for result in results]

    @workflow
    async def groups(self) -> list[str]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(charge(number)) for number in range(3)]
            group.create_task(asyncio.sleep(0.005))
        return [task.result() for task in tasks]

    @workflow
    async def group_fails(self) -> str:
        async def never() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                self.log.append("sibling cancelled")

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(never())
                group.create_task(strict_charge(13))
        except* CardDeclined as declined:
            self.log.append(str(declined.exceptions[0]))
        return "done"

    @workflow
    async def waits_for(self) -> str:
        try:
            await asyncio.wait_for(slow("waited for"), 0.05)
        except TimeoutError:
            return "timed out"
        return "?"

    @workflow
    async def under_a_timeout(self) -> str:
        try:
            async with asyncio.timeout(0.01):
                await self.letters.receive()
        except TimeoutError:
            return "timed out"
        return "?"

    @workflow
    async def first_of(self) -> str:
        quick, late = asyncio.create_task(asyncio.sleep(0.005, "quick")), asyncio.create_task(asyncio.sleep(60, "late"))
        done, pending = await asyncio.wait([quick, late], return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        return done.pop().result()

    @workflow
    async def as_they_come(self) -> list[str]:
        """Tasks, not coroutines: `as_completed` would begin those in the order of their addresses in memory."""
        waits = [asyncio.sleep(0.02, "b"), asyncio.sleep(0.005, "a"), charge(1)]
        return [await one for one in asyncio.as_completed([asyncio.ensure_future(wait) for wait in waits])]

    @workflow
    async def group_cleans_up(self) -> list[str]:
        """A task group cancels its siblings in the order of a set."""
        order: list[str] = []

        async def sibling(number: int) -> None:
            try:
                await asyncio.sleep(60)
            finally:
                order.append(await charge(number))
                await asyncio.sleep(0.001 * (number % 3))
                await flaky(str(number))

        try:
            async with asyncio.TaskGroup() as group:
                for number in range(100, 120):
                    group.create_task(sibling(number))
                group.create_task(strict_charge(13))
        except* CardDeclined:
            order.append("declined")
        await condition(lambda: self.go)
        return order

    @workflow
    async def goes_through_a_set(self) -> list[str]:
        tasks = [asyncio.create_task(asyncio.sleep(0.001 * (number % 3), number)) for number in range(20, 40)]
        done, _ = await asyncio.wait(tasks)
        order = [await charge(task.result()) for task in done]
        await condition(lambda: self.go)
        return order

    @workflow
    async def coordinates(self) -> list[str]:
        queue: asyncio.Queue[str] = asyncio.Queue(maxsize=2)
        event, lock, order = asyncio.Event(), asyncio.Lock(), list[str]()

        async def produce() -> None:
            for number in range(5):
                await queue.put(await charge(number))
            event.set()

        async def consume(name: str) -> None:
            while not event.is_set() or not queue.empty():
                try:
                    item = await asyncio.wait_for(queue.get(), 0.02)
                except TimeoutError:
                    continue
                async with lock:
                    await asyncio.sleep(0.001)
                    order.append(f"{item}")
            del name

        await asyncio.gather(produce(), consume("a"), consume("b"))
        return sorted(order)

    @workflow
    async def takes_chances(self) -> list[str]:
        one = [str(uuid4()), str(random().random()), now().isoformat()]
        await asyncio.sleep(0.002)
        two = [str(uuid4()), str(random().random())]
        self.log.extend(one + two)
        await condition(lambda: self.go)
        return one + two

    # --- mailboxes ---

    @workflow
    async def receives(self, count: int) -> list[str]:
        return [await self.letters.receive() for _ in range(count)]

    @workflow
    async def receives_both(self) -> list[str]:
        letter, parcel = await asyncio.gather(self.letters.receive(), self.parcels.receive())
        return [letter, str(parcel)]

    # --- other entities ---

    @workflow
    async def deposits(self, to: str, amount: int) -> int:
        total = await Account.ref(to).deposit(amount)
        return total + await Account.ref(to).total()

    @workflow
    async def is_refused(self, to: str) -> str:
        try:
            await Account.ref(to).fail_after_changing(5)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return "?"

    @workflow
    async def calls_itself(self) -> int:
        return await Flow.ref(self.key).set_level(7)

    @workflow
    async def gives_up_calling(self, to: str) -> str:
        try:
            await Account.ref(to).wait.options(timeout=0.01)("x")
        except Exception as error:
            return type(error).__name__
        return "?"

    @workflow
    async def parent(self, child: str, amount: int) -> str:
        return "child: " + await Flow.ref(child).pays(amount)

    @workflow
    async def parent_of_failing(self, child: str) -> str:
        try:
            return await Flow.ref(child).fails("oops")
        except WorkflowFailed as failed:
            return f"{failed.error_type}: {failed}"

    @workflow
    async def starts_and_waits(self, child: str) -> str:
        await Flow.ref(child).pays.start(2)
        await asyncio.sleep(0.005)
        return await Flow.ref(child).pays.result()

    @workflow
    async def circle(self, via: str) -> str:
        if via == self.key:
            return "?"
        return await Flow.ref(via).circle_back(self.key)

    @workflow
    async def circle_back(self, to: str) -> str:
        return await Flow.ref(to).circle(self.key)

    @workflow
    async def sends(self, to: str) -> None:
        await Account.ref(to).note.send("one")
        await Flow.ref(to).letters.send("letter")
        remind(self.say, after=0.005, arguments={"text": "reminded"})
        await asyncio.sleep(0)
        await Account.ref(to).note.send("two")
        await charge(1)

    # --- ends ---

    @workflow
    async def fails(self, text: str) -> str:
        self.log.append("before")
        await asyncio.sleep(0.001)
        raise CardDeclined(text)

    @workflow
    async def fails_at_once(self) -> None:
        self.log.append("before")
        raise CardDeclined("at once")

    @workflow
    async def breaks_its_state(self) -> None:
        self.log.append("before")
        await asyncio.sleep(0.001)
        await Account.ref("leak").note.send("leaked")
        world.ran["broke"] += 1
        self.level = -1
        await asyncio.gather(charge(99), Account.ref("leak").deposit(1), asyncio.sleep(5))

    @workflow
    async def returns_wrong(self) -> int:
        await asyncio.sleep(0)
        return "five"  # type: ignore[return-value]  # pyright: ignore[reportReturnType]

    @workflow
    async def exits(self) -> None:
        await asyncio.sleep(0)
        raise SystemExit(3)

    # --- being cancelled ---

    @workflow
    async def is_cancelled_in(self, where: str) -> str:
        waits: dict[str, Any] = {
            "sleep": lambda: asyncio.sleep(60),
            "activity": lambda: slow("in activity"),
            "condition": lambda: condition(lambda: False),
            "timed condition": lambda: condition(lambda: False, timeout=60),
            "mailbox": self.letters.receive,
            "call": lambda: Account.ref("busy").wait("x"),
            "child": lambda: Flow.ref("child-of-cancelled").holds("child"),
            "gather": lambda: asyncio.gather(asyncio.sleep(60), self.letters.receive()),
            "timeout": lambda: asyncio.wait_for(self.letters.receive(), 60),
            "future": lambda: asyncio.get_running_loop().create_future(),
        }
        try:
            self.log.append("waiting")
            await waits[where]()
        except asyncio.CancelledError:
            self.log.append(await charge(7))
            await asyncio.sleep(0.001)
            self.log.append("cleaned up")
            raise
        return "not cancelled"

    @workflow
    async def is_stubborn(self) -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.001)
            return "I go on"
        return "?"

    @workflow
    async def shields(self) -> str:
        inner = asyncio.ensure_future(slow("shielded"))
        try:
            await asyncio.shield(inner)
        except asyncio.CancelledError:
            self.log.append("cancelled outside")
            self.log.append(await inner)
            raise
        return "?"

    @workflow
    async def has_finally(self) -> None:
        try:
            self.log.append("waiting")
            await asyncio.sleep(60)
        finally:
            world.ran["finally"] += 1
            self.log.append("finally")
            self.go = True
            await Account.ref("leak").note.send("from finally")
            await charge(66)
            world.ran["after finally"] += 1

    @workflow
    async def has_a_calling_finally(self) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            world.ran["finally"] += 1
            await Account.ref("leak").deposit(5)

    # --- what cannot be durable ---

    @workflow
    async def uses(self, what: str) -> str:
        loop = asyncio.get_running_loop()
        uses: dict[str, Any] = {
            "to_thread": lambda: asyncio.to_thread(print),
            "run_in_executor": lambda: loop.run_in_executor(None, print),
            "open_connection": lambda: asyncio.open_connection("127.0.0.1", 1),
            "unix": lambda: asyncio.open_unix_connection("/tmp/none"),
            "start_server": lambda: asyncio.start_server(print, "127.0.0.1", 0),
            "subprocess": lambda: asyncio.create_subprocess_exec("true"),
            "shell": lambda: asyncio.create_subprocess_shell("true"),
            "getaddrinfo": lambda: loop.getaddrinfo("localhost", 80),
        }
        await asyncio.sleep(0)
        await uses[what]()
        return "?"

    # --- aliases ---

    @workflow
    async def keeps_an_alias(self) -> list[int]:
        numbers = self.numbers
        numbers.append(1)
        await self.letters.receive()
        numbers.append(2)
        await self.letters.receive()
        numbers.append(3)
        return numbers

    @handler
    async def add_number(self, number: int) -> list[int]:
        self.numbers.append(number)
        return self.numbers

    @query
    async def all_numbers(self) -> list[int]:
        return self.numbers
