"""What our exchange costs beside the bare one of Ray: router → Ray → host → router, with an engine that only echoes.

    PYTHONPATH=.links:. .venv/bin/python bench/ceilings/exchange.py [--seconds 3] [--uvloop]

Prints one JSON object: latency of a lone caller, messages per second by number of callers, and bare Ray calls.
"""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

from perdure.cluster import ray_runtime
from perdure.cluster.exchange import Exchange
from perdure.cluster.link import Send
from perdure.cluster.router import Router
from perdure.cluster.routes import Routes, RouteTable
from perdure.cluster.settings import ExchangeSettings
from perdure.entities.ids import new_message_id
from perdure.entities.messages import Envelope, Kind, Reply, Status

SHARDS = 16


class EchoHost:
    """The host's side of the exchange with nothing behind it."""

    async def __init__(self) -> None:  # type: ignore[misc]
        self._exchange = Exchange(self._deliver, ExchangeSettings())

    def _deliver(self, envelope: Envelope, respond: Callable[[Reply], None]) -> None:
        respond(Reply(envelope.id, Status.OK, envelope.args, 1))

    async def exchange(self, data: bytes) -> bytes:
        return await self._exchange.exchange(data)

    async def echo(self, data: bytes) -> bytes:
        return data

    async def stats(self) -> dict[str, int]:
        return self._exchange.stats()


def envelope(key: int) -> Envelope:
    return Envelope(new_message_id(), "Echo", f"k-{key}", Kind.CALL, "echo", b'{"text":"hello"}', "bench", 0)


async def lone(call: Callable[[], Any], seconds: float) -> dict[str, float]:
    times: list[float] = []
    until = time.perf_counter() + seconds
    while (start := time.perf_counter()) < until:
        await call()
        times.append(time.perf_counter() - start)
    times.sort()
    return {
        "per_s": round(len(times) / seconds),
        "p50_ms": round(statistics.median(times) * 1e3, 3),
        "p99_ms": round(times[int(len(times) * 0.99)] * 1e3, 3),
    }


async def crowd(router: Router, callers: int, seconds: float) -> dict[str, float]:
    until = time.perf_counter() + seconds
    counts = [0] * callers

    async def caller(number: int) -> None:
        while time.perf_counter() < until:
            await router.request(envelope(number), timeout_s=30)
            counts[number] += 1

    cpu = time.process_time()
    start = time.perf_counter()
    await asyncio.gather(*(caller(number) for number in range(callers)))
    elapsed = time.perf_counter() - start
    total = sum(counts)
    return {
        "messages_per_s": round(total / elapsed),
        "mean_ms": round(callers * elapsed / total * 1e3, 2),
        "client_cpu_us_per_message": round((time.process_time() - cpu) / total * 1e6, 1),
    }


async def measure(seconds: float) -> dict[str, Any]:
    host = ray_runtime.spawn(EchoHost, num_cpus=0, max_concurrency=1_000, enable_task_events=False)
    table = RouteTable(["h1"] * SHARDS, {"h1": "echo"}, 1)

    async def read() -> RouteTable:
        return table

    async def connect_host(_: str) -> Send:
        return lambda data: ray_runtime.submit(host, "exchange", data)

    routes = Routes(read)
    routes.offer(table)
    router = Router(routes=routes, shard_count=SHARDS, connect_host=connect_host, settings=ExchangeSettings())
    await router.request(envelope(0), timeout_s=60)
    data = b"x" * 200
    results: dict[str, Any] = {"loop": type(asyncio.get_running_loop()).__module__}
    await lone(lambda: ray_runtime.submit(host, "echo", data), 1)
    results["bare_ray_call"] = await lone(lambda: ray_runtime.submit(host, "echo", data), seconds)
    results["lone_caller"] = await lone(lambda: router.request(envelope(1), timeout_s=30), seconds)
    before = await ray_runtime.submit(host, "stats")
    for callers in (8, 64, 256, 1024, 4096):
        result = await crowd(router, callers, seconds)
        after = await ray_runtime.submit(host, "stats")
        calls = after["exchange_calls"] - before["exchange_calls"]
        messages = after["exchange_messages"] - before["exchange_messages"]
        results[f"callers_{callers}"] = result | {"messages_per_ray_call": round(messages / calls, 1)}
        before = after
    await router.close()
    await routes.close()
    return results


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--uvloop", action="store_true")
    options = parser.parse_args()
    ray_runtime.start_local(num_cpus=2)
    try:
        if options.uvloop:
            import uvloop

            results = uvloop.run(measure(options.seconds))
        else:
            results = asyncio.run(measure(options.seconds))
    finally:
        ray_runtime.leave()
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
