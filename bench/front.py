"""The gateway alone: CPU time of a call in its process, without kernel and network: `python -m bench.front`.

Everything that a gateway has between its socket and Ray: uvicorn with our protocol, the application, the router and its
link. Bytes come from and go to callers in the same loop; where Ray would carry a call to a host, a stub answers. CPU
time hardly depends on what else the machine does, which rates and latencies do; the least of many short rounds counts,
for whatever disturbs makes it more.
"""

import argparse
import asyncio
import cProfile
import pstats
import time
from collections.abc import Callable
from typing import Any

import uvloop
from uvicorn.server import ServerState

from perdure.api import Settings, create_app
from perdure.api.exchange import STATE
from perdure.api.serve import configuration, guarded
from perdure.cluster.client import Client
from perdure.cluster.router import Router
from perdure.cluster.routes import Routes, RouteTable
from perdure.cluster.settings import ExchangeSettings
from perdure.cluster.wire import Answer, decode_offer, encode
from perdure.entities.messages import Reply, Status

from .entities import Counter, Steps

SHARDS = 256
KEYS = 1_000
CALLERS = 64
_RESULT = b"1"


class _Host:
    """Answers what it is offered, all with the same number."""

    def __init__(self) -> None:
        self._serial = 0

    async def connect(self, _: str) -> Callable[[bytes], "asyncio.Future[bytes]"]:
        return self._send

    def _send(self, data: bytes) -> "asyncio.Future[bytes]":
        loop = asyncio.get_running_loop()
        returned: asyncio.Future[bytes] = loop.create_future()
        loop.call_soon(self._answer, data, returned)
        return returned

    def _answer(self, data: bytes, returned: "asyncio.Future[bytes]") -> None:
        offer = decode_offer(data)
        numbers = list(range(offer.first, offer.first + len(offer.envelopes)))
        replies = [Reply(envelope.id, Status.OK, _RESULT, 1) for envelope in offer.envelopes]
        returned.set_result(encode(Answer(numbers, replies, self._serial)))
        self._serial += 1


class _Caller(asyncio.Transport):
    """A connection as its protocol sees it, and who is at the other end: sends the next call when one is answered."""

    def __init__(self, number: int) -> None:
        super().__init__({"sockname": ("127.0.0.1", 8_000), "peername": ("127.0.0.1", 30_000 + number)})
        self._number = number
        self._left = 0
        self._done: asyncio.Future[None] | None = None
        self.protocol: Any = None

    def begin(self, calls: int) -> "asyncio.Future[None]":
        self._left = calls
        self._done = asyncio.get_running_loop().create_future()
        self._call()
        return self._done

    def _call(self) -> None:
        key = (self._number * 7 + self._left) % KEYS
        head = f"POST /entities/Counter/k-{key}/add HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        self.protocol.data_received(f'{head}content-length: 12\r\n\r\n{{"amount":1}}'.encode())

    def write(self, data: Any) -> None:
        if data[-1:] != _RESULT:
            if data[:12] not in (b"HTTP/1.1 200", b""):
                raise RuntimeError(f"refused: {bytes(data)!r}")
            return
        self._left -= 1
        loop = asyncio.get_running_loop()
        if self._left:
            loop.call_soon(self._call)
        elif self._done is not None:
            self._done.set_result(None)

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self) -> None:
        raise RuntimeError("the gateway has closed the connection")


async def _no_newer() -> RouteTable:
    return RouteTable(["stub"] * SHARDS, {"stub": "stub"}, 1)


async def _run(calls: int, rounds: int, profiled: int) -> None:
    routes = Routes(_no_newer)
    routes.offer(await _no_newer())
    router = Router(routes=routes, shard_count=SHARDS, connect_host=_Host().connect, settings=ExchangeSettings())
    config = configuration(guarded(create_app([Counter, Steps]), Settings()))
    config.timeout_keep_alive = 3_600  # on a busy machine, pauses between rounds are long
    config.load()
    protocol: Any = config.http_protocol_class
    server = ServerState()
    callers = [_Caller(number) for number in range(CALLERS)]
    for caller in callers:
        caller.protocol = protocol(config=config, server_state=server, app_state={STATE: Client(router)})
        caller.protocol.connection_made(caller)

    async def seconds(of: list[_Caller]) -> float:
        before = time.process_time()
        await asyncio.gather(*(caller.begin(calls // len(of)) for caller in of))
        return (time.process_time() - before) / (calls // len(of) * len(of))

    await seconds(callers)  # warm
    crowd, alone = [], []
    for _ in range(rounds):
        crowd.append(await seconds(callers))
        alone.append(await seconds(callers[:1]))
    for name, found in ((f"{CALLERS} callers", sorted(crowd)), ("one caller", sorted(alone))):
        print(f"{name}: {found[0]:.6f} s of CPU per call, median {found[len(found) // 2]:.6f}")
    if profiled:
        with cProfile.Profile(time.process_time) as profile:  # not the time of others
            await seconds(callers)
        pstats.Stats(profile).sort_stats("tottime").print_stats(profiled)
    await router.close()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.front", description=__doc__)
    parser.add_argument("--calls", type=int, default=512, help="in each round")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--profile", type=int, default=0, metavar="N", help="show the N dearest functions of one round")
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(arguments.calls, arguments.rounds, arguments.profile))


if __name__ == "__main__":
    main()
