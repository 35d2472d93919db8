"""The connection of an application with the cluster, for the time that the application runs.

app = FastAPI(lifespan=lifespan([Order, Customer]))
"""

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from fastapi import FastAPI

from ..entities.client import set_default
from ..entities.definition import Registry
from ..entities.entity import Entity
from ..entities.errors import StartRefused
from .exchange import STATE
from .settings import Settings

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[Mapping[str, Any]]]


def lifespan(
    entities: Registry | Iterable[type[Entity]],
    *,
    dsn: str | None = None,
    namespace: str | None = None,
    settings: Settings | None = None,
    inner: Callable[[Any], AbstractAsyncContextManager[Any]] | None = None,
) -> Lifespan:
    """A lifespan for FastAPI: connects at the start, disconnects at the end.

    Meanwhile `Order.ref(key)` works in every route, and `request.state.perdure` is the client. `inner` is a lifespan of
    your own: it runs inside, so it may use refs; its state is kept. The hosts that run the entities are not started
    here: `perdure dev` or a deployment of hosts does that.

    Raises DefinitionError now, and StartRefused when the application starts without a database or a usable one.
    """
    registry = entities if isinstance(entities, Registry) else Registry(entities)
    registry.names()  # classes that no host could import are refused here, not at the first call
    chosen = settings or Settings()

    @asynccontextmanager
    async def run(app: FastAPI) -> AsyncGenerator[Mapping[str, Any]]:
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(
                connection(dsn or chosen.dsn.get_secret_value(), namespace or chosen.namespace)
            )
            state = dict(await stack.enter_async_context(inner(app)) or {}) if inner is not None else {}
            yield state | {STATE: client}

    return run


@asynccontextmanager
async def connection(dsn: str, namespace: str) -> AsyncGenerator[Any]:
    """A client as the process's ambient one, closed at the end. Raises StartRefused."""
    if not dsn:
        raise StartRefused(
            "no database: set PERDURE_DSN, pass dsn=…, or use `perdure dev`, which brings its own Postgres"
        )
    from ..cluster.connect import connect  # noqa: PLC0415 - importing Ray takes a second, and not everybody connects

    client = await connect(dsn=dsn, namespace=namespace)
    set_default(client)
    try:
        yield client
    finally:
        set_default(None)
        await client.close()
