"""A whole installation for one campaign, the faults that can be done to it, and the proof that they were.

Postgres (embedded, on disk, fsync on), a local Ray, hosts and a supervisor as `perdure.cluster.connect.up` starts
them, a client in this process; on request also the gateway and the outside services as processes of their own.
Everything is below this process and is ended by pid at the end, whatever happened.
"""

import asyncio
import contextlib
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import ray
from psycopg.rows import dict_row
from ray._private import worker

from perdure.cluster import ray_runtime
from perdure.cluster.actors import ensure_supervisor
from perdure.cluster.addresses import HostAddress, supervisor_actor
from perdure.cluster.client import Connection
from perdure.cluster.connect import connect, up
from perdure.cluster.embedded import EmbeddedPostgres
from perdure.cluster.postgres.migrations import upgrade
from perdure.cluster.ray_runtime import Handle, submit
from perdure.cluster.settings import ClusterSettings
from perdure.cluster.supervisor import SupervisorSpec

from .processes import ROOT, descendants, end_all, find, free_port, is_alive, start_module, strike, until_gone
from .verdict import Verdict

NAMESPACE = "campaign"
HEAL_S = 90.0
"""How long anything may take to be whole again after a fault; longer is a violation."""
SQL_PATIENCE_S = 30.0

Row = dict[str, Any]


class NotHealed(Exception):
    """What a fault broke has not come back in time."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line said."""

    seed: int
    rounds: int | None = None
    seconds: float | None = None
    hosts: int | None = None
    rate: float | None = None
    keep: bool = False
    """Keep the directory with the database, also after success."""


