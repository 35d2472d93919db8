"""Perdure's own engine for a host."""

from functools import partial

from ..entities.codec import check_searchable
from ..entities.definition import Registry
from ..entities.engine.engine import Engine, Outlets
from ..entities.engine.settings import EngineSettings
from ..entities.steady import steady_clock
from ..entities.store.encoded import EncodedStore
from .activities import RayActivities
from .dedicated.actor import start_actor
from .dedicated.parent import DedicatedActors
from .hosted import EngineRequest, HostedEngine
from .ray_runtime import this_actor
from .settings import ExchangeSettings


def perdure_engine(request: EngineRequest) -> HostedEngine:
    """Imports the application's entity classes. Raises DefinitionError if that fails."""
    registry = Registry.load(request.entities)
    hides_texts = isinstance(request.store, EncodedStore)
    if isinstance(request.store, EncodedStore):
        for definition in registry:
            check_searchable(request.store.codec, definition)
    engine = Engine(
        registry=registry,
        store=request.store,
        incarnation=request.incarnation,
        shard_count=request.shard_count,
        settings=EngineSettings(**request.settings),
        outlets=Outlets(
            hint=request.hint,
            fenced=request.fenced,
            activity_pool=RayActivities(),
            steps=request.steps,
            hides_texts=hides_texts,
        ),
        monotonic=steady_clock,
    )
    spawn = partial(
        start_actor,
        host=this_actor(),
        entities=request.entities,
        shard_count=request.shard_count,
        settings=request.settings,
        hides_texts=hides_texts,
    )
    dedicated = DedicatedActors(engine, request.store, spawn, ExchangeSettings())
    engine.host_elsewhere(dedicated)
    request.serve(dedicated.serve)
    return engine
