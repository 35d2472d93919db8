"""The installation that chaos is done to: everything a process of its own below this one, everything ended at the end.

                        clients ──┐ Ray
    HTTP clients ── 2 gateways ───┴── hosts (spread over 3 Ray nodes) ── proxy ── Postgres (on a small disk of its own)
                                        │
                                      witness (a file)

This process joins nothing: it looks through SQL, signals and files, so that it outlives every cluster.
"""

import asyncio
import contextlib
import ctypes
import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from campaigns.harness import NAMESPACE, HostSeen, NotHealed, Options, Scene
from campaigns.processes import ROOT, descendants, end_all, free_port, is_alive
from campaigns.verdict import Verdict
from perdure.cluster.embedded import EmbeddedPostgres
from perdure.cluster.postgres.migrations import upgrade
from perdure.cluster.settings import ClusterSettings

from . import clock
from .disk import SmallDisk, mount_small_disk
from .entities import ENTITIES, WITNESS
from .nodes import RayCluster, named
from .proxy import Line

HOSTS = 4
FURTHER_NODES = 2
GATEWAYS = 2
UP_S = 240.0
PATIENCE_S = 240.0
"""Whatever is not whole again by then never will be, on the slowest machine."""
SUPERVISOR, HOST = "ray::SupervisorActor", "ray::HostActor"
_SUBREAPER = 36


@dataclass(kw_only=True)
class World(Scene):
    """See the module. `open_world` makes one."""

    cluster: RayCluster
    disk: SmallDisk | None
    skipped: dict[str, str] = field(default_factory=dict[str, str])
    """Faults that cannot be done on this machine, with the reason."""
    proxy_port: int = 0
    proxy: Line = field(init=False)
    ports: list[int] = field(default_factory=list[int])
    """Of the gateways."""
    release: int = 1
    wanted_hosts: int = HOSTS
    rate: float = 150.0
    loads: dict[str, list[Path]] = field(default_factory=dict[str, list[Path]])
    generation: int = 0
    reminders: int = 100_000
    """How many come due at once in that fault."""
    violations: list[str] = field(default_factory=list[str])
    """What faults found wrong themselves."""

    @property
    def witness_file(self) -> Path:
        """Where the outside world writes down what was done to it."""
        return self.directory / "witness.jsonl"

    @property
    def proxied_dsn(self) -> str:
        """What hosts and supervisor are given."""
        return f"postgresql://perdure@127.0.0.1:{self.proxy_port}/perdure?sslmode=disable&gssencmode=disable"

    @property
    def op_files(self) -> list[Path]:
        """What clients wrote down."""
        return [path for paths in self.loads.values() for path in paths]

    # --- starting ---

    async def start(self) -> None:
        """Everything but the load."""
        self.proxy_port, control_port, witness_port = free_port(), free_port(), free_port()
        os.environ[WITNESS] = str(witness_port)
        socket = f"{self._socket_directory}/.s.PGSQL.5432"
        self.start_program("proxy", "chaos.proxy", str(self.proxy_port), socket, str(control_port))
        self.proxy = Line(control_port)
        self.start_program("witness", "chaos.witness", str(witness_port), str(self.witness_file))
        await self.cluster.start()
        await self.up()
        self.ports = [free_port() for _ in range(GATEWAYS)]
        await asyncio.gather(*(self.start_gateway_at(port) for port in self.ports))
        await self.until_whole()

    @property
    def _socket_directory(self) -> str:
        return self.dsn.partition("host=")[2].partition("&")[0]

    async def up(self) -> float:
        """What an operator does: `up()`, in a process of its own. Returns how long it took, seconds."""
        order = {
            "dsn": self.proxied_dsn,
            "namespace": NAMESPACE,
            "ray_address": self.cluster.address,
            "entities": ENTITIES,
            "hosts": self.wanted_hosts,
            "release": f"r{self.release}",
            "environment": {WITNESS: os.environ[WITNESS], **clock.environment(self.directory)},
            "settings": self.settings.model_dump(exclude_defaults=True),
            "timeout_s": UP_S,
        }
        began = time.monotonic()
        name = "control"
        program = self.start_program(name, "chaos.control", json.dumps(order))
        status = await asyncio.to_thread(program.wait, UP_S + 30)
        if status != 0:
            log = (self.directory / f"{name}.log").read_text(errors="replace")
            raise NotHealed(f"up() failed with status {status}: {log[-3000:]}")
        return time.monotonic() - began

    async def start_gateway_at(self, port: int) -> None:
        """A gateway; returns once it serves."""
        name = f"gateway-{port}"
        self.start_program(name, "chaos.gateway", str(port), **self.joining)
        await self.until_answers(name, f"http://127.0.0.1:{port}/livez")

    @property
    def joining(self) -> dict[str, str]:
        """Environment of processes that join as clients."""
        return {
            "PERDURE_DSN": self.dsn,
            "PERDURE_NAMESPACE": NAMESPACE,
            "PERDURE_RAY_ADDRESS": self.cluster.address,
        }

    # --- load ---

    async def start_load(self) -> None:
        """Two clients and one that speaks HTTP; returns once they work."""
        self.generation += 1
        shares = {"client-a": ("client", 0.35), "client-b": ("client", 0.35), "web": ("http", 0.3)}
        names: list[str] = []
        for name, (via, share) in shares.items():
            path = self.directory / f"ops-{name}-{self.generation}.jsonl"
            self.loads.setdefault(name, []).append(path)
            order = {
                "name": f"{name}{self.generation}", "via": via, "ports": self.ports, "seed": self.options.seed,
                "rate": self.rate * share, "file": str(path),
            }  # fmt: skip
            self.start_program(f"load-{name}", "chaos.load", json.dumps(order), **self.joining)
            names.append(f"load-{name}")

        async def are_working() -> bool:
            for name in names:
                if self.programs[name].poll() is not None:
                    raise NotHealed(f"{name} ended: {(self.directory / f'{name}.log').read_text()[-2000:]}")
            return all(paths[-1].exists() and paths[-1].stat().st_size > 0 for paths in self.loads.values())

        await self.until("clients work", are_working)

    async def stop_load(self, *, kill: bool = False) -> None:
        """SIGTERM and wait until what is under way is known; `kill`: do not wait."""
        programs = [program for name, program in self.programs.items() if name.startswith("load-")]
        for program in programs:
            program.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        await asyncio.gather(*(asyncio.to_thread(program.wait, 180) for program in programs))

    # --- looking ---

    async def until(self, what: str, condition: Callable[[], Awaitable[Any]], timeout_s: float = PATIENCE_S) -> Any:
        """See Scene; with more patience, since how long things take is measured anyway."""
        return await super().until(what, condition, max(timeout_s, PATIENCE_S))

    async def all_hosts(self) -> list[HostSeen]:
        """See Scene; the wanted number changes."""
        self.host_count = self.wanted_hosts
        return await super().all_hosts()

    async def supervisor_pid(self) -> int:
        """Pid of the supervisor, once there is one."""
        found = await self.until("a supervisor", self._supervisors)
        return int(found[-1].pid)

    async def _supervisors(self) -> list[psutil.Process]:
        return await asyncio.to_thread(named, SUPERVISOR)


