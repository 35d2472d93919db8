"""`@activity(num_cpus=…, num_gpus=…, resources=…)`: attempts as Ray tasks.

The task finds the activity by the module and name under which it was imported here; arguments, results and errors
travel as JSON. One attempt is one task: Ray does not retry, the activity's own policy does. Cancelling the attempt
kills the task.

A task streams what it has to say: heartbeats (at most ten a second, the last of them counts), then its end. So they
need no way back to the host but the one that every task has.
"""

import asyncio
import importlib
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any

import ray

from ..entities.activity import Activity, ActivityInfo, running_as
from ..entities.engine.activities import ActivityCall
from ..entities.errors import (
    ActivityFailed,
    ApplicationError,
    CompleteLater,
    error_body,
    error_from_body,
    user_error,
)
from ..entities.heartbeat import Pulse, pulse
from ..entities.messages import decode_error, encode_json

BEAT, DONE, FAILED, LATER = "beat", "done", "failed", "later"
Said = tuple[str, bytes]
"""(one of these, details or JSON result or JSON ErrorBody)"""
BEAT_EVERY_S = 0.1


def locate(fn: Callable[..., Any]) -> tuple[str, str]:
    """(module, qualified name) under which another process can import a function. Raises ApplicationError."""
    if "<locals>" in fn.__qualname__ or fn.__module__ == "__main__":
        raise ApplicationError(
            f"activity {fn.__qualname__} wants Ray resources, so workers import it: move it to module level",
            non_retryable=True,
        )
    return fn.__module__, fn.__qualname__


def find(module: str, qualname: str) -> Activity[Any, Any]:
    """The activity at that place."""
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    if not isinstance(found, Activity):
        raise TypeError(f"{module}.{qualname} is not an @activity")
    return found


class _Channel:
    """From the thread of the activity to the task: the last heartbeat, and the end."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._beat: bytes | None = None
        self._end: Said | None = None

    def beat(self, details: bytes) -> None:
        with self._changed:
            self._beat = details
            self._changed.notify()

    def end(self, said: "Said") -> None:
        with self._changed:
            self._end = said
            self._changed.notify()

    def read(self) -> "Iterator[Said]":
        """Everything until the end; of heartbeats in quick succession the last."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._beat is not None or self._end is not None)
                beat, self._beat, end = self._beat, None, self._end
            if beat is not None:
                yield BEAT, beat
            if end is not None:
                yield end
                return
            with self._changed:
                self._changed.wait_for(lambda: self._end is not None, timeout=BEAT_EVERY_S)


def attempt(module: str, qualname: str, info: ActivityInfo, args: bytes) -> "Iterator[Said]":
    """In the Ray worker: one attempt, in a thread, so that this can stream what it says meanwhile."""
    channel = _Channel()
    threading.Thread(target=_run, args=(channel, module, qualname, info, args), name="perdure-activity").start()
    yield from channel.read()


def _run(channel: _Channel, module: str, qualname: str, info: ActivityInfo, args: bytes) -> None:
    try:
        activity = find(module, qualname)
        kwargs = activity.signature.load_arguments(args)
        running_as(info)  # the context is this thread's own; a task's is a copy of it
        pulse.set(Pulse(channel.beat))
        value = activity.fn(**kwargs)
        if inspect.iscoroutine(value):
            value = asyncio.run(value)
        channel.end((DONE, activity.signature.dump_result(value)))
    except CompleteLater:
        channel.end((LATER, b""))
    except BaseException as error:  # noqa: BLE001 - user code; it travels as a value
        channel.end((FAILED, encode_json(error_body(error))))


class RayActivities:
    """`engine.activities.ActivityPool` on Ray tasks."""

    async def run(self, call: ActivityCall, heart: Pulse) -> bytes:
        """The JSON result of one attempt; raises what the activity raised, by name."""
        module, qualname = locate(call.fn)
        wanted = dict(call.options.resources)
        task = ray.remote(attempt).options(
            num_cpus=wanted.pop("num_cpus", 0),
            num_gpus=wanted.pop("num_gpus", 0),
            resources=wanted or None,
            max_retries=0,
            num_returns="streaming",
            name=f"{call.name} of {call.entity}",
        )
        stream: Any = task.remote(module, qualname, call.info, call.args)
        try:
            async for reference in stream:
                what, data = await reference
                if what == BEAT:
                    heart.beat(data)
                elif what == DONE:
                    return bytes(data)
                elif what == LATER:
                    raise CompleteLater
                else:
                    body = decode_error(data)
                    raise user_error(body, [call.fn.__globals__]) or error_from_body(body)
        except asyncio.CancelledError:
            ray.cancel(stream, force=True)
            raise
        raise ActivityFailed(f"{call.what}: its Ray task ended without an outcome")
