"""One live workflow run: its coroutine on a deterministic loop, and the operations it waits for.

`Run` is the `TurnContext` of workflow code. It decides nothing about storage: a turn feeds events in (`apply`), then
reads off what the code asked for (`asked`, `withdrawn`, `effects`) and whether it has ended. `replay` does the same
with recorded entries and drops what is asked for, comparing it with the record.
"""

import asyncio
import contextvars
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import TYPE_CHECKING, Any, NoReturn
from zlib import crc32

import msgspec

from ..context import Mode, current
from ..errors import (
    CallCycle,
    CallTimeout,
    ContinueAsNew,
    ErrorBody,
    InvalidArguments,
    NotInWorkflow,
    PerdureError,
    RunEvicted,
    error_body,
    error_from_body,
    user_error,
)
from ..ids import EntityId, seed_of
from ..messages import Kind, OperationAddress, decode_error, encode_json
from ..store.rows import Child, RunRow
from ..time_limit import TimeLimit
from ..tracing import trace_id_of
from . import guard
from .children import CHILDREN_MAX, TooManyChildren, adopt
from .effects import Effects
from .journal import (
    Entry,
    Event,
    EventKind,
    OperationKind,
    ReplayMismatch,
    Scheduled,
    difference,
    numbered,
    sent_id,
)
from .loop import WorkflowLoop, WorkflowTimer
from .loops import check_depth

if TYPE_CHECKING:
    from ..activity import ActivityOptions
    from ..definition import EntityDefinition
    from ..entity import Entity
    from ..signature import Signature

RECEIVERS_MAX = 1_000


class _OperationFuture(asyncio.Future[Any]):
    """A future that tells its run when the code cancels it."""

    operation: "Operation"

    def cancel(self, msg: Any = None) -> bool:
        if not super().cancel(msg):
            return False
        self.operation.run.withdraw(self.operation)
        return True


class Operation:
    """Something that a run waits for."""

    __slots__ = ("detail", "future", "kind", "name", "number", "run")

    def __init__(self, run: "Run", number: int, kind: OperationKind, name: str, detail: Any) -> None:
        self.run = run
        self.number = number
        self.kind = kind
        self.name = name
        self.detail = detail
        self.future: _OperationFuture | WorkflowTimer


class ActivityDetail(msgspec.Struct, frozen=True):
    """What an activity operation needs to be executed."""

    fn: Callable[..., Any]
    signature: "Any"
    args: bytes
    options: "Any"


class CallDetail(msgspec.Struct, frozen=True):
    """What a call operation sends."""

    target: EntityId
    kind: Kind
    name: str
    args: bytes
    options: str


