"""The Ray actors: nothing but names, options and hand-over to host.py and supervisor.py.

Hosts: one process per incarnation, never restarted by Ray (a restarted one would be a stranger with a known name), no
task retries (the router retries, by message id), no task events (one per call would cost more than the call). Both
are detached: they belong to the namespace, not to whoever started them.

Constructors are coroutines: they run on the actor's event loop, before any other method.
"""

import asyncio
import gc
import os
import random
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from ..entities import logs
from ..entities.ids import EntityId
from ..entities.metrics import encode_reading
from .addresses import host_actor, supervisor_actor
from .follow import follow_supervisor
from .host import EXIT_RETIRED, Host, HostSpec, Surroundings
from .link import Send
from .orphans import end_with_parent
from .ray_runtime import Handle, Handles, end_this_actor, find, node_id, spawn, submit, tell, this_actor
from .supervisor import Supervisor, SupervisorSpec
from .targets import Targets

EXIT_PATIENCE_S = 3.0
"""A host that has left and whose process is still there after so long is ended from within."""

_OPTIONS: dict[str, Any] = {
    "lifetime": "detached",
    "num_cpus": 0,
    "max_task_retries": 0,
    "max_concurrency": 10_000,  # calls open at once; links park a few each
    "enable_task_events": False,
}


class HostActor:
    """See host.py."""

    async def __init__(self, spec: bytes) -> None:  # type: ignore[misc]  # Ray awaits it
        parsed = HostSpec.model_validate_json(spec)
        end_with_parent()
        logs.configure(process="host", host=parsed.incarnation, namespace=parsed.namespace)
        self._over = asyncio.Event()
        self._host = Host(parsed, _surroundings(parsed, self._over))
        await self._host.start()
        gc.collect()
        gc.freeze()  # modules live as long as the process: no collection needs to walk them again

    async def exchange(self, data: bytes) -> bytes:
        return await self._host.exchange(data)

    async def wake(self, data: bytes) -> None:
        self._host.wake(data)

    async def settle(self) -> None:
        self._host.settle()

    async def serve(self, type_name: str, key: str, operation: str, argument: bytes) -> bytes:
        return await self._host.serve(EntityId(type_name, key), operation, argument)

    async def drain(self) -> None:
        await self._host.drain()

    async def stats(self) -> dict[str, int]:
        return self._host.stats() | {"pid": os.getpid()}

    async def metrics(self) -> bytes:
        return encode_reading(self._host.reading())

    async def watch(self) -> None:
        """Returns when the host has left, and breaks when it dies."""
        await self._over.wait()

    async def leave(self) -> None:
        """End the process. Only the host itself calls this, when it has handed everything over."""
        end_this_actor()


class SupervisorActor:
    """See supervisor.py. Ray may restart it: it keeps nothing."""

    async def __init__(self, spec: bytes) -> None:  # type: ignore[misc]  # Ray awaits it
        parsed = SupervisorSpec.model_validate_json(spec)
        end_with_parent()
        logs.configure(process="supervisor", namespace=parsed.namespace)
        self._supervisor = Supervisor(parsed, lambda incarnation, targets: spawn_host(parsed, incarnation, targets))
        self._supervisor.start()

    async def routes(self, since: str) -> bytes:
        return await self._supervisor.routes(since)

    async def poke(self) -> int:
        self._supervisor.poke()
        return os.getpid()

    async def failures(self) -> tuple[int, str]:
        return self._supervisor.failures()


def spawn_host(spec: SupervisorSpec, incarnation: str, targets: Targets) -> Handle:
    """Start a host process; where is Ray's choice, spread over the nodes."""
    host = HostSpec(
        dsn=spec.dsn,
        namespace=spec.namespace,
        is_pooled=spec.is_pooled,
        incarnation=incarnation,
        targets=targets,
    )
    environment: dict[str, Any] = {"runtime_env": {"env_vars": targets.environment}} if targets.environment else {}
    return spawn(
        HostActor,
        host.model_dump_json().encode(),
        name=host_actor(spec.namespace, incarnation),
        max_restarts=0,
        scheduling_strategy="SPREAD",
        **_OPTIONS,
        **environment,
    )


