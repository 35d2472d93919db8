"""`@activity(num_cpus=…, num_gpus=…, resources=…)`: attempts as Ray tasks.

The task finds the activity by the module and name under which it was imported here; arguments, results and errors
travel as JSON. One attempt is one task: Ray does not retry, the activity's own policy does. Cancelling the attempt
cancels the task.
"""

import asyncio
import contextvars
import functools
import importlib
import inspect
from collections.abc import Callable
from typing import Any

import ray

from ..entities.activity import Activity, ActivityInfo, running_as
from ..entities.engine.activities import ActivityCall
from ..entities.errors import ApplicationError, error_body, error_from_body, user_error
from ..entities.messages import decode_error, encode_json


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


def attempt(module: str, qualname: str, info: ActivityInfo, args: bytes) -> tuple[bool, bytes]:
    """In the Ray worker: one attempt. (True, JSON result) or (False, JSON ErrorBody)."""
    try:
        activity = find(module, qualname)
        kwargs = activity.signature.load_arguments(args)
        context = contextvars.copy_context()
        context.run(running_as, info)
        if inspect.iscoroutinefunction(activity.fn):

            async def run() -> Any:
                running_as(info)
                return await activity.fn(**kwargs)

            value = asyncio.run(run())
        else:
            value = context.run(functools.partial(activity.fn, **kwargs))
        return True, activity.signature.dump_result(value)
    except Exception as error:  # noqa: BLE001 - user code; it travels as a value
        return False, encode_json(error_body(error))


class RayActivities:
    """`engine.activities.ActivityPool` on Ray tasks."""

    async def run(self, call: ActivityCall) -> bytes:
        """The JSON result of one attempt; raises what the activity raised, by name."""
        module, qualname = locate(call.fn)
        wanted = dict(call.options.resources)
        task = ray.remote(attempt).options(
            num_cpus=wanted.pop("num_cpus", 0),
            num_gpus=wanted.pop("num_gpus", 0),
            resources=wanted or None,
            max_retries=0,
            name=f"{call.name} of {call.entity}",
        )
        reference = task.remote(module, qualname, call.info, call.args)
        try:
            ok, data = await asyncio.wrap_future(reference.future())
        except asyncio.CancelledError:
            ray.cancel(reference, force=True)
            raise
        if ok:
            return bytes(data)
        body = decode_error(data)
        raise user_error(body, [call.fn.__globals__]) or error_from_body(body)
