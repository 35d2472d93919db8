"""What the framework takes from its process where it has no seam, replaced for the time of one seed.

Time, chance, Ray, the database's address, the process and its thread. Everything is put back afterwards.
"""

import random
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from perdure.cluster import actors, connect, exchange, follow, host, ownership, peers, ray_runtime, supervisor
from perdure.cluster.process import ProcessName
from perdure.cluster.stores import StoreAddress
from perdure.entities import calls, client, durable, transactions
from perdure.entities.client import Caller
from perdure.entities.engine import attempts, engine
from perdure.entities.ids import SendClock
from perdure.entities.messages import Envelope, Reply
from perdure.entities.sources import sources

from .choices import Choices
from .faults import Plan
from .loop import SimLoop, here
from .ray import SimRay
from .store import BASE_US, Database


class _Quiet:
    """In place of the thread that watches for blocked loops: nothing blocks here. And of the one that frees memory."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def look(self, _active: int) -> None: ...


class _Timer:
    """`threading.Timer` without a thread."""

    daemon = True

    def __init__(self, interval: float, function: Callable[..., object], args: tuple[Any, ...] = ()) -> None:
        self._due = (interval, function, args)

    def start(self) -> None:
        interval, function, args = self._due
        node = here.get()
        loop: SimLoop = node.facts["loop"]
        loop.deliver(node, interval, function, *args)


class _OwnClock:
    """`calls.outside_clock`, one per process."""

    last = 0

    def next(self, wall_us: int) -> int:
        clock: SendClock = here.get().facts.setdefault("send clock", SendClock())
        return clock.next(wall_us)


class _OwnClient:
    """The process-wide client, one per process."""

    def _of_this_process(self) -> Caller:
        caller: Caller = here.get().facts["client"]
        return caller

    @property
    def session(self) -> str:
        return self._of_this_process().session

    @property
    def default_timeout_s(self) -> float:
        return self._of_this_process().default_timeout_s

    async def request(self, envelope: Envelope, *, timeout_s: float) -> Reply:
        return await self._of_this_process().request(envelope, timeout_s=timeout_s)


def _set_default(caller: Caller | None) -> None:
    here.get().facts["client"] = caller


async def _in_order(*_: object) -> None:
    """The database is in order."""


def _no_ray(*_: object) -> bool:
    return False


@contextmanager
def simulated(loop: SimLoop, ray: SimRay, database: Database, choices: Choices, plan: Plan) -> Generator[None]:
    """The framework runs on these inside the block."""
    chance = choices.of("framework")
    entropy = choices.of("entropy")
    clock = SimpleNamespace(
        monotonic=loop.time,
        perf_counter=loop.time,
        time_ns=lambda: wall_ns(loop),
        time=lambda: wall_ns(loop) / 1e9,
    )
    replaced: list[tuple[Any, str, Any]] = []

    def put(what: object, *places: Any, name: str) -> None:
        for place in places:
            replaced.append((place, name, getattr(place, name)))
            setattr(place, name, what)

    for module in (connect, engine, attempts, exchange, host, ownership, supervisor):
        put(clock, module, name="time")
    put(loop.time, host, name="steady_clock")
    for module in (actors, follow, host, transactions):
        put(_uniform_of(chance), module, name="random")
    _put_ray(put, ray)
    put(SimpleNamespace(_exit=ray.exit, getpid=lambda: 0), actors, name="os")
    put(SimpleNamespace(Timer=_Timer), actors, name="threading")
    put(SimpleNamespace(collect=_nothing, freeze=_nothing), actors, name="gc")
    put(_nothing, actors, name="end_with_parent")
    put(plan.commit_margin_s, transactions, name="COMMIT_MARGIN_S")
    put(_Quiet, host, name="Watchdog")
    put(_Quiet, host, name="Ebb")
    put(_set_default, host, connect, name="set_default")
    put(_this_process, host, name="this_process")
    put(_OwnClock(), calls, name="outside_clock")
    put([_OwnClient()], client, name="_default")
    put(_in_order, connect, name="check_server")
    put(_no_ray, connect, name="join_ray")
    put(lambda _address, incarnation="": database.session(incarnation), StoreAddress, name="open")
    put(lambda _address, _lease_s: database.session(), StoreAddress, name="open_for_renewals")
    put(lambda _address, _incarnation: None, StoreAddress, name="steps")
    put(SimpleNamespace(UUID=uuid.UUID, uuid4=lambda: _uuid4(entropy)), durable, name="uuid_module")
    sources.time_ns = clock.time_ns
    sources.entropy = entropy.randbytes
    try:
        yield
    finally:
        sources.reset()
        for place, name, before in reversed(replaced):
            setattr(place, name, before)


def _put_ray(put: Callable[..., None], ray: SimRay) -> None:
    put(ray.find, ray_runtime, actors, connect, name="find")
    put(ray.spawn, actors, name="spawn")
    put(ray.submit, actors, connect, follow, ray_runtime, supervisor, name="submit")
    put(ray.tell, actors, peers, supervisor, name="tell")
    put(ray.kill, connect, supervisor, name="kill")
    put(lambda: here.get().facts["actor"], actors, name="this_actor")
    put(lambda: here.get().machine, actors, name="node_id")
    put(lambda: ray.exit(0), actors, name="end_this_actor")
    put(ray.pulse, ownership, supervisor, name="pulse")


def wall_ns(loop: SimLoop) -> int:
    """What the running process takes for the time of day: its clock may be wrong, and may be set."""
    node = loop.current
    step_ns: int = node.facts.get("wall_step_ns", 0)
    return BASE_US * 1_000 + round(loop.now * node.rate * 1e9) + step_ns


def _this_process() -> ProcessName:
    name: ProcessName = here.get().facts["process"].name
    return name


def _uniform_of(chance: random.Random) -> SimpleNamespace:
    return SimpleNamespace(uniform=chance.uniform, random=chance.random)


def _uuid4(entropy: random.Random) -> uuid.UUID:
    return uuid.UUID(int=entropy.getrandbits(128), version=4)


def _nothing() -> None: ...
