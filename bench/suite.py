"""Which workloads there are, in the order in which they run, and the running of them."""

import traceback
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from .ceilings import commit, http, ray_echo
from .harness import Figures, Size
from .scene import Scene
from .workloads import calls, killed, long_life, memory, signals, steps, timers
from .workloads import http as http_calls


@dataclass(frozen=True)
class Workload:
    """`measure` is one repetition."""

    name: str
    measure: Callable[[Scene, Size], Awaitable[Figures]]
    is_large: bool = False


WORKLOADS = [
    Workload("ceiling-commit", commit.measure),
    Workload("ceiling-ray", ray_echo.measure),
    Workload("ceiling-http", http.measure),
    Workload("calls", calls.measure),
    Workload("http", http_calls.measure),
    Workload("hot-key", calls.measure_hot),
    Workload("steps", steps.measure),
    Workload("signals", signals.measure),
    Workload("timers", timers.measure),
    Workload("timers-large", timers.measure_large, is_large=True),
    Workload("killed", killed.measure),
    Workload("long-life", long_life.measure),
    Workload("memory", memory.measure),
    Workload("memory-sleeping", memory.measure_sleeping),
]


def choose(only: Sequence[str], *, large: bool) -> list[Workload]:
    """Those of these names, or whose names hold them; all, if there are none. Raises ValueError for an unknown one."""
    if not only:
        return [workload for workload in WORKLOADS if large or not workload.is_large]
    wanted: set[str] = set()
    names = [workload.name for workload in WORKLOADS]
    for part in only:
        found = [part] if part in names else [name for name in names if part in name]
        if not found:
            raise ValueError(f"there is no workload {part!r}; there are {', '.join(names)}")
        wanted.update(found)
    return [workload for workload in WORKLOADS if workload.name in wanted]


async def run(
    scene: Scene, chosen: Sequence[Workload], size: Size, repeat: int
) -> tuple[dict[str, list[float]], list[str]]:
    """Figures by row, one of each repetition: all workloads once, then all of them again. And what has failed: that
    does not take the figures of the others away.
    """
    results: dict[str, list[float]] = defaultdict(list)
    failures: list[str] = []
    for repetition in range(repeat):
        for workload in chosen:
            print(f"  {repetition + 1}/{repeat} {workload.name} …", flush=True)
            try:
                figures = await workload.measure(scene, size)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is shown and told at the end
                traceback.print_exc()
                failures.append(f"{workload.name}: {error!r}")
                continue
            for name, value in figures.items():
                results[name].append(value)
    return dict(results), failures
