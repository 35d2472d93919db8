"""Hosts in one process: the real engine on a memory store (or any other), no Ray, no Postgres.

```python
async with LocalCluster([Order]) as cluster:
    await Order.ref("o-1").run.start(product_id=3)
    await cluster.crash()                 # lose everything that is not committed; another host takes over
    assert await Order.ref("o-1").state() == "Paid"
```
"""

import asyncio
import contextlib
import itertools
import math
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Protocol, Self

import msgspec

from ..client import set_default
from ..definition import Registry
from ..engine.engine import Engine, Outlets
from ..engine.settings import EngineSettings
from ..entity import Entity
from ..errors import CallTimeout, Unavailable
from ..ids import EntityId, new_message_id
from ..messages import Envelope, Reply, Status
from ..metrics import Reading
from ..shard import shard_of
from ..store.archive import Archive
from ..store.encoded import EncodedStore
from ..store.memory import MemoryStore
from ..store.port import Directory, EntityStore
from ..store.rows import HostRow
from ..store.survey import Survey
from ..transactional import StepTransactions


class Store(EntityStore, Directory, Protocol):
    """Both halves of the store port, and its read side."""

    def archive(self) -> Archive:
        """For people and tools."""
        ...

    def survey(self) -> Survey:
        """The whole namespace, for people and tools."""
        ...


