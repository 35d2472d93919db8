"""How a host is found: the names of Ray actors, and the text in a host row's `address`."""

from typing import NamedTuple, Self

from ..entities.store.rows import HostRow
from .process import ProcessName

RAY_NAMESPACE = "perdure"


def host_actor(namespace: str, incarnation: str) -> str:
    """Ray name of a host; new for every incarnation."""
    return f"perdure-host-{namespace}-{incarnation}"


def supervisor_actor(namespace: str) -> str:
    """Ray name of the supervisor."""
    return f"perdure-supervisor-{namespace}"


class HostAddress(NamedTuple):
    """What a host row's `address` says, as `actor|revision|machine|started`."""

    actor: str
    revision: str = ""
    """Which targets it was started for; hosts of another revision are replaced one by one."""
    machine: str = ""
    started: str = ""

    def __str__(self) -> str:
        return "|".join(self)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Inverse of str(); tolerates a plain actor name."""
        return cls(*text.split("|")[:4])

    def process(self, pid: int) -> ProcessName:
        """The process of this host."""
        return ProcessName(self.machine, pid, self.started)


def process_of(host: HostRow) -> ProcessName:
    """The process of a host as registered."""
    return HostAddress.parse(host.address).process(host.pid)
