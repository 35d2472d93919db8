"""The bare Ray exchange: bytes to an actor and back, a thousand small frames in each call, a few calls under way."""

from bench.harness import Figures, Size, closed_loops
from bench.scene import Scene
from perdure.cluster import ray_runtime
from perdure.cluster.ray_runtime import Handle

FRAMES = 1_000
FRAME_BYTES = 90
CALLS = 4


class Echo:
    """Sends back what it gets."""

    async def echo(self, data: bytes) -> bytes:
        return data


_echo: list[Handle] = []


async def measure(_: Scene, size: Size) -> Figures:
    """Frames per second; and one small call alone."""
    if not _echo:
        _echo.append(ray_runtime.spawn(Echo, num_cpus=0, max_concurrency=100, enable_task_events=False))
    [echo] = _echo
    await ray_runtime.submit(echo, "echo", b"")  # its process has started
    many, one = b"x" * (FRAMES * FRAME_BYTES), b"x" * 200

    async def call_many(_caller: int, _n: int) -> None:
        await ray_runtime.submit(echo, "echo", many)

    async def call_one(_caller: int, _n: int) -> None:
        await ray_runtime.submit(echo, "echo", one)

    frames = await closed_loops(call_many, callers=CALLS, seconds=size.seconds, warm_up_s=size.warm_up_s)
    alone = await closed_loops(call_one, callers=1, seconds=size.seconds, warm_up_s=size.warm_up_s)
    return {"ceiling_ray": frames.rate * FRAMES, "ceiling_ray_alone": alone.percentile_ms(50)}