class LocalCluster:
    """A `Caller` with hosts of its own. `store` outlives it: a second cluster on the same store continues."""

    default_timeout_s = 10.0

    def __init__(
        self,
        entities: Iterable[type[Entity]],
        *,
        store: Store | None = None,
        hosts: int = 1,
        settings: EngineSettings | None = None,
        lease_s: float = 3600.0,
        steps: Callable[[], StepTransactions] | None = None,
    ) -> None:
        """`steps`: makes what executes transactional steps, for each host one."""
        self.registry = Registry(entities)
        self.store: Store = store if store is not None else MemoryStore()
        self.engines: list[Engine] = []
        self.session = f"test-{new_message_id()[-8:]}"
        self.requests = 0
        self._settings = settings or EngineSettings(idle_s=60.0)
        self._wanted = hosts
        self._lease_s = lease_s
        self._steps = steps
        self._names = itertools.count(1)
        self._shard_count = 0
        self._waiting: dict[str, dict[asyncio.Future[Reply], None]] = {}
        """By host; in the order of sending, in which they are sent again if it dies."""
        self._is_served = asyncio.Event()
        """Every shard has a living owner."""
        self._loop: asyncio.AbstractEventLoop

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._shard_count = await self.store.shard_count()
        for _ in range(self._wanted):
            await self.add_host()
        await self.balance()
        set_default(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        set_default(None)
        for engine in list(self.engines):
            if kind is None:
                await engine.stop()
                await self.store.retire(engine.incarnation)
            else:
                engine.kill()
                await engine.stop()
        self.engines.clear()

    async def add_host(self) -> Engine:
        """Start one more host. It owns nothing until `balance`."""
        incarnation = f"host-{next(self._names)}-{new_message_id()[-6:]}"
        engine = Engine(
            registry=self.registry,
            store=self.store,
            incarnation=incarnation,
            shard_count=self._shard_count,
            settings=self._settings,
            outlets=self._outlets(incarnation),
            monotonic=asyncio.get_running_loop().time,
        )
        row = HostRow(incarnation, incarnation, "local", 0, "active", 0)
        await self.store.register(row, lease_s=self._lease_s)
        await engine.start()
        self.engines.append(engine)
        return engine

    def _outlets(self, incarnation: str) -> Outlets:
        steps = self._steps() if self._steps is not None else None
        is_sealed = isinstance(self.store, EncodedStore)
        return Outlets(hint=self._hint, fenced=lambda _: None, steps=steps, hides_texts=is_sealed)

    async def balance(self) -> None:
        """Give every shard without a living owner to a host, in turn."""
        owners = {row.shard: row.owner for row in await self.store.owners()}
        alive = {engine.incarnation for engine in self.engines}
        free = [shard for shard in range(self._shard_count) if owners.get(shard) not in alive]
        for index, engine in enumerate(self.engines):
            mine = free[index :: len(self.engines)]
            claimed = await self.store.claim(engine.incarnation, mine)
            taken_us = {row.shard: row.taken_us for row in await self.store.owners() if row.shard in claimed}
            engine.own(claimed, taken_over=[shard for shard in claimed if owners.get(shard)], taken_us=taken_us)
        self._is_served.set()

    async def crash(self, index: int = 0) -> None:
        """Kill a host: all that is not committed is lost. Survivors, or a new host, take over its shards."""
        await self.recover(self.kill(index))

    def kill(self, index: int = 0) -> Engine:
        """The death of a host, this instant. Nobody has its shards until `recover`."""
        engine = self.engines.pop(index)
        self._is_served.clear()
        engine.kill()
        for answer in self._waiting.pop(engine.incarnation, ()):
            if not answer.done():
                answer.set_exception(_HostGoneError())
        return engine

    async def recover(self, engine: Engine) -> None:
        """Give what a killed host owned to the survivors, or to a new one."""
        await engine.stop()
        await self.store.fence(engine.incarnation, is_dead=True)
        if not self.engines:
            await self.add_host()
        await self.balance()

    def _hint(self, entities: list[EntityId]) -> None:
        for engine in self.engines:
            engine.wake(entities)

    async def request(self, envelope: Envelope, *, timeout_s: float) -> Reply:
        """See `perdure.entities.client.Caller`. Activities call from a loop in another thread."""
        if asyncio.get_running_loop() is self._loop:
            return await self._request(envelope, timeout_s=timeout_s)
        elsewhere = asyncio.run_coroutine_threadsafe(self._request(envelope, timeout_s=timeout_s), self._loop)
        return await asyncio.wrap_future(elsewhere)

    async def _request(self, envelope: Envelope, *, timeout_s: float) -> Reply:
        time = self._loop.time
        deadline = time() + timeout_s
        shard = shard_of(envelope.type, envelope.key, self._shard_count)
        self.requests += 1
        sent = False
        losses = 0
        while True:
            engine = next((e for e in self.engines if shard in e.epochs), None)
            reply: Reply | None = None
            if engine is not None:
                answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

                def respond(reply: Reply, answer: asyncio.Future[Reply] = answer) -> None:
                    if not answer.done():
                        answer.set_result(reply)

                engine.deliver(envelope, respond)
                reply = await self._await_reply(engine, answer, deadline)
                sent = True
                losses += reply is None
            if reply is not None and reply.status is not Status.NOT_OWNER:
                return reply
            if time() >= deadline:
                if sent:
                    raise CallTimeout(f"{envelope.entity}.{envelope.name}: no answer within {timeout_s:g} s")
                raise Unavailable(f"{envelope.entity}: no host owns it")
            await self._recovery(deadline)
            envelope = _again(envelope, losses)

    async def _recovery(self, deadline: float) -> None:
        """Wait until another try makes sense."""
        if self._is_served.is_set():
            await asyncio.sleep(0.002)
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_remaining(deadline)):
                    await self._is_served.wait()

    async def _await_reply(self, engine: Engine, answer: "asyncio.Future[Reply]", deadline: float) -> Reply | None:
        """The reply, or None if the host was killed or time is up."""
        waiting = self._waiting.setdefault(engine.incarnation, {})
        waiting[answer] = None
        try:
            async with asyncio.timeout(_remaining(deadline)):
                return await answer
        except (TimeoutError, _HostGoneError):
            return None
        finally:
            waiting.pop(answer, None)

    @property
    def archive(self) -> Archive:
        """The read side of the store."""
        return self.store.archive()

    @property
    def survey(self) -> Survey:
        """Reading the whole namespace."""
        return self.store.survey()

    async def readings(self, *, timeout_s: float) -> dict[str, Reading | None]:
        """Metrics of every host, as a gateway asks for them."""
        return {engine.incarnation: engine.reading() for engine in self.engines}

    def add_to(self, reading: Reading) -> None:
        """There is no router here."""

    async def drained(self) -> None:
        """Wait until every host has committed everything it has."""
        for engine in self.engines:
            await engine.drained()

    def __repr__(self) -> str:
        return f"<LocalCluster of {len(self.engines)} hosts>"


def _remaining(deadline: float) -> float | None:
    if math.isinf(deadline):
        return None
    return max(0.0, deadline - asyncio.get_running_loop().time())


def _again(envelope: Envelope, losses: int) -> Envelope:
    return msgspec.structs.replace(envelope, is_retry=True, losses=losses)


class _HostGoneError(Exception):
    """The host that was to answer has been killed."""
