"""All workloads, by the short name of each (`W1`)."""

from collections.abc import Sequence

from .contract import Workload
from .smoke import Smoke
from .workloads.abuse import Abuse
from .workloads.adds import Adds
from .workloads.bank import Bank
from .workloads.graph import Graph
from .workloads.keys import Keys
from .workloads.lifecycle import Lifecycle
from .workloads.programs import Programs
from .workloads.register import Registers
from .workloads.steps import Steps
from .workloads.streams import Streams
from .workloads.timers import Timers
from .workloads.upgrade import Upgrades

_ALL: tuple[type[Workload], ...] = (
    Smoke,
    Adds,
    Streams,
    Bank,
    Graph,
    Registers,
    Timers,
    Steps,
    Lifecycle,
    Programs,
    Keys,
    Abuse,
    Upgrades,
)


def workloads() -> dict[str, type[Workload]]:
    """By short name, in order."""
    return {work.name.split()[0]: work for work in _ALL}


def pick(seed: int, wanted: Sequence[str]) -> str:
    """The workload of this seed: the wanted ones (none: all) in turn."""
    names = list(wanted) or list(workloads())
    return names[seed % len(names)]
