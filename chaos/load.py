"""A client process under chaos: `python -m chaos.load '<order>'`. It repeats what it is not sure about, as clients do.

Order: {"name", "via" ("client" or "http"), "ports", "seed", "rate", "file"}. A worker does one thing after the other at
its own pace; while the installation is down it waits, so the rate is an upper bound. SIGTERM: finish what is under way.
"""

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from perdure.cluster.connect import connect
from perdure.entities import ApplicationError, HostKilled, OutcomeUnknown, PerdureError

from .calls import CALL_S, Caller, ClientCaller, Gone, HttpCaller
from .ops import FAILED, OK, UNKNOWN, OpLog

WORKERS = 24
PER_LEDGER = 100
"""Adds to one ledger, so that states stay small."""
SAFES = 24
SINKS = 6
RELAYS = 4
GIVE_UP_S = 120.0
REPEATED = 0.7
"""Share of unknown adds that are repeated until they are known."""
WEIGHTS = {"add": 46, "peek": 14, "number": 12, "emit": 5, "move": 6, "saga": 2, "errand": 4, "alarm": 11}


class Load:
    """One process's share of the load."""

    def __init__(self, order: dict[str, Any], caller: Caller) -> None:
        self.name: str = order["name"]
        self.rng = random.Random(f"{order['seed']}-{self.name}")
        self.log = OpLog(Path(order["file"]))
        self.caller = caller
        self.pause_s = WORKERS / order["rate"]
        self.is_over = False
        self.serial = 0
        self.numbers: dict[str, int] = {}

    async def run(self) -> None:
        """Until it is over."""
        await asyncio.gather(*(self._worker(number) for number in range(WORKERS)))

    async def _worker(self, number: int) -> None:
        kinds, weights = list(WEIGHTS), list(WEIGHTS.values())
        await asyncio.sleep(self.rng.uniform(0, self.pause_s))
        while not self.is_over:
            began = time.monotonic()
            [kind] = self.rng.choices(kinds, weights)
            work: Callable[[int], Awaitable[None]] = getattr(self, f"do_{kind}")
            try:
                await work(number)
            except Gone:
                await asyncio.sleep(0.5)
            await asyncio.sleep(max(0.0, began + self.pause_s - time.monotonic()))

    def uid(self) -> str:
        """Never used before, by nobody."""
        self.serial += 1
        return f"{self.name}-{self.serial}"

    async def once(self, number: int, call: Callable[[], Awaitable[Any]]) -> tuple[str, Any]:
        """One attempt, written down."""
        since = time.time()
        value: Any = None
        code = ""
        try:
            value = await call()
            came = OK
        except (OutcomeUnknown, TimeoutError) as error:
            came, code = UNKNOWN, getattr(error, "code", "timeout")
        except ApplicationError as error:
            came, code = FAILED, "application_error"
            value = error
        except HostKilled as error:
            self.log.tried(number, self.caller.via, since, FAILED, error.code)
            self.log.violation(f"{self.name}: operation {number}, an innocent, was refused: {error}")
            raise Gone from error
        except PerdureError as error:
            came, code = FAILED, error.code
        self.log.tried(number, self.caller.via, since, came, code)
        return came, value

    async def until_ok(self, number: int, call: Callable[[], Awaitable[Any]]) -> Any:
        """Ask again until it is acknowledged. Raises Gone if that never happens."""
        deadline = time.monotonic() + GIVE_UP_S
        while True:
            came, value = await self.once(number, call)
            if came == OK or isinstance(value, ApplicationError):
                return value
            if time.monotonic() > deadline:
                self.log.violation(f"{self.name}: operation {number} was not answered within {GIVE_UP_S:g} s")
                raise Gone
            await asyncio.sleep(self.rng.uniform(0.05, 0.3))

    # --- what is done ---

    async def do_add(self, worker: int) -> None:
        uid = self.uid()
        key = f"{self.name}-w{worker}-{self.serial // (PER_LEDGER * WORKERS)}"
        number = self.log.began("add", "Ledger", key, uid)

        def add() -> Awaitable[Any]:
            return self.caller.call("Ledger", key, "add", {"uid": uid}, idempotency_key=uid)

        came, _ = await self.once(number, add)
        if came != OK and self.rng.random() < REPEATED:
            await self.until_ok(number, add)
            came = OK
        if came == OK and self.rng.random() < 0.2:
            await self._read_own(key, uid)

    async def _read_own(self, key: str, uid: str) -> None:
        number = self.log.began("read", "Ledger", key, uid)
        came, seen = await self.once(number, lambda: self.caller.query("Ledger", key, "seen"))
        if came == OK and uid not in seen:
            self.log.violation(f"{key}: {uid} was acknowledged and then not seen by a query")

    async def do_peek(self, worker: int) -> None:
        key = f"{self.name}-w{self.rng.randrange(WORKERS)}-0"
        number = self.log.began("peek", "Ledger", key, "")
        await self.once(number, lambda: self.caller.query("Ledger", key, "seen"))

    async def do_number(self, worker: int) -> None:
        """A numbered one-way message; the next one of this worker leaves when it is acknowledged."""
        stream = f"{self.name}-w{worker}"
        count = self.numbers[stream] = self.numbers.get(stream, 0) + 1
        sink = f"sink-{worker % SINKS}"
        number = self.log.began("number", "Sink", sink, f"{stream}-{count}", source=stream, number=count)
        arguments = {"source": stream, "number": count}
        key = f"{stream}-n{count}"
        await self.until_ok(number, lambda: self.caller.send("Sink", sink, "take", arguments, idempotency_key=key))

    async def do_emit(self, worker: int) -> None:
        source = f"{self.name}-w{worker % 4}"
        uid = self.uid()
        number = self.log.began("emit", "Source", source, uid, count=2)
        arguments = {"count": 2, "relays": RELAYS}
        await self.until_ok(number, lambda: self.caller.call("Source", source, "emit", arguments, idempotency_key=uid))

    async def do_move(self, worker: int) -> None:
        if not self.caller.can_move:
            return
        source, target = (f"s{chosen}" for chosen in self.rng.sample(range(SAFES), 2))
        number = self.log.began("move", "Safe", source, self.uid(), target=target)
        await self.once(number, lambda: self.caller.move(source, target, self.rng.randrange(1, 40)))

    async def do_saga(self, worker: int) -> None:
        source, target = (f"s{chosen}" for chosen in self.rng.sample(range(SAFES), 2))
        uid = self.uid()
        amount = self.rng.choice([5, 13, 40])
        number = self.log.began("saga", "Transfer", uid, uid)
        arguments = {"source": source, "target": target, "amount": amount}
        await self.until_ok(number, lambda: self.caller.start("Transfer", uid, arguments))

    async def do_errand(self, worker: int) -> None:
        uid = self.uid()
        is_fetched = self.rng.random() < 0.6
        number = self.log.began("errand", "Errand", uid, uid, is_fetched=is_fetched)
        arguments = {"cents": self.rng.randrange(100, 900), "patience_s": GIVE_UP_S * 2 if is_fetched else 0.4}
        await self.until_ok(number, lambda: self.caller.start("Errand", uid, arguments))
        if is_fetched:
            number = self.log.began("fetch", "Errand", uid, uid)
            await self.until_ok(
                number, lambda: self.caller.call("Errand", uid, "fetch", {}, idempotency_key=f"{uid}-fetch")
            )

    async def do_alarm(self, worker: int) -> None:
        uid = self.uid()
        key = f"{self.name}-w{worker}"
        after_s = self.rng.uniform(0.2, 6.0)
        number = self.log.began("alarm", "Alarm", key, uid, after_s=after_s)
        arguments = {"uid": uid, "after_s": after_s}
        await self.until_ok(number, lambda: self.caller.call("Alarm", key, "set", arguments, idempotency_key=uid))
        if self.rng.random() < 0.35:
            await asyncio.sleep(self.rng.uniform(0, after_s * 1.2))
            number = self.log.began("cancel", "Alarm", key, uid)
            await self.until_ok(
                number, lambda: self.caller.call("Alarm", key, "cancel", {"uid": uid}, idempotency_key=f"{uid}-off")
            )


async def main(order: dict[str, Any]) -> None:
    if order["via"] == "http":
        caller: Caller = HttpCaller(order["ports"], random.Random(order["name"]))
        await _run(Load(order, caller))
        await caller.close()
        return
    client = await connect(
        dsn=os.environ["PERDURE_DSN"],
        namespace=os.environ["PERDURE_NAMESPACE"],
        ray_address=os.environ["PERDURE_RAY_ADDRESS"],
        default_timeout_s=CALL_S,
    )
    async with client:
        await _run(Load(order, ClientCaller()))


async def _run(load: Load) -> None:
    def end() -> None:
        load.is_over = True

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end)
    print("ready", flush=True)
    await load.run()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
