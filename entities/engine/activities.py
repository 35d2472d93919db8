"""Executing activities: attempts, time limits, retries.

Attempts run on an event loop in a thread of its own (`async def`) or in a pool of threads (`def`), so that user code
that blocks cannot stall the host. An attempt starts only after the commit that asked for it (P3). Its outcome becomes a
message to the entity; until that is committed a crash repeats the attempt with the same idempotency key (P7).

An attempt ends by returning, raising, running out of time, sending no heartbeat for too long, or being cancelled. In
the last three a coroutine gets CancelledError and a Ray task is killed; a thread cannot be stopped: its outcome is
ignored, its next `heartbeat()` raises, and it keeps its place in the pool of threads until it returns.

Between the hand-over and the first line of the activity lie two threads and perhaps a queue for a slot. So `is_void` is
looked at once more right before it: nothing begins on a host that has been killed, fenced, or has given the shard away.
"""

import asyncio
import contextvars
import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any, Protocol

import msgspec

from ..activity import ActivityInfo, ActivityOptions, running_as
from ..errors import ActivityTimeout, ApplicationError, error_body
from ..heartbeat import Pulse, pulse
from ..ids import EntityId
from ..messages import encode_json
from ..signature import PAYLOAD_BYTES_MAX, Signature, has_nul
from ..tracing import Tracing
from ..transactional import StepTransactions
from .journal import Event, EventKind
from .settings import EngineSettings
from .slots import Slots

log = logging.getLogger("perdure.activities")

ERROR_BYTES_MAX = PAYLOAD_BYTES_MAX
"""Larger errors lose their details and causes."""


@dataclass(slots=True)
class ActivityCall:
    """One activity operation of one run, from its first attempt to its outcome."""

    entity: EntityId
    shard: int
    operation: str
    number: int
    name: str
    fn: Callable[..., Any]
    is_async: bool
    signature: Signature
    args: bytes
    options: ActivityOptions
    attempt: int
    """The attempt that is under way or comes next, from 1."""
    first_us: int
    """When the first attempt started; 0 = not yet."""
    trace: str = ""
    """W3C traceparent of the run."""
    details: bytes = b"null"
    """JSON of the last heartbeat, of this attempt or an earlier one. Written by any thread."""
    started_us: int = 0
    """When this attempt was handed to the runner."""
    give_up_at: float = float("inf")
    """When the time of all attempts together is used up (monotonic)."""
    is_running: bool = False
    is_held: bool = False
    """Its run is paused: no further attempt begins."""
    is_void: bool = False
    """Dropped by the host: an attempt that has been handed over and has not begun must not. Read by any thread."""
    is_beat_told: bool = False
    """The host's loop has been told of a heartbeat that it has not noted yet."""
    noted_at: float = float("-inf")
    """When a heartbeat was last noted in the store (monotonic)."""
    waiting: "asyncio.TimerHandle | None" = field(default=None, repr=False)
    """Begins the next attempt."""

    @property
    def key(self) -> str:
        """`Type/key#address`: unique on a host."""
        return f"{self.entity}#{self.operation}"

    @property
    def what(self) -> str:
        """For messages."""
        return f"{self.entity}: activity {self.name}"

    @property
    def info(self) -> ActivityInfo:
        """What `activity_info()` answers during this attempt."""
        return ActivityInfo(
            entity=self.entity,
            activity=self.name,
            operation=self.operation,
            attempt=self.attempt,
            idempotency_key=f"{self.entity}/{self.operation}",
            heartbeat_details=msgspec.json.decode(self.details),
        )


class ActivityPool(Protocol):
    """Runs attempts somewhere else (Ray tasks with resources)."""

    async def run(self, call: ActivityCall, heart: Pulse) -> bytes:
        """The JSON result of one attempt; raises what the activity raised. Hands its heartbeats to `heart`."""
        ...


Finished = Callable[[ActivityCall, bytes | None, BaseException | None], None]
"""What to do with the end of an attempt: its result, or its error."""


class Watch:
    """Ends an attempt that sends no heartbeat. `beat` may be called from any thread."""

    def __init__(self, limit_s: float | None, loop: asyncio.AbstractEventLoop) -> None:
        self._limit_s = limit_s
        self._loop = loop
        self.scope = asyncio.timeout(limit_s)

    def beat(self) -> None:
        """It is alive."""
        if self._limit_s is not None:
            self._loop.call_soon_threadsafe(self._extend)

    def _extend(self) -> None:
        try:
            if not self.scope.expired():
                self.scope.reschedule(self._loop.time() + (self._limit_s or 0.0))
        except RuntimeError:
            pass  # the attempt has ended meanwhile


LEASE_LOOK_S = 0.05
"""How often an attempt looks whether its host may go on: a renewal, or the end, comes soon."""


