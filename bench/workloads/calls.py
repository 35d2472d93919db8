"""Calls to entities: many callers over a thousand keys, one caller alone, everybody to one key."""

from bench.entities import Counter
from bench.harness import Figures, Loops, Meter, Operation, Size, closed_loops
from bench.scene import Scene

KEYS = 1_000
CALLERS = 256
HOT_CALLERS = 64


def calls_over(keys: int) -> Operation:
    """Each caller walks over the keys in an order of its own."""

    async def call(caller: int, n: int) -> None:
        await Counter.ref(f"counter-{(caller * 7919 + n * 104_729) % keys}").add(1)

    return call


async def _hot(_caller: int, _n: int) -> None:
    await Counter.ref("hot").add(1)


async def _run(operation: Operation, size: Size, callers: int) -> Loops:
    return await closed_loops(operation, callers=callers, seconds=size.seconds, warm_up_s=size.warm_up_s)


async def measure(scene: Scene, size: Size) -> Figures:
    """256 callers, and what their turns cost; then the lone caller."""
    await _run(calls_over(KEYS), size, CALLERS)  # every entity is in memory before anything is counted
    meter = Meter(scene)
    await meter.start()
    many = await closed_loops(calls_over(KEYS), callers=CALLERS, seconds=size.seconds, warm_up_s=0)
    cost = await meter.stop()
    figures = {
        "call": many.rate,
        "call_p99": many.percentile_ms(99),
        "call_alone": (await _run(calls_over(KEYS), size, 1)).percentile_ms(50),
        "wal": cost.wal_bytes / cost.turns,
        "stored": cost.stored_bytes / cost.turns,
        "turns_per_commit": cost.turns / cost.commits,
        "turns_per_ray_call": cost.turns / cost.ray_calls,
        "cpu_client": cost.cpu_per_1000("client"),
        "cpu_hosts": cost.cpu_per_1000("hosts"),
    }
    return figures | ({"cpu_postgres": cost.cpu_per_1000("postgres")} if scene.postmaster is not None else {})


async def measure_hot(scene: Scene, size: Size) -> Figures:
    """64 callers of one key."""
    meter = Meter(scene)
    await _run(_hot, size, HOT_CALLERS)
    await meter.start()
    hot = await closed_loops(_hot, callers=HOT_CALLERS, seconds=size.seconds, warm_up_s=0)
    cost = await meter.stop()
    return {"hot": hot.rate, "hot_cpu_hosts": cost.cpu_per_1000("hosts")}
