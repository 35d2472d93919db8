"""Workloads W1 to W13: what is done to entities, and what must be true of it afterwards.

W12 (two namespaces) is about authorisation and has tests of its own; W14 is W9 for a day.
"""

from simulation.contract import Workload

from .abuse import Abuse
from .adds import Adds
from .bank import Bank
from .graph import Graph
from .keys import Keys
from .lifecycle import Lifecycle
from .programs import Programs
from .register import Registers
from .steps import Steps
from .streams import Streams
from .timers import Timers
from .upgrade import Upgrades

WORKLOADS: dict[str, type[Workload]] = {
    "W1": Adds,
    "W2": Streams,
    "W3": Bank,
    "W4": Graph,
    "W5": Registers,
    "W6": Timers,
    "W7": Steps,
    "W8": Lifecycle,
    "W9": Programs,
    "W10": Keys,
    "W11": Abuse,
    "W13": Upgrades,
}
"""By the number in the reference."""