class ActivityRunner:
    """Runs attempts; `finished(call, result, error)` is called on the host's loop, in batches.

    `start` and `cancel` belong to the host's loop.
    """

    def __init__(
        self,
        settings: EngineSettings,
        finished: Finished,
        pool: ActivityPool | None = None,
        steps: StepTransactions | None = None,
    ) -> None:
        self._settings = settings
        self._steps = steps
        self._finished = finished
        self.on_beat: Callable[[ActivityCall], None] = lambda _: None
        """Told on the host's loop that `call.details` are new."""
        self.has_lease: Callable[[], bool] = lambda: True
        """Whether nobody can have taken over; asked from the activity loop."""
        self.tracing: Tracing | None = None
        self._pool = pool
        self._host_loop: asyncio.AbstractEventLoop
        self._loop: asyncio.AbstractEventLoop
        self._thread: threading.Thread | None = None
        self._threads: ThreadPoolExecutor
        self._slots: Slots
        self._inbound: deque[ActivityCall | str] = deque()
        self._outbound: deque[tuple[ActivityCall, bytes | None, BaseException | None]] = deque()
        self._inbound_signalled = False
        self._outbound_signalled = False
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.running = 0

    def open(self) -> None:
        """Start the thread."""
        self._host_loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(self._settings.activity_threads, thread_name_prefix="perdure-activity")
        started = threading.Event()

        def main() -> None:
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
            self._slots = Slots(self._settings.activities_max)
            self._loop.call_soon(started.set)
            self._loop.run_forever()
            self._loop.close()

        self._thread = threading.Thread(target=main, name="perdure activities", daemon=True)
        self._thread.start()
        started.wait()

    def close(self) -> None:
        """Cancel every attempt and stop the thread."""
        if self._thread is None:
            return
        thread, self._thread = self._thread, None
        stopping: list[asyncio.Task[None]] = []  # the loop holds tasks weakly

        def stop() -> None:
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()

            async def finish() -> None:
                if tasks:
                    await asyncio.wait(tasks, timeout=2.0)
                if self._steps is not None:
                    await self._steps.close()
                self._loop.stop()

            if tasks or self._steps is not None:
                stopping.append(self._loop.create_task(finish()))
            else:
                self._loop.stop()

        self._loop.call_soon_threadsafe(stop)
        thread.join(timeout=5.0)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def start(self, call: ActivityCall) -> None:
        """Run the next attempt."""
        self.running += 1
        self._hand_over(call)

    def cancel(self, operation: str) -> None:
        """Cancel the attempt of this operation, if one is under way. `operation`: `Type/key#address`."""
        self._hand_over(operation)

    def _hand_over(self, what: ActivityCall | str) -> None:
        self._inbound.append(what)
        if not self._inbound_signalled:
            self._inbound_signalled = True
            self._loop.call_soon_threadsafe(self._take)

    # --- on the activity loop ---

    def _take(self) -> None:
        self._inbound_signalled = False
        while self._inbound:
            what = self._inbound.popleft()
            if isinstance(what, str):
                task = self._tasks.get(what)
                if task is not None:
                    task.cancel()
                continue
            key = f"{what.entity}#{what.operation}"
            context = contextvars.Context()
            task = self._loop.create_task(self._attempt(what), context=context)
            self._tasks[key] = task
            task.add_done_callback(partial(self._ended, key))

    def _ended(self, key: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]

    async def _attempt(self, call: ActivityCall) -> None:
        result: bytes | None = None
        error: BaseException | None = None
        try:
            async with self._slots.slot(call.name, call.options):
                result = await self._execute(call)
        except BaseException as raised:  # noqa: BLE001 - user code; the policy decides
            error = raised
        self._outbound.append((call, result, error))
        if not self._outbound_signalled:
            self._outbound_signalled = True
            self._host_loop.call_soon_threadsafe(self._give_back)

    async def _execute(self, call: ActivityCall) -> bytes:
        limit_s = _seconds(call.options.timeout)
        left_s = max(0.0, call.give_up_at - self._loop.time())
        if not left_s:
            raise ActivityTimeout(f"{call.what} got no slot within {call.options.total_timeout}", timeout="total")
        silence_s = _seconds(call.options.heartbeat_timeout)
        whole_s = min(left_s, float("inf") if limit_s is None else limit_s)
        whole = asyncio.timeout(None if whole_s == float("inf") else whole_s)
        watch = Watch(silence_s, self._loop)
        attempt = Pulse(partial(self._on_beat, call, watch))
        try:
            async with whole, watch.scope:
                if self.tracing is None:
                    return await self._run(call, attempt)
                with self.tracing.attempt(call):
                    return await self._run(call, attempt)
        except TimeoutError:
            what = f"{call.entity}: attempt {call.attempt} of activity {call.name}"
            if watch.scope.expired():
                raise ActivityTimeout(f"{what} sent no heartbeat for {silence_s:g} s", timeout="heartbeat") from None
            if whole.expired():
                is_own = limit_s is not None and limit_s <= left_s
                raise ActivityTimeout(
                    f"{what} took longer than {limit_s if is_own else left_s:g} s",
                    timeout="attempt" if is_own else "total",
                ) from None
            raise
        finally:
            attempt.is_cancelled = True  # a thread that goes on all the same learns of it

    async def _run(self, call: ActivityCall, attempt: Pulse) -> bytes:
        _check_wanted(call)
        while not self.has_lease():  # a host that was frozen: its heir may have committed this outcome by now (P7)
            await asyncio.sleep(LEASE_LOOK_S)
            _check_wanted(call)
        if call.options.resources:
            if self._pool is None:
                raise ApplicationError(
                    f"activity {call.name} wants resources {dict(call.options.resources)}, but there is no Ray here",
                    non_retryable=True,
                )
            return await self._pool.run(call, attempt)
        running_as(call.info)
        pulse.set(attempt)
        if call.options.is_transactional:
            if self._steps is None:
                raise ApplicationError(
                    f"{call.entity}: {call.name} is a transactional step, but there is no database here; in tests use "
                    "LocalCluster(..., steps=lambda: FakeSteps(...))",
                    non_retryable=True,
                )
            return await self._steps.run(call)
        kwargs = call.signature.load_arguments(call.args)
        if call.is_async:
            value = await call.fn(**kwargs)
        else:
            context = contextvars.copy_context()
            value = await self._loop.run_in_executor(self._threads, lambda: context.run(_run_in_thread, call, kwargs))
        return call.signature.dump_result(value)

    def _on_beat(self, call: ActivityCall, watch: Watch, details: bytes) -> None:
        """From any thread."""
        call.details = details
        try:
            watch.beat()
            if not call.is_beat_told:
                call.is_beat_told = True
                self._host_loop.call_soon_threadsafe(self.on_beat, call)
        except RuntimeError:
            log.debug("a heartbeat of %s after the end of its host", call.what)  # the loops are closed

    # --- on the host's loop ---

    def _give_back(self) -> None:
        self._outbound_signalled = False
        while self._outbound:
            call, result, error = self._outbound.popleft()
            self.running -= 1
            self._finished(call, result, error)


