"""A Ray cluster of several nodes on one machine, each a process tree of its own that can be killed.

Every node has its own loopback address. `ray start --block` stays in front as what a service manager would watch: when
one of its processes dies, it ends the rest of the node. `ray stop` is never used: it would end everybody's.
"""

import asyncio
import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from campaigns.processes import end_all, free_port, is_alive, strike, until_gone

START_S = 150.0
OBJECT_STORE_BYTES = 78_643_200  # the least that Ray takes
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_worker_niceness": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_raylet_start_wait_time_s": "120",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_enable_worker_prestart": "0",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Nodes that have lost their head end themselves after so long; by default a minute.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "20",
    # A node that says nothing for so long is dead to Ray; its own defaults are tens of seconds.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
SUSPECTED_DEAD_S = 9.0
"""After so long without an answer Ray has declared a node dead, by the settings above."""


class NodeFailed(Exception):
    """A Ray node did not come up."""


@dataclass
class Node:
    """One node: the process in front, and what is below it."""

    name: str
    ip: str
    front: psutil.Popen
    log: Path

    @property
    def processes(self) -> list[psutil.Process]:
        """Everything of this node that still lives."""
        if not is_alive(self.front):
            return []
        with contextlib.suppress(psutil.NoSuchProcess):
            return [process for process in self.front.children(recursive=True) if is_alive(process)]
        return []

    def process(self, name: str) -> psutil.Process | None:
        """The process of that executable: `raylet`, `gcs_server`."""
        for process in self.processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.name() == name:
                    return process
        return None


@dataclass
class RayCluster:
    """A head and some further nodes."""

    directory: Path
    """For logs of ours."""
    count: int
    """Further nodes."""
    generation: int = 0
    started: int = 0
    """Nodes, ever."""
    address: str = ""
    nodes: list[Node] = field(default_factory=list[Node])

    def __post_init__(self) -> None:
        os.environ.update(ENVIRONMENT)
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        os.environ.pop("RAY_ADDRESS", None)
        self.sessions = Path(tempfile.mkdtemp(prefix="chaos-ray-"))  # sockets need a short path

    @property
    def head(self) -> Node:
        """The node with the GCS."""
        return self.nodes[0]

    async def start(self) -> None:
        """A new cluster, at a new address."""
        self.generation += 1
        port = free_port()
        ip = f"127.0.{self.generation}.1"
        self.address = f"{ip}:{port}"
        self.nodes = [self._spawn("head", ip, "--head", f"--port={port}", "--include-dashboard=false",
                                  f"--temp-dir={self.sessions / str(self.generation)}")]  # fmt: skip
        await self._until_up(self.nodes[0])
        for number in range(1, self.count + 1):
            await self.start_node(number)

    async def start_node(self, number: int) -> Node:
        """Have node `number` (from 1) run in this cluster."""
        node = self._spawn(f"node-{number}", f"127.0.{self.generation}.{number + 1}", f"--address={self.address}")
        self.nodes = [other for other in self.nodes if other.name != node.name] + [node]
        await self._until_up(node)
        return node

    def _spawn(self, name: str, ip: str, *arguments: str) -> Node:
        self.started += 1
        log = self.directory / f"ray-{self.generation}-{name}-{self.started}.log"
        script = str(Path(sys.executable).with_name("ray"))
        with log.open("ab") as output:
            front = psutil.Popen(
                [script, "start", "--block", f"--node-ip-address={ip}", "--num-cpus=0", "--disable-usage-stats",
                 "--include-log-monitor=false",
                 f"--object-store-memory={OBJECT_STORE_BYTES}", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )  # fmt: skip
        return Node(name, ip, front, log)

    async def _until_up(self, node: Node) -> None:
        deadline = time.monotonic() + START_S
        while b"Ray runtime started" not in node.log.read_bytes():
            if not is_alive(node.front) or time.monotonic() > deadline:
                raise NodeFailed(f"{node.name} did not start: {node.log.read_text(errors='replace')[-2000:]}")
            await asyncio.sleep(0.1)

    async def end(self, nodes: list[Node] | None = None) -> list[int]:
        """SIGKILL for everything of these nodes (default: all); returns the pids. The operator's way to be sure."""
        victims = self.nodes if nodes is None else nodes
        below = [process for node in victims for process in node.processes]
        processes = [*(node.front for node in victims), *below]
        strike(processes)
        await until_gone(processes)
        for node in victims:
            with contextlib.suppress(psutil.TimeoutExpired):
                node.front.wait(5)
        self.nodes = [node for node in self.nodes if node not in victims]
        return [process.pid for process in processes]

    def close(self) -> None:
        """End everything, at the end of it all."""
        end_all([process for node in self.nodes for process in [*node.processes, node.front]])
        shutil.rmtree(self.sessions, ignore_errors=True)

    def node_of(self, pid: int) -> Node | None:
        """On which node that process runs."""
        for node in self.nodes:
            if any(process.pid == pid for process in node.processes):
                return node
        return None


def named(title: str) -> list[psutil.Process]:
    """Ray workers below this process that call themselves that, e.g. `ray::SupervisorActor`."""
    found: list[psutil.Process] = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error, IndexError):
            if process.cmdline()[0].startswith(title) and is_alive(process):
                found.append(process)
    return found