@asynccontextmanager
async def open_world(
    verdict: Verdict, options: Options, *, rate: float, disk_mb: int, why_no_disk: str = ""
) -> AsyncGenerator[World]:
    """Everything up and whole; everything ended at the end. The directory is kept if the verdict is bad."""
    directory = Path(tempfile.mkdtemp(prefix="perdure-chaos-"))
    directory.chmod(0o755)  # Postgres runs as another user when we are root
    os.environ |= {"PYTHONPATH": os.pathsep.join([str(ROOT / ".links"), str(ROOT)])}
    ctypes.CDLL(None).prctl(_SUBREAPER, 1)  # orphans of killed Ray nodes become ours: they are seen, and ended
    disk = why_no_disk or mount_small_disk(directory, megabytes=disk_mb)
    place = directory if isinstance(disk, str) else disk.path
    postgres = EmbeddedPostgres(place / "postgres")
    world = World(
        options=options,
        host_count=HOSTS,
        directory=directory,
        postgres=postgres,
        settings=ClusterSettings(),
        rng=random.Random(options.seed),
        cluster=RayCluster(directory, FURTHER_NODES),
        disk=None if isinstance(disk, str) else disk,
        rate=rate,
    )
    if isinstance(disk, str):
        world.skipped["postgres disk full"] = disk
    if why_no_clock := clock.build(directory):
        world.skipped["clock step"] = why_no_clock
    is_left_over = True
    try:
        await asyncio.to_thread(postgres.start)
        await asyncio.to_thread(upgrade, world.dsn, NAMESPACE)
        await world.start()
        yield world
        is_left_over = options.keep or not verdict.is_ok
    finally:
        world.stop_programs()
        below = descendants()
        with contextlib.suppress(Exception):
            await asyncio.to_thread(postgres.stop)
        end_all(process for process in [*below, *descendants()] if is_alive(process))
        world.cluster.close()
        if is_left_over:
            _keep_logs(world)
        if world.disk is not None:
            world.disk.close()
        if not is_left_over:
            shutil.rmtree(directory, ignore_errors=True)


def _keep_logs(world: World) -> None:
    print(f"kept for a look: {world.directory}", flush=True)
    with contextlib.suppress(OSError):
        shutil.copy(world.postgres.log_path, world.directory / "postgres.log")
