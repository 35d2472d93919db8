"""Perdure's own engine for a host."""

from ..entities.definition import Registry
from ..entities.engine.engine import Engine, Outlets
from ..entities.engine.settings import EngineSettings
from .hosted import EngineRequest, HostedEngine


def perdure_engine(request: EngineRequest) -> HostedEngine:
    """Imports the application's entity classes. Raises DefinitionError if that fails."""
    return Engine(
        registry=Registry.load(request.entities),
        store=request.store,
        incarnation=request.incarnation,
        shard_count=request.shard_count,
        settings=EngineSettings(**request.settings),
        outlets=Outlets(hint=request.hint, fenced=request.fenced),
    )
