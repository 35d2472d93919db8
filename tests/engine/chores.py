"""Activities of every kind, and a workflow for each: for the tests of activities and of repair."""

import asyncio
import threading
import time
from dataclasses import dataclass, field
from datetime import timedelta

from perdure.entities import (
    ApplicationError,
    CompleteLater,
    Entity,
    Mailbox,
    RetryPolicy,
    activity,
    activity_info,
    condition,
    handler,
    heartbeat,
    query,
    random,
    workflow,
)

from .scenes import world

MS = timedelta(milliseconds=1)
QUICKLY = RetryPolicy(initial=MS, maximum=5 * MS)
TWICE = RetryPolicy(initial=MS, maximum=5 * MS, attempts=2)
TWICE_THEN_PAUSE = RetryPolicy(initial=MS, maximum=5 * MS, attempts=2, on_exhausted="pause")


@dataclass
class Outside:
    """What activities did, and what they are told to do."""

    tokens: list[str] = field(default_factory=list[str])
    details: list[object] = field(default_factory=list[object])
    """`heartbeat_details` of each attempt."""
    together: int = 0
    most_together: int = 0
    started: list[float] = field(default_factory=list[float])
    released: threading.Event = field(default_factory=threading.Event)
    noticed: threading.Event = field(default_factory=threading.Event)


outside = Outside()


async def _gate_opens() -> None:
    """The gate belongs to another loop: look at it."""
    while not world.gate.is_set():
        await asyncio.sleep(0.001)


@activity(retry=QUICKLY, heartbeat_timeout=150 * MS)
async def falls_silent(beats: int) -> int:
    info = activity_info()
    outside.details.append(info.heartbeat_details)
    world.ran["falls silent"] += 1
    for number in range(beats):
        heartbeat({"done": number + 1})
        await asyncio.sleep(0.01)
    if info.attempt < 2:
        await asyncio.Event().wait()
    return beats


@activity(retry=QUICKLY, heartbeat_timeout=200 * MS)
def beats_in_a_thread(count: int) -> int:
    world.ran["thread beats"] += 1
    for number in range(count):
        heartbeat(number)
        time.sleep(0.02)
    return count


@activity(retry=QUICKLY)
async def counts_up(to: int) -> int:
    """Goes on where the last attempt was."""
    done = activity_info().heartbeat_details or 0
    outside.details.append(done)
    while done < to:
        done += 1
        world.ran["counted"] += 1
        heartbeat(done)
        if done == 2:
            raise ConnectionError("half-way")
    return done


@activity(retry=QUICKLY)
async def beats_then_waits() -> str:
    outside.details.append(activity_info().heartbeat_details)
    world.ran["beats then waits"] += 1
    heartbeat("here")
    await _gate_opens()
    return "through"


@activity(retry=QUICKLY, timeout=100 * MS)
def hangs_in_a_thread() -> str:
    """The first attempt goes on until it hears that nobody wants it."""
    world.ran["thread hangs"] += 1
    if activity_info().attempt > 1:
        return "second"
    while not activity_info().is_cancelled:
        time.sleep(0.001)
    try:
        heartbeat()
    except asyncio.CancelledError:
        outside.noticed.set()
    return "first"


@activity(retry=QUICKLY)
def waits_in_a_thread() -> None:
    world.ran["thread waits"] += 1
    while not activity_info().is_cancelled:
        time.sleep(0.001)
    outside.noticed.set()


@activity(retry=RetryPolicy(initial=timedelta(hours=1), maximum=timedelta(hours=1)))
async def says_when() -> int:
    world.ran["says when"] += 1
    if activity_info().attempt < 3:
        raise ApplicationError("soon", retry_after=MS)
    return activity_info().attempt


@activity(retry=RetryPolicy(initial=timedelta(hours=1), maximum=timedelta(hours=1)))
async def backs_off(text: str) -> str:
    world.fail("backs off")
    return text


@activity(retry=TWICE_THEN_PAUSE)
async def deposit(amount: int) -> str:
    world.fail("deposit")
    return f"deposited {amount}"


@activity(retry=TWICE)
async def fragile(amount: int) -> str:
    world.fail("fragile")
    return f"fragile {amount}"


@activity(retry=QUICKLY)
async def withdraw(amount: int) -> str:
    world.ran["withdraw"] += 1
    return f"withdrew {amount}"


class Strange(Exception):
    """Cannot be made from its text alone."""

    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code


@activity(retry=RetryPolicy(attempts=1))
def raises(what: str) -> None:
    world.ran["raises"] += 1
    match what:
        case "exit":
            raise SystemExit(3)
        case "interrupt":
            raise KeyboardInterrupt
        case "strange":
            raise Strange(7, reason="odd")
        case "stop":
            raise StopAsyncIteration
        case "nul":
            raise ApplicationError("a\x00b \ud800", thing=object())
        case _:
            raise ExceptionGroup("many", [ValueError("one"), OSError("two")])


