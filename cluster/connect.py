"""Joining a cluster, and saying what should run in it.

`connect` makes this process a client. `up` says what should run and waits until it does; `down` ends it. Both can be
called from anywhere, any number of times: they only change the targets, and see to it that there is a supervisor.
"""

import asyncio
import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..entities.client import ambient, set_default
from ..entities.definition import Registry
from ..entities.errors import NotConnected, StartRefused, Unavailable
from ..entities.store.archive import Archive
from ..entities.store.encoded_archive import EncodedArchive, NoKeys
from ..entities.store.encoded_survey import EncodedSurvey
from ..entities.store.port import StoreUnavailable
from ..entities.store.rows import HostRow
from ..entities.store.sealing import Sealer
from ..entities.store.survey import Survey
from .actors import ensure_supervisor, host_connector, host_metrics, supervisor_poker
from .addresses import HostAddress, supervisor_actor
from .allocation import allocate
from .client import DEFAULT_TIMEOUT_S, Connection
from .codecs import NO_CODEC, check_change, check_environment, load_codec
from .exposure import open_ray, plain_postgres
from .follow import follow_supervisor
from .postgres.guard import check_server
from .ray_runtime import Handles, find, gcs_address, is_joined, join, kill, leave, start_local, submit
from .router import Router
from .routes import Routes, RouteTable
from .settings import ClusterSettings
from .stores import Store, StoreAddress
from .supervisor import SupervisorSpec
from .targets import DEFAULT_ENGINE, Targets
from .tasks import end

log = logging.getLogger("perdure.cluster")

DEFAULT_NAMESPACE = "perdure"
WAIT_POLL_S = 0.05
FAILURES_MAX = 2
"""So many hosts in a row that do not start are no accident: `up` gives up and says why."""
UP_TIMEOUT_S = 120.0
DOWN_TIMEOUT_S = 60.0


def join_ray(address: str | None = None) -> bool:
    """Make this process a Ray driver, unless it is one or is a worker. True if it was joined (then leave it again).

    `address`: of an existing cluster, or "auto"; None or "local" starts one on this machine that ends with this
    process.
    """
    if is_joined():
        return False
    if address in {None, "local"}:
        start_local()
    else:
        join(str(address))
        if problem := open_ray(gcs_address(), os.environ, Path.home()):
            log.warning("%s", problem)
    return True


async def connect(
    *,
    dsn: str,
    namespace: str = DEFAULT_NAMESPACE,
    ray_address: str | None = None,
    is_pooled: bool = False,
    settings: ClusterSettings | None = None,
    default_timeout_s: float = DEFAULT_TIMEOUT_S,
    is_default: bool = True,
    codec: str = "",
) -> Connection:
    """A client of the namespace for this process; the ambient one for `Entity.ref(...)` if `is_default`.

    codec: `module:factory` as the hosts have it, for histories, searches and exports. Without it those of an encrypted
    namespace show what is stored in the clear. Raises StartRefused if the database, the namespace or the codec is not
    in order.
    """
    address = StoreAddress(dsn=dsn, namespace=namespace, is_pooled=is_pooled, codec=load_codec(codec))
    await check_server(dsn, namespace, is_pooled)
    if problem := plain_postgres(dsn):
        log.warning("%s", problem)
    joined = join_ray(ray_address)
    settings = settings or ClusterSettings()
    store = address.open()
    routes = Routes.of_store(store)
    router = Router(
        routes=routes,
        shard_count=await store.shard_count(),
        connect_host=host_connector(Handles()),
        settings=settings.exchange,
    )
    await routes.refresh()
    following = asyncio.create_task(follow_supervisor(supervisor_actor(namespace), routes), name="follow routes")

    async def on_close() -> None:
        if _is_ambient(connection):
            set_default(None)
        await end(following)
        await store.close()
        if joined:
            leave()

    archive, survey = await _readers(store, address)
    connection = Connection(
        router,
        routes,
        archive=archive,
        survey=survey,
        on_close=on_close,
        ask_metrics=host_metrics(Handles()),
        poke_supervisor=supervisor_poker(namespace),
        default_timeout_s=default_timeout_s,
    )
    if is_default:
        set_default(connection)
    return connection


async def _readers(store: Store, address: StoreAddress) -> tuple[Archive, Survey]:
    """For people: without a codec an encrypted namespace shows what is stored in the clear."""
    targets = Targets.from_json(await store.targets())
    if address.codec is not None or targets is None or not targets.codec:
        return store.archive(), store.survey()
    log.warning("namespace %r is encrypted (codec=%r); payloads cannot be read here", address.namespace, targets.codec)
    sealer = Sealer(NoKeys(), address.namespace)
    return EncodedArchive(store.archive(), sealer), EncodedSurvey(store.survey(), sealer)


def _is_ambient(connection: Connection) -> bool:
    try:
        return ambient() is connection
    except NotConnected:
        return False


