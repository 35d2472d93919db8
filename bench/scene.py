"""What is measured: Postgres with fsync on, a local Ray, hosts, a client in this process, a gateway in one of its own.

Everything is below this process and ends with it. Nothing is tuned for the benchmark: the settings are the defaults,
except for what a workload says (how soon entities leave memory).
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import psycopg

from campaigns.processes import ROOT, start_module
from perdure.cluster import ray_runtime
from perdure.cluster.addresses import HostAddress
from perdure.cluster.client import Connection
from perdure.cluster.connect import connect, down, up
from perdure.cluster.embedded import EmbeddedPostgres
from perdure.cluster.postgres.migrations import upgrade

from .entities import ENTITIES
from .usage import postgres_pids

NAMESPACE = "bench"
PATIENCE_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What should run."""

    hosts: int = 2
    idle_s: float = 3_600.0
    """No entity leaves memory in the middle of a measurement, unless that is what is measured."""


@dataclass
class Scene:
    """See the module. `open_scene` makes one."""

    dsn: str
    directory: Path
    postmaster: int | None
    """None if the database is somebody else's server."""
    cluster: Cluster
    client: Connection = field(init=False)
    programs: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    releases: "count[int]" = field(default_factory=lambda: count(1))
    keys: "count[int]" = field(default_factory=lambda: count(time.time_ns()))
    """Keys that no run has used, in this process or an earlier one on the same database."""

    # --- the cluster ---

    async def use(self, cluster: Cluster) -> None:
        """Have that cluster run; hosts that run already are left alone."""
        if cluster != self.cluster:
            self.cluster = cluster
            await self.up()

    async def up(self, *, release: str = "") -> None:
        """Returns when the hosts run and own all shards."""
        await up(
            dsn=self.dsn,
            namespace=NAMESPACE,
            entities=ENTITIES,
            hosts=self.cluster.hosts,
            engine={"idle_s": self.cluster.idle_s},
            release=release,
        )

    async def renew_hosts(self) -> None:
        """Replace every host in order: whatever was in memory is in Postgres only."""
        await self.up(release=f"bench-{next(self.releases)}")

    async def kill_hosts(self) -> None:
        """SIGKILL for every host; returns at once."""
        for pid in await self.host_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def host_pids(self) -> list[int]:
        """The processes that the directory takes for alive."""
        rows = await self.sql("select pid from hosts where status in ('active', 'draining') order by incarnation")
        return [row[0] for row in rows]

    async def until_whole(self, *, without: Sequence[int] = ()) -> None:
        """Wait until live hosts, none of them among `without`, own all shards."""
        deadline = time.monotonic() + PATIENCE_S
        owned = """select count(*) filter (where h.incarnation is null) from shards s
            left join hosts h on h.incarnation = s.owner and h.status = 'active' and not h.pid = any(%s)"""
        while (await self.sql(owned, list(without)))[0][0]:
            if time.monotonic() > deadline:
                raise TimeoutError("the hosts have not come back")
            await asyncio.sleep(0.02)

    async def stats(self) -> dict[str, int]:
        """The counters of all hosts together."""
        total: dict[str, int] = {}
        for (address,) in await self.sql("select address from hosts where status = 'active'"):
            actor = await ray_runtime.find(HostAddress.parse(address).actor)
            assert actor is not None
            for name, value in (await ray_runtime.submit(actor, "stats")).items():
                total[name] = total.get(name, 0) + value
        return total

    async def until_asleep(self) -> None:
        """Wait until no entity is in memory."""
        deadline = time.monotonic() + PATIENCE_S
        while (await self.stats())["activations"]:
            if time.monotonic() > deadline:
                raise TimeoutError("entities do not leave memory")
            await asyncio.sleep(0.2)

    # --- the database ---

    async def sql(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Rows of a query in the schema of the hosts."""
        async with await psycopg.AsyncConnection.connect(
            self.dsn, options=f"-c search_path={NAMESPACE},public", autocommit=True
        ) as connection:
            cursor = await connection.execute(query.encode(), parameters or None)
            return await cursor.fetchall() if cursor.description else []

    async def wal_bytes(self) -> int:
        """Bytes of write-ahead log that the server has written since it was made."""
        return int((await self.sql("select pg_current_wal_insert_lsn() - '0/0'::pg_lsn"))[0][0])

    async def stored_bytes(self) -> int:
        """Bytes on disk of all tables and indexes of the namespace."""
        tables = "from pg_class where relkind = 'r' and relnamespace = %s::regnamespace"
        return int((await self.sql(f"select sum(pg_total_relation_size(oid)) {tables}", NAMESPACE))[0][0])

    # --- processes ---

    def start_program(self, name: str, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start a Python module as a process; its output goes to a file in the directory."""
        self.programs[name] = program = start_module(self.directory / f"{name}.log", *command, **environment)
        return program

    async def start_server(self, name: str, *command: str, **environment: str) -> int:
        """The same for a server; returns the port that it writes into its file, once it serves."""
        port_file = self.directory / f"{name}.port"
        port_file.unlink(missing_ok=True)
        program = self.start_program(name, *command, str(port_file), **environment)
        deadline = time.monotonic() + PATIENCE_S
        while not port_file.exists() or not (text := port_file.read_text()).endswith("\n"):
            if program.poll() is not None or time.monotonic() > deadline:
                log = (self.directory / f"{name}.log").read_text(errors="replace")
                raise RuntimeError(f"{name} does not serve: {log[-2_000:]}")
            await asyncio.sleep(0.05)
        return int(text)

    async def gateway_port(self) -> int:
        """Of the gateway, which is started if it does not run."""
        if "gateway" not in self.programs:
            await self.start_server(
                "gateway",
                "bench.gateway",
                PERDURE_DSN=self.dsn,
                PERDURE_NAMESPACE=NAMESPACE,
                PERDURE_RAY_ADDRESS=ray_runtime.gcs_address(),
            )
        return int((self.directory / "gateway.port").read_text())

    def stop_program(self, name: str) -> None:
        """End what start_program started under that name."""
        program = self.programs.pop(name)
        program.terminate()
        try:
            program.wait(10)
        except subprocess.TimeoutExpired:
            program.kill()
            program.wait()

    def stop_programs(self) -> None:
        """End all of them."""
        for name in list(self.programs):
            self.stop_program(name)

    async def sides(self) -> dict[str, list[int]]:
        """Who works: processes by what they are."""
        gateway = self.programs.get("gateway")
        return {
            "client": [os.getpid()],
            "gateway": [gateway.pid] if gateway is not None else [],
            "hosts": await self.host_pids(),
            "postgres": postgres_pids(self.postmaster) if self.postmaster is not None else [],
        }


@asynccontextmanager
async def open_scene(dsn: str | None = None, *, hosts: int = 2, has_statistics: bool = False) -> AsyncGenerator[Scene]:
    """Everything up; everything ended at the end.

    dsn: use this Postgres instead of an embedded one. has_statistics: with pg_stat_statements, where there is one.
    """
    os.environ |= {"PYTHONPATH": os.pathsep.join([str(ROOT / ".links"), str(ROOT)])}
    async with contextlib.AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="perdure-bench-", dir=_data_root())))
        directory.chmod(0o755)  # as root, Postgres runs under another account
        postmaster = None
        if dsn is None:
            server = EmbeddedPostgres(directory / "postgres")
            await asyncio.to_thread(server.start)
            stack.push_async_callback(asyncio.to_thread, server.stop)
            if has_statistics and await _wants_restart(server.dsn):
                await asyncio.to_thread(server.stop)
                await asyncio.to_thread(server.start)
            dsn, postmaster = server.dsn, server.postmaster_pid
        await asyncio.to_thread(upgrade, dsn, NAMESPACE)
        scene = Scene(dsn, directory, postmaster, Cluster(hosts=hosts))
        ray_runtime.start_local()
        stack.callback(ray_runtime.leave)
        stack.push_async_callback(down, dsn=dsn, namespace=NAMESPACE)
        await scene.up()
        scene.client = await connect(dsn=dsn, namespace=NAMESPACE)
        stack.push_async_callback(scene.client.close)
        stack.callback(scene.stop_programs)
        yield scene


async def _wants_restart(dsn: str) -> bool:
    """Have pg_stat_statements loaded from the next start on; False if the server comes without it."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        available = "select from pg_available_extensions where name = 'pg_stat_statements'"
        if await (await connection.execute(available)).fetchone() is None:
            return False
        await connection.execute("alter system set shared_preload_libraries = 'pg_stat_statements'")
        await connection.execute("create extension if not exists pg_stat_statements schema public")
    return True


def _data_root() -> str:
    """A real disk: /tmp may be memory, and then a commit costs nothing."""
    return "/var/tmp" if Path("/var/tmp").is_dir() else tempfile.gettempdir()
