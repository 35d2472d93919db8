"""The dedicated actor: an engine for one entity, in a Ray actor of its own."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from ...entities.definition import EntityDefinition, Registry
from ...entities.engine.deliveries import Fire
from ...entities.engine.engine import Engine, Outlets
from ...entities.engine.settings import EngineSettings
from ...entities.errors import error_body
from ...entities.ids import EntityId
from ...entities.store.port import StoreUnavailable
from ..activities import RayActivities
from ..exchange import Exchange
from ..orphans import end_with_parent
from ..ray_runtime import Handle, kill, spawn, submit
from ..settings import ExchangeSettings
from . import wire
from .remote_store import RemoteStore

log = logging.getLogger("perdure.dedicated")

ASK_TIMEOUT_S = 30.0
ASK_AGAIN_S = 1.0


def _no_hint(entities: list[EntityId]) -> None:
    """The host hints: it sees what was committed."""


class DedicatedActor:
    """One entity. Made, fed and ended by the host that owns its shard; dies with it."""

    def __init__(self) -> None:
        self._engine: Engine
        self._exchange: Exchange
        self._entity: EntityId
        self._ask: Callable[[str, bytes], Awaitable[bytes]]
        self._idle: asyncio.Task[None]

    async def open(
        self,
        host: Any,
        entities: list[str],
        type_name: str,
        key: str,
        *,
        shard: int,
        epoch: int,
        shard_count: int,
        settings: dict[str, Any],
        hides_texts: bool,
    ) -> int:
        """Begin; returns the process id. Raises what the user's modules raise on import.

        It knows all of the application's classes: what its entity publishes is for any of them. `settings`: those of
        the targets for engines (EngineSettings); `hides_texts`: see Outlets.
        """
        end_with_parent()
        registry = Registry.load(entities)
        definition = registry.get(type_name)
        self._entity = entity = EntityId(definition.name, key)

        async def ask(operation: str, argument: bytes) -> bytes:
            try:
                call = submit(host, "serve", definition.name, key, operation, argument)
                async with asyncio.timeout(ASK_TIMEOUT_S):
                    return bytes(await call)
            except Exception as error:
                raise StoreUnavailable(
                    f"{entity}: its host does not answer ({error!r})", maybe_applied=operation == "commit"
                ) from error

        self._ask = ask
        self._engine = Engine(
            registry=registry,
            store=RemoteStore(ask),
            incarnation=f"dedicated:{entity}",
            shard_count=shard_count,
            settings=EngineSettings(**settings),
            outlets=Outlets(
                hint=_no_hint,
                fenced=self._fenced,
                activity_pool=RayActivities(),
                reminders_lost=self._reminders_lost,
                hides_texts=hides_texts,
            ),
            only=entity,
        )
        await self._engine.start()
        self._engine.own({shard: epoch})
        self._exchange = Exchange(self._engine.deliver, ExchangeSettings())
        self._idle = asyncio.get_running_loop().create_task(self._watch_idleness())
        return os.getpid()

    async def exchange(self, data: bytes) -> bytes:
        """One call of the host's link."""
        return await self._exchange.exchange(data)

    async def control(self, data: bytes) -> None:
        """What is due, and whether there is mail."""
        control = wire.CONTROL.decode(data)
        for row in control.fires:
            self._engine.arrivals.offer(self._entity, Fire(row))
        if control.wake:
            self._engine.wake([self._entity])

    def _reminders_lost(self, entity: EntityId) -> None:
        del entity  # there is one
        self._engine.background(self._ask_for_reminders())

    async def _ask_for_reminders(self) -> None:
        """The host fires them: what it has handed to this actor, and was not run, it has to read again."""
        while True:
            try:
                await self._ask("reminders", b"")
                return
            except StoreUnavailable as error:
                log.warning("%s; asking again", error.message)
                await asyncio.sleep(ASK_AGAIN_S)

    async def _watch_idleness(self) -> None:
        """Once the entity has left memory, offer to go."""
        seen = False
        while True:
            await asyncio.sleep(1.0)
            stats = self._engine.stats()
            if stats["activations"] or stats["loading"]:
                seen = True
            elif seen:
                try:
                    await self._ask("idle", b"")
                except StoreUnavailable as error:
                    log.debug("%s", error)

    def _fenced(self, reason: str) -> None:
        log.warning("dedicated actor ends: %s", reason)
        os._exit(1)


class StartedActor:
    """A dedicated actor, as `parent.ChildActor`."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def exchange(self, data: bytes) -> "asyncio.Future[bytes]":
        """One call of the link."""
        return submit(self._handle, "exchange", data)

    def control(self, data: bytes) -> "asyncio.Future[None]":
        """Tell it something."""
        return submit(self._handle, "control", data)

    def kill(self) -> None:
        """End its process."""
        kill(self._handle)


async def start_actor(
    definition: EntityDefinition,
    entity: EntityId,
    shard: int,
    epoch: int,
    *,
    host: Handle,
    entities: Sequence[str],
    shard_count: int,
    settings: Mapping[str, Any],
    hides_texts: bool,
) -> StartedActor:
    """Start the actor of an entity and wait until it is ready. Raises if it cannot be placed or begun.

    `settings`: those of its host's engine (EngineSettings), so that both keep the same bounds.
    """
    hosting = definition.hosting
    assert hosting is not None
    handle = spawn(
        DedicatedActor,
        num_cpus=hosting.num_cpus,
        num_gpus=hosting.num_gpus,
        resources=dict(hosting.resources) or None,
        max_restarts=0,
        max_task_retries=0,
        max_concurrency=1_000,
        enable_task_events=False,
    )
    try:
        await submit(
            handle,
            "open",
            host,
            list(entities),
            definition.name,
            entity.key,
            shard=shard,
            epoch=epoch,
            shard_count=shard_count,
            settings=dict(settings),
            hides_texts=hides_texts,
        )
    except BaseException as error:
        log.info("%s: its actor did not start: %s", entity, error_body(error).message)
        kill(handle)
        raise
    return StartedActor(handle)