@activity(retry=RetryPolicy(attempts=5, on_exhausted="pause"))
async def forbidden() -> None:
    world.ran["forbidden"] += 1
    raise ApplicationError("never", non_retryable=True)


@activity(retry=QUICKLY)
async def asks_outside(amount: int) -> int:
    world.ran["asks outside"] += 1
    outside.tokens.append(activity_info().token)
    raise CompleteLater


asks_briefly = asks_outside.options(timeout=30 * MS, retry=TWICE)
asks_lively = asks_outside.options(heartbeat_timeout=200 * MS, retry=RetryPolicy(attempts=1))


@activity(retry=QUICKLY)
async def waits() -> str:
    world.ran["waits"] += 1
    await _gate_opens()
    return "waited"


async def _together() -> None:
    outside.together += 1
    outside.most_together = max(outside.most_together, outside.together)
    outside.started.append(time.monotonic())
    await asyncio.sleep(0.01)
    outside.together -= 1


@activity(max_concurrent=2, timeout=timedelta(seconds=2))
async def two_at_once() -> None:
    await _together()


@activity(max_concurrent=1, timeout=200 * MS)
async def one_at_once() -> None:
    world.ran["one at once"] += 1
    await asyncio.sleep(0.06)


@activity(rate="100/s")
async def paced() -> None:
    await _together()


@activity(retry=RetryPolicy(attempts=1))
async def large(size: int) -> str:
    return "x" * size


@activity(retry=QUICKLY)
async def too_large() -> str:
    world.ran["too large"] += 1
    return "x" * 3_000_000


class Job(Entity):
    log: list[str] = []
    is_open: bool = False
    words = Mailbox(str)

    @handler
    async def say(self, text: str) -> int:
        self.log.append(text)
        return len(self.log)

    @handler
    async def open(self) -> None:
        self.is_open = True

    @query
    async def lines(self) -> list[str]:
        return self.log

    @workflow
    async def silent(self, beats: int) -> int:
        return await falls_silent(beats)

    @workflow
    async def thread_beats(self, count: int) -> int:
        return await beats_in_a_thread(count)

    @workflow
    async def counting(self, to: int) -> int:
        return await counts_up(to)

    @workflow
    async def beats_and_waits(self) -> str:
        return await beats_then_waits()

    @workflow
    async def hanging_thread(self) -> str:
        return await hangs_in_a_thread()

    @workflow
    async def waiting_thread(self) -> None:
        async with asyncio.timeout(0.2):
            await waits_in_a_thread()

    @workflow
    async def soon(self) -> int:
        return await says_when()

    @workflow
    async def backing_off(self, text: str) -> str:
        return await backs_off(text)

    @workflow
    async def transfer(self, amount: int) -> str:
        withdrawn = await withdraw(amount)
        self.log.append(withdrawn)
        deposited = await deposit(amount)
        self.log.append(deposited)
        return "done"

    @workflow
    async def fragile_transfer(self, amount: int) -> list[str]:
        first = await withdraw(amount)
        chance = random().random()
        self.log.append(first)
        second = await fragile(amount)
        self.log.append(second)
        return [first, second, str(0 <= chance < 1)]

    @workflow
    async def sees(self, what: str) -> str:
        try:
            await raises(what)
        except Strange as error:
            return f"Strange {error}"
        except Exception as error:
            return str(error)
        return "nothing"

    @workflow
    async def forbids(self) -> None:
        await forbidden()

    @workflow
    async def outside(self, amount: int) -> int:
        got = await asks_outside(amount)
        self.log.append(f"got {got}")
        return got

    @workflow
    async def outside_briefly(self, amount: int) -> int:
        return await asks_briefly(amount)

    @workflow
    async def outside_lively(self, amount: int) -> int:
        return await asks_lively(amount)

    @workflow
    async def everything(self) -> list[object]:
        """Waits for a result, a timer, a message, a condition."""

        async def sleep() -> str:
            await asyncio.sleep(0.02)
            return "slept"

        async def wait_open() -> str:
            await condition(lambda: self.is_open)
            return "opened"

        return list(await asyncio.gather(waits(), sleep(), self.words.receive(), wait_open()))

    @workflow
    async def waiting(self, tag: str) -> str:
        got = await waits()
        self.log.append(f"{tag} {got}")
        return f"{tag} {got}"

    @workflow
    async def sleeping(self) -> str:
        await asyncio.sleep(3600)
        return "slept"

    @workflow
    async def crowd(self, count: int) -> None:
        await asyncio.gather(*(two_at_once() for _ in range(count)))

    @workflow
    async def queue(self, count: int) -> None:
        await asyncio.gather(*(one_at_once() for _ in range(count)))

    @workflow
    async def parade(self, count: int) -> None:
        await asyncio.gather(*(paced() for _ in range(count)))

    @workflow
    async def bulk_retried(self) -> None:
        await too_large()

    @workflow
    async def bulk(self, size: int) -> int:
        return len(await large(size))