class Run:
    """A run in memory. `row` is its stored description."""

    mode: Mode = "workflow"
    is_closed = False
    """Never, for the state: what the code of a run sets while it leaves memory is undone (see `close`)."""

    def __init__(self, definition: "EntityDefinition", state: "Entity", entity: EntityId, row: RunRow) -> None:
        guard.install()
        self.entity = entity
        self.row = row
        self.pending: dict[int, Operation] = {}
        self.asked: list[Scheduled] = []
        self.new: list[Operation] = []
        self.withdrawn: list[Operation] = []
        self.adopted: list[Child] = []
        """Children with a close policy that this resume has started."""
        self.children: dict[int, Child] = {}
        """All of them without an outcome, by operation: known from the journal alone, so that replay counts alike."""
        self.effects = Effects()
        self.entries = 0
        self.journal_bytes = 0
        self.is_warned = False
        """Its long journal has been logged."""
        self.next_number = 0
        self.trace = ""
        """Of the present stretch of the run: below it is what it causes. At first, of who has started it."""
        self.version = 0
        """Of the entity, that the resume makes."""
        self.last_turn = -1
        """Serial of the last turn of the entity that was this run's."""
        self.seen = b""
        """The snapshot that the run saw last."""
        self.cancel_requested = False
        self._is_closed = False
        self._is_replaying = False
        self._patches: dict[str, bool] = {}
        """Patches whose branch is decided, and how."""
        seed = seed_of(row.run_id)
        self._random = Random(seed)  # noqa: S311 - repeatable chance is the point
        self._loop = WorkflowLoop(self, crc32(seed.encode()))  # type: ignore[abstract]  # all that asyncio itself needs is there
        self._method = definition.workflows[row.workflow]
        self._state = state
        self._main: asyncio.Task[Any] | None = None
        self._context = contextvars.Context()
        self._context.run(current.set, self)

    # --- feeding ---

    def begin(self, now_us: int) -> None:
        """Start a resume at this time: forgets what the last one asked for."""
        self._loop.now_us = max(now_us, self._loop.now_us)
        self.asked = []
        self.new = []
        self.withdrawn = []
        self.adopted = []
        self.effects = Effects()

    def forget_asked(self) -> None:
        """The resume is undone: nothing that it asked for may happen."""
        self.new = []
        self.adopted = []
        self.effects = Effects()

    @property
    def now(self) -> int:
        """Time of the present resume, µs."""
        return self._loop.now_us

    def apply(self, event: Event) -> None:
        """Feed one event in and run the code until it waits. Raises ReplayMismatch if nothing waits for it."""
        match event.kind:
            case EventKind.START:
                kwargs = self._method.signature.load_arguments(self.row.args)
                self._main = self._loop.create_task(
                    self._method.fn(self._state, **kwargs),
                    context=self._context,
                    name=f"{self.entity}.{self.row.workflow}",
                )
                if self.cancel_requested:  # before it had begun (a run that continues as new has a turn to begin)
                    self._main.cancel()
            case EventKind.CANCEL:
                self.cancel_requested = True
                if self._main is not None:
                    self._main.cancel()
            case _:
                self._complete(event)
        self._loop.run_until_idle()
        self._settle_conditions()

    def _complete(self, event: Event) -> None:
        operation = self.pending.pop(event.operation, None)
        self.children.pop(event.operation, None)
        if operation is None:
            raise ReplayMismatch(f"the outcome of operation #{event.operation}", "no such operation", self.entries)
        future = operation.future
        if isinstance(future, WorkflowTimer):
            self._loop.fire(future)
        elif event.kind is EventKind.ERROR:
            future.set_exception(self._error(operation, decode_error(bytes(event.value))))
        else:
            future.set_result(bytes(event.value))

    def _error(self, operation: Operation, body: ErrorBody) -> BaseException:
        """The exception to raise at the await. A user's own class is found by name where the code can see it."""
        namespaces = [self._method.fn.__globals__]
        if isinstance(operation.detail, ActivityDetail):
            namespaces.insert(0, operation.detail.fn.__globals__)
            namespaces.insert(
                0, {c.__name__: c for c in operation.detail.options.retry.non_retryable if isinstance(c, type)}
            )
        return user_error(body, namespaces) or error_from_body(body)

    def _settle_conditions(self) -> None:
        """Conditions that are true of the state now: follows from the state, so it is not journalled."""
        while True:
            settled = self._settled_conditions()
            if not settled:
                return
            for operation, problem in settled:
                del self.pending[operation.number]
                assert isinstance(operation.future, _OperationFuture)
                if problem is None:
                    operation.future.set_result(b"true")
                else:
                    operation.future.set_exception(problem)
            self._loop.run_until_idle()

    def _settled_conditions(self) -> list[tuple[Operation, Exception | None]]:
        """Conditions that are true now, and those whose predicate raises (raised at their await)."""
        settled: list[tuple[Operation, Exception | None]] = []
        for operation in self.pending.values():
            if operation.kind is OperationKind.CONDITION:
                try:
                    if operation.detail():
                        settled.append((operation, None))
                except Exception as error:  # noqa: BLE001 - user code
                    settled.append((operation, error))
        return settled

    def true_conditions(self) -> list[Event]:
        """Events for the conditions that another turn has made true."""
        return [
            Event(EventKind.TRUE, operation.number)
            if problem is None
            else Event(EventKind.ERROR, operation.number, msgspec.Raw(encode_json(error_body(problem))))
            for operation, problem in self._settled_conditions()
        ]

    def receivers(self) -> list[Operation]:
        """Operations that wait for a mailbox item, in order."""
        return [op for op in self.pending.values() if op.kind is OperationKind.RECEIVE]

    def replay(self, entries: Sequence[Entry], replace_fields: Callable[[bytes | None, int], None]) -> None:
        """Rebuild the coroutine from its journal, executing nothing.

        `replace_fields(state, schema version)` gives the entity fresh fields (None: fresh copies of its present ones).
        Raises ReplayMismatch if the code asks for something else than was recorded.
        """
        self._is_replaying = True
        recorded = {op.name for entry in entries for op in entry.operations if op.kind is OperationKind.PATCH}
        self._patches = dict.fromkeys(recorded, True)
        for entry in entries:
            if self.ended:
                raise ReplayMismatch(f"a resume by {_names(entry.events)}", "the workflow to have ended", self.entries)
            if entry.state:
                replace_fields(bytes(entry.state), entry.schema)
            elif entry.detached:
                replace_fields(None, 0)
            self.begin(entry.now_us)
            self.trace = entry.trace or self.trace
            for event in entry.events:
                self.apply(event)
            if self.asked != entry.operations and numbered(self.asked) != numbered(entry.operations):
                raise difference(entry.operations, self.asked, self.entries)
            self.entries += 1
        self._is_replaying = False
        self.begin(self.now)

    def place(self) -> str:
        """`file:line` at which the workflow function waits, for people; empty if it does not."""
        stack = self._main.get_stack() if self._main is not None else []
        return f"{stack[0].f_code.co_filename}:{stack[0].f_lineno}" if stack else ""

    # --- the end ---

    @property
    def ended(self) -> bool:
        """Whether the workflow function has returned or raised."""
        return self._main is not None and self._main.done()

    def outcome(self) -> tuple[bytes | None, BaseException | None]:
        """(JSON result, None) or (None, error) of an ended run."""
        assert self._main is not None
        if self._main.cancelled():
            return None, asyncio.CancelledError()
        error = self._main.exception()
        if error is not None:
            return None, error
        try:
            return self._method.signature.dump_result(self._main.result()), None
        except PerdureError as problem:
            return None, problem

    def continuation(self) -> bytes | None:
        """Arguments with which the ended run begins again, if it has asked for that."""
        if self._main is None or self._main.cancelled():
            return None
        error = self._main.exception()
        # A task group or `async with` that the code left on its way may have wrapped it.
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        return error.arguments if isinstance(error, ContinueAsNew) else None

    @property
    def is_silent(self) -> bool:
        """Its code repeats what it did before, or leaves memory: see `logs`."""
        return self._is_replaying or self._is_closed

    def log_fields(self) -> dict[str, Any]:
        """What log records of its code say."""
        fields = {"version": self.version, "workflow": self.row.workflow, "run": self.row.run_id}
        return fields | {"trace_id": trace_id_of(self.trace)} if self.trace else fields

    @property
    def has_begun(self) -> bool:
        """Whether its code has started: not yet, between `continue_as_new` and the turn after it."""
        return self._main is not None

    def close(self) -> None:
        """Leave memory: closes the coroutine. What its `finally` blocks ask for is refused and has no effect."""
        if not self._is_closed:
            self._is_closed = True
            # In the run's own context: elsewhere a call or activity in a `finally` block would be an ordinary one.
            self._context.run(self._loop.shut)

    def awaits_activity(self) -> bool:
        """Whether it waits for an activity."""
        return any(op.kind is OperationKind.ACTIVITY for op in self.pending.values())

    def address(self, number: int) -> str:
        """Address of one of this run's operations."""
        return str(OperationAddress(self.row.workflow, self.row.run_id, number))

    def message_id(self, number: int) -> str:
        """Of the message that an operation sends, unless it has an idempotency key."""
        return sent_id(self.row.run_id, number)

    def waiting_for(self) -> str:
        """What it waits for, for people."""
        return ", ".join(f"{op.kind} {op.name}".rstrip() for op in list(self.pending.values())[:5])

    # --- what the code asks for (TurnContext) ---

    def now_us(self) -> int:
        return self._loop.now_us

    def random(self) -> Random:
        return self._random

    def _number(self, kind: OperationKind, name: str) -> int:
        if self._is_closed:
            raise RunEvicted(
                f"{self.entity}: the run is leaving memory; this {kind} has no effect and will be repeated when the "
                "run is activated again"
            )
        number = self.next_number
        self.next_number += 1
        self.asked.append(Scheduled(number, kind, name))
        return number

    def _operate(self, kind: OperationKind, name: str, detail: Any = None) -> "_OperationFuture":
        operation = Operation(self, self._number(kind, name), kind, name, detail)
        future = _OperationFuture(loop=self._loop)
        future.operation = operation
        operation.future = future
        self.pending[operation.number] = operation
        self.new.append(operation)
        return future

    def withdraw(self, operation: Operation) -> None:
        """The code does not want this operation any more."""
        if self.pending.pop(operation.number, None) is not None:
            self.withdrawn.append(operation)

    def timer_wanted(self, timer: WorkflowTimer) -> None:
        operation = Operation(self, self._number(OperationKind.TIMER, ""), OperationKind.TIMER, "", None)
        operation.future = timer
        operation.detail = round(timer.when() * 1e6)
        timer.number = operation.number
        self.pending[operation.number] = operation
        self.new.append(operation)

    def timer_cancelled(self, timer: WorkflowTimer) -> None:
        operation = self.pending.get(timer.number)
        if operation is not None:
            self.withdraw(operation)

    def send(
        self,
        target: EntityId,
        kind: Kind,
        name: str,
        args: bytes,
        *,
        delay_us: int,
        message_id: str,
        options: str = "",
    ) -> None:
        number = self._number(OperationKind.SEND, f"{target.type}.{name}")
        options = self._adopt(options, number, target, name)
        if not self._is_replaying:
            self.effects.send(
                target,
                kind,
                name,
                args,
                delay_us=delay_us,
                message_id=message_id or self.message_id(number),
                options=options,
            )

    def _adopt(self, options: str, number: int, target: EntityId, workflow: str) -> str:
        """Options on the wire of a start; with a parent-close policy the child becomes one of this run's."""
        if not options:
            return options
        on_the_wire, child = adopt(options, self.address(number), f"{target}#{workflow}")
        if child is not None:
            if len(self.children) >= CHILDREN_MAX:
                raise TooManyChildren(
                    f"{self.entity}.{self.row.workflow} has {CHILDREN_MAX} children with a parent-close policy that "
                    "have not ended, the limit; await some of them, or start them with parent_close='abandon'"
                )
            self.children[number] = child
            self.adopted.append(child)
        return on_the_wire

    def set_reminder(
        self, name: str, *, handler: str, args: bytes, due_us: int, every_us: int, catch_up_all: bool, cron: str = ""
    ) -> None:
        self._number(OperationKind.REMIND, name)
        if not self._is_replaying:
            self.effects.set_reminder(
                name, handler=handler, args=args, due_us=due_us, every_us=every_us, catch_up_all=catch_up_all, cron=cron
            )

    def cancel_reminder(self, name: str) -> None:
        self._number(OperationKind.REMIND, name)
        if not self._is_replaying:
            self.effects.cancel_reminder(name)

    async def call(
        self, target: EntityId, kind: Kind, name: str, args: bytes, *, timeout_us: int, options: str = ""
    ) -> bytes:
        if kind in (Kind.START, Kind.RESULT):
            waits = (*self.row.chain, f"{self.entity}#{self.row.workflow}")
            if f"{target}#{name}" in waits:
                raise CallCycle(
                    f"{self.entity}.{self.row.workflow} would wait for itself: {' → '.join(waits)} → {target}#{name}",
                    chain=[*waits, f"{target}#{name}"],
                )
            check_depth(f"{self.entity}.{self.row.workflow}", waits, f"{target}.{name}")
        options = self._adopt(options, self.next_number, target, name)
        future = self._operate(
            OperationKind.CALL, f"{target.type}.{name}", CallDetail(target, kind, name, args, options)
        )
        if not timeout_us:
            return bytes(await future)
        try:
            async with TimeLimit(timeout_us / 1e6):
                return bytes(await future)
        except TimeoutError:
            raise CallTimeout(
                f"{self.entity}.{self.row.workflow}: no answer from {target}.{name} within {timeout_us / 1e6:g} s; it "
                "may have been applied"
            ) from None

    async def activity(
        self, name: str, fn: Callable[..., Any], signature: "Signature", args: bytes, options: "ActivityOptions"
    ) -> bytes:
        return bytes(await self._operate(OperationKind.ACTIVITY, name, ActivityDetail(fn, signature, args, options)))

    async def receive(self, mailbox: str) -> bytes:
        if sum(op.kind is OperationKind.RECEIVE for op in self.pending.values()) >= RECEIVERS_MAX:
            raise InvalidArguments(f"{self.entity}: more than {RECEIVERS_MAX} receive() at once")
        return bytes(await self._operate(OperationKind.RECEIVE, mailbox))

    async def condition(self, predicate: Callable[[], bool]) -> None:
        await self._operate(OperationKind.CONDITION, "", predicate)

    def patched(self, patch_id: str) -> bool:
        decided = self._patches.get(patch_id)
        if decided is None:
            # Replayed past without a marker: the run went here before the patch. It keeps to the old branch for ever.
            self._patches[patch_id] = decided = not self._is_replaying
            if decided:
                self.asked.append(Scheduled(-1, OperationKind.PATCH, patch_id))
        return decided

    def continue_as_new(self, workflow: str, args: bytes) -> NoReturn:
        if workflow != self.row.workflow or asyncio.current_task() is not self._main:
            raise NotInWorkflow(
                f"{self.entity}.{self.row.workflow}: only the body of a workflow can continue itself as new; not "
                f"{workflow}, and not a task that it has started"
            )
        self._number(OperationKind.CONTINUE, workflow)
        raise ContinueAsNew(args)


