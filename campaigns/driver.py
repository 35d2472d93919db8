"""Calls at a fixed rate through a balancer, in a process of its own: `python -m campaigns.driver RATE FILE PORT…`.

The loop is open: a call is due at its time, whatever became of those before it, and its latency counts from then. At
SIGTERM no more calls are made; when the last one has ended, all of them are written to the file, as JSON.
"""

import asyncio
import json
import signal
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import uvloop

from .balancer import HEADERS, Balancer, Turn

METERS = 200
CALL_S = 40.0
"""More than a gateway takes to say that it does not know."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One call, as its caller saw it."""

    meter: int
    due: float
    """Unix time."""
    late_s: float
    """How much later than that it was made: that is the driver's own doing."""
    took_s: float
    """From when it was due."""
    port: int = 0
    total: int = 0
    release: str = ""
    failure: str = ""
    """What the caller was told instead of an answer."""


@dataclass
class Driven:
    """What the driver writes."""

    calls: list[Call] = field(default_factory=list[Call])
    turns: list[Turn] = field(default_factory=list[Turn])
    under_way_max: int = 0
    began: float = 0.0
    ended: float = 0.0

    @classmethod
    def read(cls, path: Path) -> "Driven":
        """From the file."""
        told = json.loads(path.read_text(encoding="utf-8"))
        calls = [Call(**call) for call in told.pop("calls")]
        return cls(calls=calls, turns=[Turn(**turn) for turn in told.pop("turns")], **told)


class Driver:
    """See the module."""

    def __init__(self, balancer: Balancer, rate: float) -> None:
        self._balancer = balancer
        self._rate = rate
        self._loop = asyncio.get_running_loop()
        self._under_way: set[asyncio.Task[None]] = set()
        self.ending = asyncio.Event()
        self.driven = Driven()

    async def drive(self) -> None:
        """Until the end is asked for and the last call has ended."""
        began, number = self._loop.time(), 0
        self.driven.began = time.time()
        while not self.ending.is_set():
            due = began + number / self._rate
            if (wait_s := due - self._loop.time()) > 0:
                await asyncio.sleep(wait_s)
            task = asyncio.create_task(self._call(number % METERS, due))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
            self.driven.under_way_max = max(self.driven.under_way_max, len(self._under_way))
            number += 1
            if wait_s <= 0:
                await asyncio.sleep(0)
        self.driven.ended = time.time()
        await asyncio.gather(*self._under_way)

    async def _call(self, meter: int, due: float) -> None:
        made = self._loop.time()
        at = time.time() - (made - due)
        port, total, release, failure = 0, 0, "", ""
        request = b"POST /entities/Meter/m-%d/add HTTP/1.1\r\n%bcontent-length: 0\r\n\r\n" % (meter, HEADERS)
        try:
            async with asyncio.timeout(CALL_S):
                port, answer = await self._balancer.ask(request)
            if 200 <= answer.status < 300:
                told = json.loads(answer.body)
                total, release = told["total"], told["release"]
            else:
                failure = f"{answer.status} {answer.body.decode(errors='replace')[:300]}"
        except Exception as error:  # whatever it is, the call has failed
            failure = repr(error)
        took_s = self._loop.time() - due
        self.driven.calls.append(
            Call(
                meter=meter,
                due=at,
                late_s=made - due,
                took_s=took_s,
                port=port,
                total=total,
                release=release,
                failure=failure,
            )
        )


async def run(rate: float, file: Path, ports: list[int]) -> None:
    async with Balancer(ports).probing() as balancer:
        driver = Driver(balancer, rate)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, driver.ending.set)
        print("driving", flush=True)
        await driver.drive()
        driver.driven.turns = balancer.turns
    file.write_text(json.dumps(asdict(driver.driven)), encoding="utf-8")


if __name__ == "__main__":
    uvloop.run(run(float(sys.argv[1]), Path(sys.argv[2]), [int(port) for port in sys.argv[3:]]))
