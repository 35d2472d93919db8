"""`perdure dev`: Postgres, Ray, hosts and gateway in one terminal, started in that order and stopped in the reverse.

Every step is a context on one stack, so that whatever was started is stopped, wherever the start ends. The port is
taken first and the module imported second: what is most often wrong is said before anything is started.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import socket
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import uvloop
from pydantic import SecretStr

from ..cluster.connect import down, up
from ..cluster.embedded import EmbeddedPostgres
from ..cluster.ray_runtime import is_joined, leave, start_local
from .commands.serving import application
from .connection import connection
from .database import upgrade_database
from .exits import Exit
from .failures import Failure
from .interrupts import Interrupted, Interrupts, kill_below
from .serve import bind, check_binding, serving
from .settings import Settings
from .target import Target, load_target, put_on_path

POSTGRES_LOOK_S = 0.5
DOWN_S = 20.0
"""How long hosts may take to finish what they are doing."""

logger = logging.getLogger("perdure.dev")
Say = Callable[[str], None]


class Options(NamedTuple):
    """What the command line said."""

    module: str
    settings: Settings
    hosts: int
    data_dir: Path
    debug: bool = False


def run(options: Options, say: Say) -> None:
    """Start everything, serve until SIGINT or SIGTERM, stop everything. Raises what failure_of() explains."""
    check_binding(options.settings)
    settings = options.settings
    with contextlib.closing(bind(settings.host, settings.port)) as listener:
        put_on_path(Path.cwd())
        os.environ.setdefault("PERDURE_SHOW_ERRORS", "true")
        target = load_target(options.module, debug=options.debug)
        with _owned(options.data_dir), contextlib.suppress(Interrupted):
            uvloop.run(_run(options, target, listener, say))


async def _run(options: Options, target: Target, listener: socket.socket, say: Say) -> None:
    interrupts = Interrupts()
    interrupts.listen()
    started = time.monotonic()
    async with AsyncExitStack() as stack:
        dsn = await stack.enter_async_context(_postgres(options, interrupts, say))
        settings = options.settings.model_copy(update={"dsn": SecretStr(dsn), "show_errors": True})
        os.environ["PERDURE_DSN"] = dsn
        os.environ["PERDURE_NAMESPACE"] = settings.namespace
        await interrupts.uninterrupted(
            asyncio.to_thread(upgrade_database, dsn, settings.namespace, is_pooled=settings.pooled)
        )
        await stack.enter_async_context(_ray(interrupts))
        await stack.enter_async_context(_hosts(options, target, dsn, interrupts))
        await interrupts.uninterrupted(
            stack.enter_async_context(
                connection(dsn, settings.namespace, codec=settings.codec, is_pooled=settings.pooled)
            )
        )
        app = application(target, settings)
        url = await interrupts.uninterrupted(stack.enter_async_context(serving(app, settings, listener=listener)))
        say(_summary(options, target, url=url, dsn=dsn, seconds=time.monotonic() - started))
        await interrupts.wait()


@contextmanager
def _owned(data_dir: Path) -> Generator[None]:
    """One dev server per directory. Raises Failure if another one runs there, or if it cannot be written."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        if not (data_dir / ".gitignore").exists():
            (data_dir / ".gitignore").write_text("*\n", encoding="ascii")
        lock = os.open(data_dir / "dev.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise Failure(
            "data_directory_unusable",
            f"cannot keep state in {data_dir}: {error.strerror} (run as its owner, or choose another --data-dir)",
            Exit.OTHER,
        ) from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pid = os.read(lock, 20).decode(errors="replace").strip()
            raise Failure(
                "already_running",
                f"another `perdure dev` uses {data_dir}, process {pid or '?'} (stop it, or choose another --data-dir)",
                Exit.CONFLICT,
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(lock)


@asynccontextmanager
async def _postgres(options: Options, interrupts: Interrupts, say: Say) -> AsyncGenerator[str]:
    """The DSN that was given, or an embedded server; if that dies it is started again."""
    if dsn := options.settings.dsn.get_secret_value():
        yield dsn
        return
    server = EmbeddedPostgres(options.data_dir / "postgres")
    say("Starting …" if (options.data_dir / "postgres").exists() else "Making a database; the next start is faster …")
    watch: asyncio.Task[None] | None = None
    try:
        await interrupts.uninterrupted(asyncio.to_thread(server.start))
        _spare(server, interrupts)
        watch = asyncio.create_task(_keep_alive(server, interrupts))
        yield server.dsn
    finally:
        if watch is not None:
            watch.cancel()
            await asyncio.wait({watch})
        await asyncio.to_thread(server.stop)


def _spare(server: EmbeddedPostgres, interrupts: Interrupts) -> None:
    """Its guard stops the server when we are gone; it must live for that."""
    with contextlib.suppress(psutil.Error):
        if server.is_owner and server.postmaster_pid is not None:
            guard = psutil.Process(server.postmaster_pid).ppid()
            interrupts.spared |= {guard, server.postmaster_pid} - {1, os.getpid()}


async def _keep_alive(server: EmbeddedPostgres, interrupts: Interrupts) -> None:
    while True:
        await asyncio.sleep(POSTGRES_LOOK_S)
        if server.is_alive():
            continue
        logger.warning("Postgres has died; starting it again")
        try:
            await asyncio.to_thread(server.start)
            _spare(server, interrupts)
        except Exception:
            logger.exception("Postgres does not start; trying again")
            await asyncio.sleep(POSTGRES_LOOK_S * 4)


@asynccontextmanager
async def _ray(interrupts: Interrupts) -> AsyncGenerator[None]:
    """A Ray cluster of our own on this machine, whatever other cluster runs here or is named in RAY_ADDRESS."""
    try:
        await interrupts.uninterrupted(asyncio.to_thread(_start_ray))
        interrupts.listen()
        yield
    finally:
        await asyncio.to_thread(_stop_ray, interrupts.spared)


def _start_ray() -> None:
    logging.getLogger("ray").setLevel(logging.ERROR)
    os.environ["RAY_ADDRESS"] = ""
    del os.environ["RAY_ADDRESS"]
    try:
        start_local()
    except Exception as error:
        text = " ".join(str(error).split())[:500]
        raise Failure(
            "ray_failed", f"Ray did not start: {text} (its logs are in /tmp/ray/session_latest/logs)", Exit.UNREACHABLE
        ) from error


def _stop_ray(spared: set[int]) -> None:
    if is_joined():
        leave()
    kill_below(os.getpid(), spared=spared)


@asynccontextmanager
async def _hosts(options: Options, target: Target, dsn: str, interrupts: Interrupts) -> AsyncGenerator[None]:
    namespace = options.settings.namespace
    try:
        await interrupts.unless_asked(
            up(
                dsn=dsn,
                namespace=namespace,
                entities=target.registry.names(),
                hosts=options.hosts,
                environment={"PYTHONPATH": os.environ["PYTHONPATH"]},
                codec=options.settings.codec,
                is_pooled=options.settings.pooled,
                release=_release(),
            )
        )
        yield
    finally:
        try:
            await down(dsn=dsn, namespace=namespace, is_pooled=options.settings.pooled, timeout_s=DOWN_S)
        except Exception as error:  # noqa: BLE001 - what is left is killed below; what is durable is safe
            logger.warning("the hosts did not stop in order: %s", error)


def _release() -> str:
    """Another one at each start: the hosts of a crashed dev server run old code."""
    return f"dev-{os.getpid()}-{time.time_ns():x}"


def _summary(options: Options, target: Target, *, url: str, dsn: str, seconds: float) -> str:
    types = ", ".join(definition.name for definition in target.registry)
    rows = [
        ("Gateway" if target.app is None else "Application", url),
        ("Console", f"{url}/console/" if options.settings.console else "-"),
        ("API docs", f"{url}/docs" if _has_docs(target.app) else "-"),
        ("Postgres", f"psql '{dsn}'" if not options.settings.dsn.get_secret_value() else "as given"),
        ("Hosts", f"{options.hosts} on a local Ray"),
        ("State", f"{options.data_dir}/" if not options.settings.dsn.get_secret_value() else "in that Postgres"),
    ]
    lines = [f"  {name:<12} {value}" for name, value in rows if value != "-"]
    return "\n".join(
        [
            "",
            f"Perdure is ready after {seconds:.1f} s: {types}",
            "",
            *lines,
            "",
            "Ctrl-C stops it; the state stays.",
            "",
        ]
    )


def _has_docs(app: Any) -> bool:
    return app is None or getattr(app, "docs_url", None) == "/docs"