def inputs_of(operations: Iterable[Operation], *, bytes_max: int) -> dict[str, msgspec.Raw]:
    """Arguments of activities and calls, by operation number, those of at most so many bytes."""
    return {
        str(op.number): msgspec.Raw(op.detail.args)
        for op in operations
        if isinstance(op.detail, ActivityDetail | CallDetail) and len(op.detail.args) <= bytes_max
    }


def targets_of(operations: Iterable[Operation]) -> dict[str, str]:
    """Which entities are called, by operation number."""
    return {str(op.number): str(op.detail.target) for op in operations if isinstance(op.detail, CallDetail)}


def sent_of(run: Run) -> tuple[dict[str, str], dict[str, str]]:
    """Of the messages that this resume sends, by operation number: receivers, and ids other than the usual one."""
    numbers = [asked.number for asked in run.asked if asked.kind is OperationKind.SEND]
    sent = dict(zip(numbers, run.effects.outgoing, strict=False))  # beyond OUTBOX_MAX they are asked for, and refused
    return (
        {str(number): str(one.target) for number, one in sent.items()},
        {str(number): one.message_id for number, one in sent.items() if one.message_id != run.message_id(number)},
    )


def _names(events: Iterable[Event]) -> str:
    return ", ".join(f"{event.kind} #{event.operation}" if event.operation >= 0 else event.kind for event in events)
