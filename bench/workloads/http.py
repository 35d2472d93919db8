"""The same calls through the gateway."""

from bench.harness import Figures, Meter, Operation, Size, closed_loops
from bench.http import HttpCaller, http_callers
from bench.scene import Scene

from .calls import CALLERS, KEYS


def _posts(callers: list[HttpCaller]) -> Operation:
    async def post(caller: int, n: int) -> None:
        key = (caller * 7919 + n * 104_729) % KEYS
        await callers[caller].post(f"/entities/Counter/counter-{key}/add", b'{"amount":1}')

    return post


async def measure(scene: Scene, size: Size) -> Figures:
    """256 connections, then one."""
    port = await scene.gateway_port()
    async with http_callers(port, CALLERS) as callers:
        await closed_loops(_posts(callers), callers=CALLERS, seconds=size.warm_up_s, warm_up_s=size.warm_up_s)
        meter = Meter(scene)
        await meter.start()
        many = await closed_loops(_posts(callers), callers=CALLERS, seconds=size.seconds, warm_up_s=0)
        cost = await meter.stop()
        alone = await closed_loops(_posts(callers), callers=1, seconds=size.seconds, warm_up_s=size.warm_up_s)
    return {
        "http": many.rate,
        "http_alone": alone.percentile_ms(50),
        "cpu_gateway": cost.cpu_per_1000("gateway"),
    }
