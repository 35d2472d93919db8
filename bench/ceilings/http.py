"""The bare HTTP exchange: the same client and the same requests as for the gateway, to a FastAPI route that echoes."""

from bench.harness import Figures, Size, closed_loops
from bench.http import http_callers
from bench.scene import Scene

CALLERS = 256


async def measure(scene: Scene, size: Size) -> Figures:
    """Requests per second over 256 connections; and one alone."""
    port = await scene.start_server("echo", "bench.ceilings.http_echo")
    async with http_callers(port, CALLERS) as callers:

        async def post(caller: int, _n: int) -> None:
            await callers[caller].post("/echo", b'{"amount":1}')

        many = await closed_loops(post, callers=CALLERS, seconds=size.seconds, warm_up_s=size.warm_up_s)
        alone = await closed_loops(post, callers=1, seconds=size.seconds, warm_up_s=size.warm_up_s)
    scene.stop_program("echo")
    return {"ceiling_http": many.rate, "ceiling_http_alone": alone.percentile_ms(50)}