@dataclass(frozen=True, kw_only=True)
class HostSeen:
    """A live host as the directory shows it."""

    incarnation: str
    pid: int
    address: str
    shards: tuple[int, ...]

    @property
    def actor(self) -> str:
        """The name of its Ray actor."""
        return HostAddress.parse(self.address).actor


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something that was done, with what proves it."""

    kind: str
    at: float
    pids: tuple[int, ...]
    hosts: tuple[HostSeen, ...] = ()


@dataclass
class Scene:
    """See the module. `open_scene` makes one."""

    options: Options
    host_count: int
    directory: Path
    postgres: EmbeddedPostgres
    settings: ClusterSettings
    rng: random.Random
    faults: list[Fault] = field(default_factory=list)
    programs: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    proofs: dict[str, list[str]] = field(default_factory=dict)
    client: Connection = field(init=False)
    gateway_port: int = 0

    @property
    def dsn(self) -> str:
        """The campaign's database."""
        return self.postgres.dsn

    # --- looking ---

    async def sql(self, query: str, *parameters: object) -> list[Row]:
        """Rows of a query in the campaign's schema; waits out a Postgres that is down."""
        deadline = time.monotonic() + SQL_PATIENCE_S
        while True:
            try:
                async with await psycopg.AsyncConnection[Row].connect(
                    self.dsn, options=f"-c search_path={NAMESPACE}", row_factory=dict_row, autocommit=True
                ) as connection:
                    cursor = await connection.execute(query.encode(), parameters or None)
                    return await cursor.fetchall()
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.1)

    async def hosts(self) -> list[HostSeen]:
        """Hosts that are active in the directory and whose process lives."""
        rows = await self.sql(
            """select incarnation, pid, address, array(select shard from shards where owner = incarnation order by 1)
            as shards from hosts where status = 'active' order by incarnation"""
        )
        return [
            HostSeen(
                incarnation=row["incarnation"], pid=row["pid"], address=row["address"], shards=tuple(row["shards"])
            )
            for row in rows
            if find(row["pid"]) is not None
        ]

    async def all_hosts(self) -> list[HostSeen]:
        """The hosts, once the wanted number of them lives and they own all shards, about evenly; else none."""
        hosts = await self.hosts()
        [row] = await self.sql("select count(*) from shards")
        owned = [len(host.shards) for host in hosts]
        is_whole = len(hosts) == self.host_count and sum(owned) == row["count"]
        return hosts if is_whole and 2 * min(owned) >= row["count"] // len(owned) else []

    async def until(self, what: str, condition: Callable[[], Awaitable[Any]], timeout_s: float = HEAL_S) -> Any:
        """Wait for something; returns its first true value. Raises NotHealed."""
        deadline = time.monotonic() + timeout_s
        while True:
            value = await condition()
            if value:
                return value
            if time.monotonic() > deadline:
                raise NotHealed(f"not within {timeout_s:g} s: {what}")
            await asyncio.sleep(0.05)

    async def until_whole(self) -> list[HostSeen]:
        """Wait until all hosts are there again. Raises NotHealed."""
        hosts: list[HostSeen] = await self.until("all hosts live and own all shards", self.all_hosts)
        return hosts

    async def actor(self, name: str) -> Handle:
        """A Ray actor by name."""
        handle = await ray_runtime.find(name)
        assert handle is not None, f"Ray knows no actor {name}"
        return handle

    async def stats(self, host: HostSeen) -> dict[str, int]:
        """A host's own counters."""
        return dict(await submit(await self.actor(host.actor), "stats"))

    # --- faults ---

    def note(self, kind: str, at: float, pids: Sequence[int], hosts: Sequence[HostSeen] = ()) -> Fault:
        """Write a fault down."""
        fault = Fault(kind=kind, at=at, pids=tuple(pids), hosts=tuple(hosts))
        self.faults.append(fault)
        return fault

    def prove(self, kind: str, before: object, after: object) -> None:
        """Write down what shows that a fault happened."""
        self.proofs.setdefault(kind, []).append(f"{before} → {after}")

    async def kill_hosts(self, kind: str, victims: Sequence[HostSeen]) -> Fault:
        """SIGKILL; returns once the processes are gone."""
        processes = [process for host in victims if (process := find(host.pid)) is not None]
        at = strike(processes)
        await until_gone(processes)
        return self.note(kind, at, [process.pid for process in processes], victims)

    async def kill_one_host(self) -> Fault:
        """SIGKILL for one host by chance."""
        hosts = await self.until("a host to kill", self.hosts)
        return await self.kill_hosts("host", [self.rng.choice(hosts)])

    async def kill_all_hosts(self) -> Fault:
        """SIGKILL for every host."""
        return await self.kill_hosts("all hosts", await self.until("hosts to kill", self.hosts))

    async def heal_hosts(self, fault: Fault) -> None:
        """Wait until others have taken their places."""
        pids = [host.pid for host in await self.until_whole()]
        assert not set(pids) & set(fault.pids), f"killed {fault.pids}, alive {pids}"
        self.prove(fault.kind, fault.pids, pids)

    async def supervisor_pid(self) -> int:
        """Pid of the supervisor, started if there is none."""
        handle = await ensure_supervisor(SupervisorSpec(dsn=self.dsn, namespace=NAMESPACE))
        return int(await submit(handle, "poke"))

    async def kill_supervisor(self) -> None:
        """SIGKILL for the supervisor; returns once there is another one, not started by us."""
        pid = await self.supervisor_pid()
        process = find(pid)
        assert process is not None
        self.note("supervisor", strike([process]), [pid])
        await until_gone([process])

        async def successor() -> int:
            handle = await ray_runtime.find(supervisor_actor(NAMESPACE))
            with contextlib.suppress(Exception):
                if handle is not None:
                    async with asyncio.timeout(5):
                        return int(await submit(handle, "poke"))
            return 0

        self.prove("supervisor", pid, await self.until("another supervisor", successor))

    async def kill_postgres(self) -> None:
        """SIGKILL for the postmaster and all its children, then a start that recovers."""
        pid = self.postgres.postmaster_pid
        assert pid is not None
        postmaster = psutil.Process(pid)
        children = postmaster.children(recursive=True)
        at = strike([postmaster, *children])
        await until_gone([postmaster, *children])
        self.note("postgres", at, [pid, *(child.pid for child in children)])
        await asyncio.to_thread(self.postgres.start)
        log = self.postgres.log_path.read_text(errors="replace")
        assert self.postgres.postmaster_pid not in (pid, None)
        recoveries = log.count("database system was not properly shut down")
        self.prove(
            "postgres",
            f"{pid} and {len(children)} children",
            f"{self.postgres.postmaster_pid} (recovery {recoveries} in its log)",
        )

    # --- programs of our own ---

    def start_program(self, name: str, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start a Python module as a process; its output goes to a file in the directory."""
        self.programs[name] = program = start_module(self.directory / f"{name}.log", *command, **environment)
        return program

    async def until_answers(self, name: str, url: str, timeout_s: float = HEAL_S) -> None:
        """Wait until that program answers there with success. Raises NotHealed."""

        async def answers() -> bool:
            program = self.programs[name]
            if program.poll() is not None:
                log = (self.directory / f"{name}.log").read_text(errors="replace")
                raise NotHealed(f"{name} ended with status {program.returncode}: {log[-2000:]}")
            with contextlib.suppress(httpx.HTTPError):
                return (await http.get(url)).is_success
            return False

        async with httpx.AsyncClient(timeout=2) as http:
            await self.until(f"{name} answers at {url}", answers, timeout_s)

    async def start_gateway(self) -> None:
        """Food delivery's web application; returns once it serves."""
        self.gateway_port = self.gateway_port or free_port()
        self.start_program(
            "gateway",
            "campaigns.gateway",
            str(self.gateway_port),
            PERDURE_DSN=self.dsn,
            PERDURE_NAMESPACE=NAMESPACE,
            PERDURE_RAY_ADDRESS=ray_address(),
        )
        await self.until_answers("gateway", f"http://127.0.0.1:{self.gateway_port}/products")

    async def kill_gateway(self) -> None:
        """SIGKILL for the gateway; returns once another one serves."""
        before = self.programs["gateway"]
        self.note("gateway", strike([psutil.Process(before.pid)]), [before.pid])
        status = await asyncio.to_thread(before.wait, 20)
        assert status == -signal.SIGKILL
        await self.start_gateway()
        self.prove("gateway", before.pid, self.programs["gateway"].pid)

    def stop_programs(self) -> None:
        """End what start_program started."""
        for program in self.programs.values():
            if program.poll() is None:
                program.kill()
                program.wait()


def ray_address() -> str:
    """Where others join this process's Ray cluster."""
    return str(ray.get_runtime_context().gcs_address)


def ray_logs() -> str:
    """Where this process's Ray cluster writes what hosts and supervisor say."""
    node: Any = worker.global_worker.node
    return f"{node.get_session_dir_path()}/logs"


@asynccontextmanager
async def open_scene(
    verdict: Verdict,
    options: Options,
    *,
    entities: Sequence[str],
    hosts: int = 2,
    settings: ClusterSettings | None = None,
    engine: dict[str, Any] | None = None,
    environment: dict[str, str] | None = None,
) -> AsyncGenerator[Scene]:
    """Everything up and whole; everything ended at the end. The database is kept if the verdict is bad."""
    directory = Path(tempfile.mkdtemp(prefix="perdure-campaign-"))
    directory.chmod(0o755)  # Postgres runs as another user when we are root
    os.environ |= {"PYTHONPATH": os.pathsep.join([str(ROOT / ".links"), str(ROOT)]), **(environment or {})}
    settings = settings or ClusterSettings()
    postgres = EmbeddedPostgres(directory / "postgres")
    scene = Scene(options, options.hosts or hosts, directory, postgres, settings, random.Random(options.seed))
    below: list[psutil.Process] = []
    is_left_over = True
    logs = "none"
    try:
        await asyncio.to_thread(postgres.start)
        await asyncio.to_thread(upgrade, scene.dsn, NAMESPACE)
        ray_runtime.start_local()
        logs = ray_logs()
        await up(
            dsn=scene.dsn,
            namespace=NAMESPACE,
            entities=entities,
            hosts=scene.host_count,
            engine=engine,
            settings=settings,
        )
        scene.client = await connect(dsn=scene.dsn, namespace=NAMESPACE, settings=settings)
        await scene.until_whole()
        try:
            yield scene
        finally:
            await scene.client.close()
        is_left_over = options.keep or not verdict.is_ok
    finally:
        scene.stop_programs()
        below = descendants()
        await asyncio.to_thread(_stop_ray)
        await asyncio.to_thread(postgres.stop)
        end_all(process for process in [*below, *descendants()] if is_alive(process))
        if is_left_over:
            print(f"kept for a look: {directory}; logs of hosts: {logs}", flush=True)
        else:
            shutil.rmtree(directory, ignore_errors=True)


def _stop_ray() -> None:
    if ray_runtime.is_joined():
        ray_runtime.leave()


def check_faults(verdict: Verdict, scene: Scene, wanted: dict[str, int]) -> None:
    """Whether every planned fault happened, and shows."""
    for kind, count in wanted.items():
        proofs = scene.proofs.get(kind, [])
        verdict.holds(f"faults: {kind}", len(proofs) == count, f"{len(proofs)} of {count}, e.g. pid {proofs[:1]}")