async def ensure_supervisor(spec: SupervisorSpec) -> Handle:
    """The supervisor of the namespace; started if there is none. Raises if it does not come up."""
    name = supervisor_actor(spec.namespace)
    for attempt in range(20):
        handle = await find(name)
        try:
            if handle is None:
                state = spec.model_dump_json().encode()
                handle = spawn(SupervisorActor, state, name=name, max_restarts=-1, **_OPTIONS)
            async with asyncio.timeout(30):
                await submit(handle, "poke")
            return handle
        except Exception:  # the name is taken by now, or the actor of that name is dying
            if attempt == 19:
                raise
            await asyncio.sleep(random.uniform(0.05, 0.3))  # noqa: S311 - several may be trying
    raise AssertionError("unreachable")


def host_connector(handles: Handles) -> Callable[[str], Awaitable[Send]]:
    """How a router reaches hosts: actor name → a function that makes one exchange call."""

    async def connect_host(actor: str) -> Send:
        handle = await handles.get(actor)
        if handle is None:
            raise LookupError(f"Ray knows no actor {actor!r}")
        handles.forget(actor)  # the link keeps it; a new link looks it up again
        return lambda data: submit(handle, "exchange", data)

    return connect_host


def host_metrics(handles: Handles) -> Callable[[str], Awaitable[bytes]]:
    """How a gateway asks hosts for their metrics: actor name → an encoded reading."""

    async def ask(actor: str) -> bytes:
        handle = await handles.get(actor)
        if handle is None:
            raise LookupError(f"Ray knows no actor {actor!r}")
        try:
            return bytes(await submit(handle, "metrics"))
        except Exception:
            handles.forget(actor)
            raise

    return ask


def supervisor_poker(namespace: str) -> Callable[[float], Awaitable[bool]]:
    """How a gateway tells the supervisor to look now: a time limit in s → whether there is one, and it answered."""
    name = supervisor_actor(namespace)
    handles = Handles()

    async def poke(timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                handle = await handles.get(name)
                if handle is not None:
                    await submit(handle, "poke")
        except Exception:  # noqa: BLE001 - it is dead, or Ray is away
            handles.forget(name)  # the next one has another handle
            return False
        return handle is not None

    return poke


def _exit(code: int, over: asyncio.Event) -> None:
    """In order, so that Ray does not mourn; but interpreters have been seen to hang on their way out."""
    if code != EXIT_RETIRED:
        os._exit(code)
    over.set()
    watchdog = threading.Timer(EXIT_PATIENCE_S, os._exit, (code,))
    watchdog.daemon = True
    watchdog.start()
    tell(this_actor(), "leave")


def _surroundings(spec: HostSpec, over: asyncio.Event) -> Surroundings:
    supervisor = SupervisorSpec(dsn=spec.dsn, namespace=spec.namespace, is_pooled=spec.is_pooled)
    name = supervisor_actor(spec.namespace)
    supervisors = Handles()

    async def ensure() -> None:
        if await find(name) is None:
            await ensure_supervisor(supervisor)

    def changed() -> None:
        async def poke() -> None:
            handle = await supervisors.get(name)
            if handle is not None:
                submit(handle, "poke").add_done_callback(
                    lambda call: supervisors.forget(name) if not call.cancelled() and call.exception() else None
                )

        task = asyncio.get_running_loop().create_task(poke())
        _background.add(task)
        task.add_done_callback(_background.discard)

    return Surroundings(
        node=node_id(),
        handles=Handles(),
        connect_host=host_connector(Handles()),
        watch_supervisor=lambda routes: follow_supervisor(name, routes),
        supervisor_changed=changed,
        ensure_supervisor=ensure,
        exit_process=lambda code: _exit(code, over),
    )


_background: set[asyncio.Task[None]] = set()
