"""A workflow of five steps that do nothing: 64 at a time, and one at a time."""

from bench.entities import Steps
from bench.harness import Figures, Meter, Size, closed_loops
from bench.scene import Scene

AT_ONCE = 64


async def measure(scene: Scene, size: Size) -> Figures:
    """Started and awaited, each on an entity of its own."""

    async def five_steps(_caller: int, _n: int) -> None:
        steps = Steps.ref(f"steps-{next(scene.keys)}")
        await steps.run.start()
        await steps.run.result()

    await closed_loops(five_steps, callers=AT_ONCE, seconds=size.warm_up_s, warm_up_s=size.warm_up_s)
    meter = Meter(scene)
    await meter.start()
    many = await closed_loops(five_steps, callers=AT_ONCE, seconds=size.seconds, warm_up_s=0)
    cost = await meter.stop()
    alone = await closed_loops(five_steps, callers=1, seconds=size.seconds, warm_up_s=size.warm_up_s)
    runs = len(many.latencies)
    return {
        "steps": many.rate,
        "steps_alone": alone.percentile_ms(50),
        "steps_cpu_hosts": cost.cpu_s["hosts"] / runs * 1_000,
    }