async def up(
    *,
    dsn: str,
    entities: Iterable[str],
    hosts: int,
    namespace: str = DEFAULT_NAMESPACE,
    ray_address: str | None = None,
    is_pooled: bool = False,
    engine: dict[str, Any] | None = None,
    engine_factory: str = DEFAULT_ENGINE,
    settings: ClusterSettings | None = None,
    environment: dict[str, str] | None = None,
    codec: str = "",
    release: str = "",
    timeout_s: float = UP_TIMEOUT_S,
) -> Targets:
    """Have so many hosts run these entity classes (`module:Class`); returns when they do and every shard is served.

    Hosts that run something else (other classes, settings or `release`) are replaced one by one, without a gap. codec:
    what encrypts payloads, as `module:factory`, called in every host; its keys come from their environment, never from
    here (docs/encryption.md). Raises StartRefused if the database is not in order or hosts cannot start, Unavailable if
    they do not come up in time; the targets stay, and the supervisor goes on trying.
    """
    check_environment(environment or ())
    targets = Targets(
        hosts=hosts,
        entities=tuple(entities),
        engine=engine or {},
        engine_factory=engine_factory,
        settings=settings or ClusterSettings(),
        environment=environment or {},
        codec=codec if codec != NO_CODEC else "",
        release=release,
    )
    await check_server(dsn, namespace, is_pooled)
    join_ray(ray_address)
    store = StoreAddress(dsn=dsn, namespace=namespace, is_pooled=is_pooled).open()
    try:
        before = Targets.from_json(await store.targets())
        check_change(before.codec if before is not None else "", codec)
        await _make_indexes(store, targets.entities)
        await store.set_targets(targets.to_json())
        spec = SupervisorSpec(dsn=dsn, namespace=namespace, is_pooled=is_pooled)
        supervisor = await ensure_supervisor(spec)
        await submit(supervisor, "poke")
        deadline = time.monotonic() + timeout_s
        while not _is_up(*await _look(store), targets):
            failures, reason = await submit(supervisor, "failures")
            if failures >= FAILURES_MAX:
                raise StartRefused(f"hosts of {namespace!r} do not start: {reason}")
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"the {hosts} hosts of {namespace!r} did not come up within {timeout_s:g} s. "
                    "Look at the logs of the workers in Ray's session directory; the supervisor goes on trying"
                )
            await asyncio.sleep(WAIT_POLL_S)
    finally:
        await store.close()
    return targets


async def down(
    *,
    dsn: str,
    namespace: str = DEFAULT_NAMESPACE,
    ray_address: str | None = None,
    is_pooled: bool = False,
    timeout_s: float = DOWN_TIMEOUT_S,
) -> None:
    """End all hosts in order, then the supervisor. What is durable stays. Raises Unavailable if it takes too long."""
    join_ray(ray_address)
    store = StoreAddress(dsn=dsn, namespace=namespace, is_pooled=is_pooled).open()
    try:
        targets = Targets.from_json(await store.targets())
        if targets is None:
            return
        await store.set_targets(targets.model_copy(update={"hosts": 0}).to_json())
        await submit(await ensure_supervisor(SupervisorSpec(dsn=dsn, namespace=namespace, is_pooled=is_pooled)), "poke")
        deadline = time.monotonic() + timeout_s
        while any(host.status in {"active", "draining"} for host in await store.hosts()):
            if time.monotonic() > deadline:
                raise Unavailable(f"the hosts of {namespace!r} did not end within {timeout_s:g} s")
            await asyncio.sleep(WAIT_POLL_S)
        supervisor = await find(supervisor_actor(namespace))
        if supervisor is not None:
            kill(supervisor)
    finally:
        await store.close()


async def _make_indexes(store: Store, entities: Iterable[str]) -> None:
    """The indexes for searching that the classes ask for, and their SQL views. Hosts run without them as well."""
    try:
        registry = Registry.load(entities)
    except Exception as error:  # noqa: BLE001 - the code need not be importable here; hosts say what is wrong with it
        log.warning("indexes for searching are left as they are: the classes cannot be imported here (%s)", error)
        return
    for definition in registry:
        await store.archive().index(definition.name, definition.index, definition.version)
    try:
        await store.survey().make_views(list(registry))
    except StoreUnavailable as error:
        log.warning("the SQL views are left as they are: %s; see `perdure db views`", error)


async def _look(store: Store) -> tuple[RouteTable, list[HostRow]]:
    owners = await store.owners()
    hosts = await store.hosts()
    return RouteTable.of(owners, hosts), hosts


def _is_up(table: RouteTable, hosts: list[HostRow], targets: Targets) -> bool:
    live = [host for host in hosts if host.status in {"active", "draining"}]
    current = [host for host in live if HostAddress.parse(host.address).revision == targets.revision]
    if targets.hosts == 0:
        return not live
    if not len(current) == len(live) == targets.hosts or not table.is_complete:
        return False
    return allocate(table.owners, {host.incarnation: max(1, host.capacity) for host in live}) == table.owners
