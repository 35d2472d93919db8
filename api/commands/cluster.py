"""Verbs about the cluster itself: they go to the database and to Ray, not to a gateway."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import typer

from ...cluster.exposure import open_ray
from ...cluster.postgres.majors import major_of, untested
from ..database import check_database, reach
from ..exits import Exit
from ..failures import Failure, failure_of
from ..settings import Settings
from ..target import load_target, put_on_path
from .output import Format, show

CLOCK_DIFFERENCE_S = 1.0
"""From here on the difference between this machine's clock and the database's is worth a warning."""


class Check(NamedTuple):
    """One line of `perdure doctor`."""

    check: str
    result: str
    """`ok`, `warning` or `FAILED`."""
    what: str


def up(settings: Settings, module: str, *, hosts: int, address: str, release: str) -> str:
    """Have so many hosts run the classes of a module; returns when they do. Says what runs now."""
    from ...cluster.connect import up as bring_up  # noqa: PLC0415 - importing Ray takes a second

    put_on_path(Path.cwd())
    entities = load_target(module).registry.names()
    asyncio.run(
        bring_up(
            dsn=_dsn(settings),
            namespace=settings.namespace,
            entities=entities,
            hosts=hosts,
            ray_address=address or settings.ray_address or "auto",
            release=release,
            environment={"PYTHONPATH": os.environ["PYTHONPATH"]},
            codec=settings.codec,
            is_pooled=settings.pooled,
        )
    )
    return f"{hosts} hosts run {', '.join(entity.rpartition(':')[2] for entity in entities)} in {settings.namespace!r}"


def down(settings: Settings, *, address: str) -> str:
    """End all hosts of the namespace in order; everything durable stays."""
    from ...cluster.connect import down as bring_down  # noqa: PLC0415 - as above

    where = address or settings.ray_address or "auto"
    asyncio.run(
        bring_down(dsn=_dsn(settings), namespace=settings.namespace, ray_address=where, is_pooled=settings.pooled)
    )
    return f"no hosts run in {settings.namespace!r} any more; its entities are kept"


def status(settings: Settings, output: Format) -> None:
    """Print what should run and what does, from the database alone."""
    told = asyncio.run(_status(settings))
    show(told, output, columns=("host", "status", "node", "pid", "shards", "lease_s"), rows=told["hosts"])
    if output is Format.TABLE:
        wanted = f"{told['hosts_wanted']} hosts wanted, " if told["hosts_wanted"] is not None else ""
        typer.echo(f"{wanted}{told['shards_without_owner']} of {told['shards']} shards have no owner", err=True)


async def _status(settings: Settings) -> dict[str, Any]:
    from ...cluster.stores import StoreAddress  # noqa: PLC0415 - as above
    from ...cluster.targets import Targets  # noqa: PLC0415 - as above

    dsn, namespace = _dsn(settings), settings.namespace
    reach(dsn)
    store = StoreAddress(dsn=dsn, namespace=namespace, is_pooled=settings.pooled).open()
    try:
        owners, hosts = await store.owners(), await store.hosts()
        now_us, stored = await store.clock_us(), await store.targets()
    finally:
        await store.close()
    targets = Targets.from_json(stored)
    live = {host.incarnation for host in hosts if host.status in {"active", "draining"}}
    return {
        "namespace": namespace,
        "hosts_wanted": targets.hosts if targets is not None else None,
        "entities": list(targets.entities) if targets is not None else [],
        "release": targets.release if targets is not None else "",
        "shards": len(owners),
        "shards_without_owner": sum(row.owner not in live for row in owners),
        "hosts": [
            {
                "host": host.incarnation,
                "status": host.status,
                "node": host.node,
                "pid": host.pid,
                "shards": sum(row.owner == host.incarnation for row in owners),
                "lease_s": round((host.lease_us - now_us) / 1e6, 1),
            }
            for host in hosts
            if host.incarnation in live
        ],
    }


def doctor(settings: Settings, output: Format, *, address: str) -> None:
    """Print what is in order and what is not. Raises Failure if anything failed."""
    dsn = _dsn(settings)
    checks = [
        _tried("database", lambda: _database(settings)),
        _tried("clock", lambda: _clock(dsn)),
        _tried("hosts", lambda: _hosts(settings)),
        _tried("ray", lambda: _ray(address or settings.ray_address)),
        _tried("access", lambda: _access(settings)),
    ]
    show([check._asdict() for check in checks], output, columns=Check._fields, rows=[c._asdict() for c in checks])
    failed = [check.check for check in checks if check.result == "FAILED"]
    if failed:
        raise Failure("not_in_order", f"failed: {', '.join(failed)}", Exit.CONFLICT)


def _tried(name: str, look: Callable[[], tuple[str, str]]) -> Check:
    try:
        return Check(name, *look())
    except Exception as error:  # noqa: BLE001 - whatever it is belongs into the table
        return Check(name, "FAILED", str(failure_of(error)))


def _database(settings: Settings) -> tuple[str, str]:
    check_database(_dsn(settings), settings.namespace, is_pooled=settings.pooled)
    through = "; through a pooler, nothing is kept in sessions" if settings.pooled else ""
    version, doubt = _version(_dsn(settings))
    told = f"Postgres {version}: durable, writable; namespace {settings.namespace!r} fits this release{through}"
    return ("ok", told) if doubt is None else ("warning", f"{told}; but {doubt}")


def _version(dsn: str) -> tuple[str, str | None]:
    """The server's version as it says it, and what is doubtful about it."""
    import psycopg  # noqa: PLC0415 - the driver is needed by few verbs

    reach(dsn)  # its complaints show no password; the driver's may
    with psycopg.connect(dsn, connect_timeout=5, autocommit=True) as connection:
        version = connection.info.parameter_status("server_version") or ""
        return version, untested(major_of(connection.info.server_version))


