"""The connection of an application with the cluster, for the time that the application runs.

app = FastAPI(lifespan=lifespan([Order, Customer]))
"""

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

from fastapi import FastAPI

from ..entities.client import Caller, set_default
from ..entities.definition import Registry
from ..entities.entity import Entity
from ..entities.errors import StartRefused
from .exchange import STATE
from .health import PROBE, Probe
from .settings import Settings

Connect = Callable[[], AbstractAsyncContextManager[Caller]]
"""Opens a client, for the time of its context."""
Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[Mapping[str, Any]]]


def lifespan(
    entities: Registry | Iterable[type[Entity]],
    *,
    dsn: str | None = None,
    namespace: str | None = None,
    ray_address: str | None = None,
    settings: Settings | None = None,
    inner: Callable[[Any], AbstractAsyncContextManager[Any]] | None = None,
    connect: Connect | None = None,
) -> Lifespan:
    """A lifespan for FastAPI: connects at the start, disconnects at the end.

    Meanwhile `Order.ref(key)` works in every route, and `request.state.perdure` is the client. `inner` is a lifespan of
    your own: it runs inside, so it may use refs; its state is kept. `connect` opens the client in place of the
    cluster's: `lambda: LocalCluster([Order])` in a test, `lambda: GatewayClient(url)` for an application that reaches
    the entities through a gateway and knows no database. The hosts that run the entities are not started
    here: `perdure dev` or a deployment of hosts does that.

    Raises DefinitionError now, and StartRefused when the application starts without a database or a usable one.
    """
    registry = entities if isinstance(entities, Registry) else Registry(entities)

    @asynccontextmanager
    async def run(app: FastAPI) -> AsyncGenerator[Mapping[str, Any]]:
        chosen = settings or Settings()  # now: `perdure dev` knows its database only when it has started one
        async with AsyncExitStack() as stack:
            opening = (
                _opened(connect)
                if connect is not None
                else connection(
                    dsn or chosen.dsn.get_secret_value(),
                    namespace or chosen.namespace,
                    ray_address=ray_address or chosen.ray_address or None,
                    codec=chosen.codec,
                    is_pooled=chosen.pooled,
                )
            )
            link = await stack.enter_async_context(opening)
            state = dict(await stack.enter_async_context(inner(app)) or {}) if inner is not None else {}
            yield state | {STATE: link.client, PROBE: link.probe}

    run.perdure_registry = registry  # type: ignore[attr-defined]  # `perdure dev` serves what the application lists
    return run


class Link(NamedTuple):
    """A client, and what tells whether it could serve."""

    client: Caller
    probe: Probe | None
    """None: the client is not one of ours."""


@asynccontextmanager
async def _opened(connect: Connect) -> AsyncGenerator[Link]:
    """The client that `connect` opens, as the process's ambient one."""
    async with connect() as client:
        set_default(client)
        try:
            yield Link(client, None)
        finally:
            set_default(None)


@asynccontextmanager
async def connection(
    dsn: str, namespace: str, *, ray_address: str | None = None, codec: str = "", is_pooled: bool = False
) -> AsyncGenerator[Link]:
    """A client as the process's ambient one, closed at the end. Raises StartRefused."""
    if not dsn:
        raise StartRefused(
            "no database: set PERDURE_DSN, pass dsn=…, or use `perdure dev`, which brings its own Postgres"
        )
    from ..cluster.connect import connect  # noqa: PLC0415 - importing Ray takes a second, and not everybody connects

    client = await connect(dsn=dsn, namespace=namespace, ray_address=ray_address, codec=codec, is_pooled=is_pooled)
    probe = Probe(dsn, namespace, is_pooled=is_pooled)
    try:
        yield Link(client, probe)
    finally:
        await probe.close()
        await client.close()
