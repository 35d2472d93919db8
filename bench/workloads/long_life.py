"""One entity with a long past: are its last messages as fast as its first, and its first answer after a restart?"""

import time

from bench.entities import Counter
from bench.harness import Figures, Size, each, percentile
from bench.scene import Scene

MESSAGES = 20_000
MEASURED = 1_000
AT_ONCE = 64


async def measure(scene: Scene, size: Size) -> Figures:
    """The first and the last thousand one at a time, those in between by many callers."""
    messages, measured = size.of(MESSAGES, least=100), size.of(MEASURED)
    counter = Counter.ref(f"old-{next(scene.keys)}")

    async def add(_one: int) -> None:
        await counter.add(1)

    async def one_by_one() -> float:
        latencies: list[float] = []
        for _ in range(measured):
            began = time.perf_counter()
            await counter.add(1)
            latencies.append(time.perf_counter() - began)
        return percentile(sorted(latencies), 50) * 1e3

    first = await one_by_one()
    await each(add, messages - 2 * measured, at_once=AT_ONCE)
    last = await one_by_one()
    pids = await scene.host_pids()
    await scene.kill_hosts()
    await scene.until_whole(without=pids)
    began = time.perf_counter()
    assert await counter.read() == messages
    return {
        "old_first": first,
        "old_last": last,
        "old_ratio": last / first,
        "old_restart": (time.perf_counter() - began) * 1e3,
    }
