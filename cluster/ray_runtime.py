"""Every call of Ray that is not a decorator, with types. Ray runs processes and carries bytes; it decides nothing.

Blocking calls (`ray.init`, `ray.get_actor`) go through threads where an event loop is running.
"""

import asyncio
import logging
import os
import secrets
import sys
from collections.abc import Callable
from typing import Any, NewType

# Ray prints a paragraph on the driver for every process that ends, expected or not; read when Ray is imported.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "A worker died or was killed")

import ray
from ray.actor import exit_actor
from ray.exceptions import ActorDiedError, RayError

from ..entities.errors import StartRefused, Unavailable
from .addresses import RAY_NAMESPACE

log = logging.getLogger("perdure.ray")

Handle = NewType("Handle", object)
"""A Ray actor handle."""

_MISMATCH = "Version mismatch:"
"""With this Ray begins what it says about other versions of Python or of itself."""

OBJECT_STORE_BYTES = 80 * 1024 * 1024
"""Messages travel inline; Ray's own default would be a third of the memory."""

_LOOPBACK = "127.0.0.2" if sys.platform == "linux" else "127.0.0.1"
"""Address of the local cluster's only node. Given 127.0.0.1, Ray takes the machine's outer address instead."""

_LOCAL_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_memory_monitor_refresh_ms": "0",  # it would kill hosts when something else fills the machine
    "RAY_worker_niceness": "0",  # hosts are the work here; Ray's 15 starves them beside a busy web server
    "RAY_enable_metrics_collection": "0",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def start_local(*, num_cpus: int | None = None) -> None:
    """Start a Ray cluster of this machine, owned by this process; it ends with `stop_local()` or the process."""
    for name, value in _LOCAL_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Ray's processes listen on every interface, whatever address they announce, and run whatever they are sent.
    # With a token in the environment and no mode set, Ray (2.59 on) turns token authentication on; workers inherit it,
    # and a tool that wants to look in is given it through the same variable. The user's own choice stands.
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)  # it warns that it did
    os.environ.pop("RAY_ADDRESS", None)  # never join somebody else's cluster by accident
    ray.init(
        address="local",
        num_cpus=num_cpus,
        namespace=RAY_NAMESPACE,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        object_store_memory=OBJECT_STORE_BYTES,
        _node_ip_address=_LOOPBACK,
    )


def join(address: str) -> None:
    """Become a driver on an existing cluster (`host:port`, or `auto`: the one that is named or runs on this machine).

    Raises Unavailable if there is none there, StartRefused if it runs another Python or Ray than this process.
    """
    try:
        ray.init(address=address, namespace=RAY_NAMESPACE, log_to_driver=False, configure_logging=False)
    except Exception as error:
        text = " ".join(str(error).split())
        if _MISMATCH in text:
            raise StartRefused(
                f"the Ray cluster at {address!r} runs another Python or Ray than this process, and Ray carries nothing "
                f"between them. {text.partition(_MISMATCH)[2].strip()}. Use the same versions here and on all nodes"
            ) from error
        raise Unavailable(
            f"no Ray cluster could be joined at {address!r}: {text[:500]}. Nothing was started or changed; start one "
            "with `ray start --head`, or name another with --address or PERDURE_RAY_ADDRESS"
        ) from error


def gcs_address() -> str:
    """`host:port` of the cluster that this process has joined."""
    return str(ray.get_runtime_context().gcs_address)


def is_joined() -> bool:
    """Whether this process belongs to a Ray cluster (a driver that joined, or a worker)."""
    return bool(ray.is_initialized())


def leave() -> None:
    """Leave the cluster; a local one ends."""
    ray.shutdown()


def node_id() -> str:
    """The Ray node that this process runs on."""
    return str(ray.get_runtime_context().get_node_id())


def this_actor() -> Handle:
    """The actor that this process is, to be handed to others."""
    return Handle(ray.get_runtime_context().current_actor)


def spawn(actor: Any, *args: Any, **options: Any) -> Handle:
    """Start an actor of a class. Returns before it runs; that it failed is seen by calls.

    A class that is not decorated is pickled by its name: workers import it, nobody ships code.
    """
    remote: Any = ray.remote(actor) if isinstance(actor, type) else actor
    return Handle(remote.options(namespace=RAY_NAMESPACE, **options).remote(*args))


async def find(name: str) -> Handle | None:
    """The live actor of that name, or None."""
    try:
        return Handle(await asyncio.to_thread(ray.get_actor, name, RAY_NAMESPACE))
    except (ValueError, RayError):
        return None


def submit(handle: Handle, method: str, *args: Any, **kwargs: Any) -> "asyncio.Future[Any]":
    """Call an actor's method. The call is under way when this returns; the future lives on the running loop.

    A callback per call is cheaper than awaiting the reference, which makes two futures and a task.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[Any] = loop.create_future()

    def settle(error: BaseException | None, value: Any) -> None:
        if result.done():
            return
        if error is None:
            result.set_result(value)
        else:
            result.set_exception(error)

    def completed(call: Any) -> None:
        """On Ray's thread."""
        error = call.exception()
        value = None if error is not None else call.result()
        try:
            loop.call_soon_threadsafe(settle, error, value)
        except RuntimeError:
            log.debug("%s returned after its event loop was closed", method)

    getattr(handle, method).remote(*args, **kwargs).future().add_done_callback(completed)
    return result


def tell(handle: Handle, method: str, *args: Any) -> None:
    """Call a method without interest in the result; failures are dropped."""
    submit(handle, method, *args).add_done_callback(_seen)


def _seen(call: "asyncio.Future[Any]") -> None:
    if not call.cancelled():
        call.exception()


def kill(handle: Handle) -> None:
    """End an actor's process as SIGKILL would."""
    actor: Any = handle
    ray.kill(actor, no_restart=True)


def end_this_actor() -> None:
    """To be called in a method of an async actor: its process ends in order, once its other calls have returned."""
    end: Callable[[], None] = exit_actor
    end()  # raises


def is_actor_dead(error: BaseException) -> bool:
    """Whether Ray says that the actor will never answer again. (Ray may be wrong about its process.)"""
    return isinstance(error, ActorDiedError)


class Handles:
    """Actor handles by name, looked up once; concurrent look-ups of one name share one."""

    def __init__(self) -> None:
        self._known: dict[str, Handle] = {}
        self._searches: dict[str, asyncio.Task[Handle | None]] = {}

    def known(self, name: str) -> Handle | None:
        """Without looking it up."""
        return self._known.get(name)

    async def get(self, name: str) -> Handle | None:
        """The actor, or None if there is none of that name."""
        if name in self._known:
            return self._known[name]
        search = self._searches.get(name)
        if search is None:
            search = self._searches[name] = asyncio.get_running_loop().create_task(self._search(name))
        return await asyncio.shield(search)

    def forget(self, name: str) -> None:
        """Look it up again next time."""
        self._known.pop(name, None)

    def keep(self, names: set[str]) -> None:
        """Forget all others."""
        for name in self._known.keys() - names:
            del self._known[name]

    async def _search(self, name: str) -> Handle | None:
        try:
            handle = await find(name)
            if handle is not None:
                self._known[name] = handle
            return handle
        finally:
            self._searches.pop(name, None)