def _clock(dsn: str) -> tuple[str, str]:
    import psycopg  # noqa: PLC0415 - the driver is needed by few verbs

    reach(dsn)  # its complaints show no password; the driver's may
    with psycopg.connect(dsn, connect_timeout=5, autocommit=True) as connection:
        before = time.time()
        row = connection.execute("select extract(epoch from clock_timestamp())").fetchone()
        after = time.time()
    difference = 0.0 if row is None else float(row[0]) - (before + after) / 2
    told = f"the database is {abs(difference):.3f} s {'ahead of' if difference > 0 else 'behind'} this machine"
    is_far = abs(difference) > CLOCK_DIFFERENCE_S
    return "warning" if is_far else "ok", told + ("; correctness does not depend on it" if is_far else "")


def _hosts(settings: Settings) -> tuple[str, str]:
    told = asyncio.run(_status(settings))
    missing = told["shards_without_owner"]
    text = f"{len(told['hosts'])} alive, {missing} of {told['shards']} shards without an owner"
    return "warning" if missing else "ok", text


def _ray(address: str) -> tuple[str, str]:
    if not address:
        return "ok", "none is named; `perdure dev` starts one of its own"
    from ...cluster.connect import join_ray  # noqa: PLC0415 - importing Ray takes a second
    from ...cluster.ray_runtime import gcs_address, leave  # noqa: PLC0415 - as above

    joined = join_ray(address)
    problem = open_ray(gcs_address(), os.environ, Path.home())
    if joined:
        leave()
    return "warning" if problem else "ok", f"joined {address}{'; ' + problem if problem else ''}"


def _access(settings: Settings) -> tuple[str, str]:
    if not settings.has_credentials:
        return "warning", "no credentials: a gateway answers programs on this machine only"
    told = f"{len(settings.api_keys)} API keys, {len(settings.clients)} clients, {len(settings.roles)} roles"
    return "ok", told + (f", tokens of {settings.jwt.issuer}" if settings.jwt is not None else "")


def _dsn(settings: Settings) -> str:
    dsn = settings.dsn.get_secret_value()
    if not dsn:
        raise Failure("no_dsn", "no database is named (set PERDURE_DSN, or give --dsn postgresql://…)", Exit.USAGE)
    return dsn