MakeRunner = Callable[[EngineSettings, Finished, ActivityPool | None, StepTransactions | None], ActivityRunner]


def _seconds(limit: timedelta | None) -> float | None:
    return None if limit is None else limit.total_seconds()


def _check_wanted(call: ActivityCall) -> None:
    if call.is_void:
        raise asyncio.CancelledError(f"{call.what}: nobody wants this attempt any more; it has not begun")


def _run_in_thread(call: ActivityCall, kwargs: dict[str, Any]) -> Any:
    _check_wanted(call)
    try:
        return call.fn(**kwargs)
    except StopIteration as error:  # no future can hold one
        raise RuntimeError(f"the activity raised StopIteration({error.value!r})") from error


def success(call: ActivityCall, result: bytes) -> Event:
    """The event that tells a run its activity's result."""
    return Event(EventKind.VALUE, call.number, msgspec.Raw(result))


def failure(call: ActivityCall, error: BaseException, trace: str = "") -> Event:
    """The event that tells a run that its activity failed for good.

    The workflow sees an exception of the class that the activity raised, where that can be found by name; else
    ActivityFailed or ApplicationError with its text. `trace` is for people: no exception is ever made with it.
    """
    return Event(EventKind.ERROR, call.number, msgspec.Raw(encode_error(error, trace)))


def encode_error(error: BaseException, trace: str = "") -> bytes:
    """An error of user code as JSON that can be stored, whatever it holds: an error must never wedge its entity.

    What code may read of it does not depend on `trace`, which comes on top of the limit.
    """
    body = error_body(error)
    try:
        data = encode_json(body)
        if len(data) <= ERROR_BYTES_MAX and not has_nul(data):
            return encode_json(msgspec.structs.replace(body, traceback=trace)) if trace else data
    except (TypeError, ValueError, RecursionError):  # details that are no JSON, lone surrogates, endless causes
        pass
    return encode_json(
        msgspec.structs.replace(
            body, message=_clean(body.message), type=_clean(body.type), details={}, cause=None, traceback=trace
        )
    )


def _clean(text: str) -> str:
    return text[:8_000].encode(errors="replace").decode().replace("\x00", "\N{REPLACEMENT CHARACTER}")
