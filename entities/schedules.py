"""Schedules: durable entities that start a workflow, or send to a handler, at times.

`Schedule` is built in: every host serves it, nobody has to list it. Promises P1, P2 and P6: a schedule goes from one
occurrence to the next in turns of its own reminder, which fires by the database's clock and never early; the start of
the occurrence leaves with the commit that notes it. So each occurrence is started exactly once, whatever crashes.

A run tells its schedule when it ends (the start's `notify` option), which is what the overlap policies go by. Handlers
are sent to and forgotten: an entity's turns do not overlap anyway.
"""

import datetime as dt
from collections.abc import Mapping
from typing import Any, Literal, cast

import msgspec
from pydantic import BaseModel, Field
from pydantic_core import PydanticSerializationError, to_jsonable_python

from .calls import Target
from .context import HandlerTurn, current
from .descriptors import BoundHandler, BoundWorkflow, handler, query
from .durable import cancel_reminder, now, remind
from .entity import Entity
from .errors import Conflict, InvalidArguments, Rejected
from .ids import EntityId, new_message_id
from .messages import Kind, encode_json
from .recurrence import MISSED_MAX, from_us, to_us
from .schedule_spec import ON_TIME, CatchUp, Overlap, ScheduleSpec

RUNS_KEPT = 20
NEXT_SHOWN = 5
WAITING_MAX = 1_000
RUNNING_MAX = 1_000
PER_TURN_MAX = 100
"""Occurrences started by one turn while catching up."""

Source = Literal["schedule", "trigger", "backfill"]


class NoSuchSchedule(Rejected):
    """There is no schedule of this name (or it was deleted)."""

    code = "no_such_schedule"


class ScheduleExists(Conflict):
    """There is a schedule of this name that says something else."""

    code = "schedule_exists"


class ScheduledRun(BaseModel):
    """Something that a schedule has started."""

    token: str
    due_at: dt.datetime
    """The occurrence."""
    started_at: dt.datetime
    source: Source
    entity: str
    """`Type/key`"""
    workflow: str
    """The workflow, or the handler."""
    status: Literal["running", "cancelling", "sent", "completed", "failed"] = "running"
    """`sent`: a handler, of which the schedule hears no more."""
    ended_at: dt.datetime | None = None
    error: str = ""


class Waiting(BaseModel):
    """An occurrence that waits for the end of a run."""

    due_us: int
    source: Source


class ScheduleDescription(BaseModel):
    """A schedule as people see it."""

    spec: ScheduleSpec
    is_paused: bool
    note: str
    next: list[dt.datetime]
    """The next occurrences (without jitter); empty while it is paused."""
    running: list[ScheduledRun]
    waiting: list[dt.datetime]
    last: list[ScheduledRun]
    """The latest runs that have ended, newest last."""
    started: int
    skipped: int
    """Left out because of the overlap policy."""
    missed: int
    """Left out because nothing was running when they were due (counted to 10,000 each time)."""


class Schedule(Entity, name="PerdureSchedule"):
    """A schedule; its key is its name. See `schedule()`."""

    spec: ScheduleSpec | None = None
    anchor_us: int = 0
    looked_us: int = 0
    """Occurrences up to here have been dealt with."""
    is_paused: bool = False
    note: str = ""
    running: list[ScheduledRun] = Field(default_factory=list[ScheduledRun])
    waiting: list[Waiting] = Field(default_factory=list[Waiting])
    last: list[ScheduledRun] = Field(default_factory=list[ScheduledRun])
    started: int = 0
    skipped: int = 0
    missed: int = 0

    @handler
    async def create(self, spec: ScheduleSpec, replace: bool = False) -> None:
        """Make this schedule. Equal specs: nothing happens. Raises ScheduleExists for another one unless `replace`.

        Replacing keeps what is running, the counts and the pause; occurrences count from now.
        """
        if self.spec == spec:
            return
        if self.spec is not None and not replace:
            raise ScheduleExists(f"{self._name} exists and says something else; use replace=True, or delete it first")
        self._check(spec)
        self.spec = spec
        self.anchor_us = self.looked_us = _now_us()
        self.waiting = []
        self._arm()

    @handler
    async def delete(self) -> None:
        """Remove it. What it has started goes on."""
        self._the_spec()
        for name in type(self).model_fields:
            if name != "key":
                setattr(self, name, type(self).model_fields[name].get_default(call_default_factory=True))
        cancel_reminder("fire")

    @handler
    async def pause(self, note: str = "") -> None:
        """Start nothing more until `unpause`, with a note for people. `trigger` and `backfill` still work."""
        self._the_spec()
        self.is_paused, self.note = True, note
        cancel_reminder("fire")

    @handler
    async def unpause(self, note: str = "") -> None:
        """Go on with the next occurrence; those of the pause are not made up for (see `backfill`)."""
        self._the_spec()
        if self.is_paused:
            self.is_paused, self.looked_us = False, _now_us()
        self.note = note
        self._advance()
        self._arm()

    @handler
    async def trigger(self, overlap: Overlap | None = None) -> None:
        """Start it now, beside its times. overlap: another policy than the schedule's for this one."""
        self._take(_now_us(), "trigger", overlap or self._the_spec().overlap)

    @handler
    async def backfill(self, start: dt.datetime, end: dt.datetime, overlap: Overlap = "buffer_all") -> int:
        """Start what would have been due from `start` to `end` (both included). Returns how many that is.

        By default one after the other. At most 1,000 at a time.
        """
        if start.tzinfo is None or end.tzinfo is None:
            raise InvalidArguments(f"{self._name}: backfill: start and end need time zones")
        until_us = to_us(end)
        due: list[int] = []
        for due_us in self._the_spec().occurrences(to_us(start) - 1, self.anchor_us):
            if due_us > until_us:
                break
            due.append(due_us)
            if len(due) > WAITING_MAX - len(self.waiting) or (overlap == "allow" and len(due) > RUNNING_MAX // 2):
                raise InvalidArguments(f"{self._name}: backfill: too many occurrences from {start} to {end}; take less")
        for due_us in due:
            self._take(due_us, "backfill", overlap)
        return len(due)

    @query
    async def describe(self) -> ScheduleDescription:
        """What it says, what it does now, when it comes next. Raises NoSuchSchedule."""
        spec = self._the_spec()
        upcoming: list[dt.datetime] = []
        for due_us in spec.occurrences(max(self.looked_us, _now_us()), self.anchor_us):
            if self.is_paused or len(upcoming) == NEXT_SHOWN:
                break
            upcoming.append(from_us(due_us))
        return ScheduleDescription(
            spec=spec,
            is_paused=self.is_paused,
            note=self.note,
            next=upcoming,
            running=self.running,
            waiting=[from_us(one.due_us) for one in self.waiting],
            last=self.last,
            started=self.started,
            skipped=self.skipped,
            missed=self.missed,
        )

    # --- what its reminder and its runs send ---

    @handler(private=True)
    async def fire(self) -> None:
        """Its own reminder: start what is due. Called by anybody else it does nothing."""
        if self.spec is not None and not self.is_paused:
            for due_us in self._due(self.spec, _now_us()):
                self._take(due_us, "schedule", self.spec.overlap)
            self._arm()

    @handler(private=True)
    async def finished(self, token: str, outcome: dict[str, Any]) -> None:
        """A run of it has ended, or was refused."""
        run = next((run for run in self.running if run.token == token), None)
        if run is None:
            return  # of a schedule that was deleted meanwhile
        self.running.remove(run)
        error = outcome.get("error") or {}
        run.status, run.error = ("completed", "") if outcome.get("ok") else ("failed", str(error.get("message", "")))
        run.ended_at = now()
        self._keep(run)
        self._advance()

    # --- inside ---

    @property
    def _name(self) -> str:
        return f"schedule {self.key}"

    def _the_spec(self) -> ScheduleSpec:
        if self.spec is None:
            raise NoSuchSchedule(f"there is no schedule {self.key!r}")
        return self.spec

    def _check(self, spec: ScheduleSpec) -> None:
        """Raises InvalidArguments, UnknownType, UnknownHandler."""
        try:
            spec.check()
            definition = cast("HandlerTurn", current.get()).registry.get(spec.type)
            method = definition.workflows.get(spec.name) or definition.handlers.get(spec.name)
            if method is None:
                raise definition.unknown(spec.name)
            method.signature.load_arguments(encode_json(spec.arguments_for(_now_us())))
        except InvalidArguments as error:
            raise InvalidArguments(f"{self._name}: {error.message}", **error.details) from None

    def _arm(self) -> None:
        """Wait for the next occurrence."""
        spec = self._the_spec()
        due_us = next(spec.occurrences(self.looked_us, self.anchor_us), None)
        if due_us is None or self.is_paused:
            cancel_reminder("fire")
        else:
            remind(self.fire, at=from_us(spec.starts_us(self.key, due_us)), name="fire")

    def _due(self, spec: ScheduleSpec, now_us: int) -> list[int]:
        """Occurrences to be dealt with now; notes those that were missed."""
        window_us = min(spec.catch_up_window, ON_TIME if spec.catch_up == "none" else spec.catch_up_window)
        oldest_us = now_us - window_us // dt.timedelta(microseconds=1)
        due: list[int] = []
        for count, due_us in enumerate(spec.occurrences(self.looked_us, self.anchor_us)):
            if spec.starts_us(self.key, due_us) > now_us:
                break
            if count == MISSED_MAX:
                self.looked_us = now_us if spec.catch_up != "all" else self.looked_us
                break
            self.looked_us = due_us
            if spec.starts_us(self.key, due_us) < oldest_us:
                self.missed += 1
                continue
            if spec.catch_up != "all" and due:
                due.clear()
                self.missed += 1
            due.append(due_us)
            if len(due) == PER_TURN_MAX:
                break  # the reminder is set for a time that has passed, and fires again at once
        return due

    def _take(self, due_us: int, source: Source, overlap: Overlap) -> None:
        """Start an occurrence, or do what the policy says while others are running."""
        if not self.running and not self.waiting:
            self._begin(due_us, source)
            return
        match overlap:
            case "allow" if len(self.running) < RUNNING_MAX:
                self._begin(due_us, source)
            case "buffer_one" if not self.waiting:
                self.waiting.append(Waiting(due_us=due_us, source=source))
            case "buffer_all" if len(self.waiting) < WAITING_MAX:
                self.waiting.append(Waiting(due_us=due_us, source=source))
            case "cancel_previous":
                for run in self.running:
                    self._cancel(run)
                self.skipped += len(self.waiting)
                self.waiting = [Waiting(due_us=due_us, source=source)]
            case _:
                self.skipped += 1

    def _advance(self) -> None:
        """Nothing is running any more: start what has waited. A pause holds back what its times have brought."""
        while self.waiting and not self.running:
            ready = next((one for one in self.waiting if one.source != "schedule" or not self.is_paused), None)
            if ready is None or self.spec is None:
                return
            self.waiting.remove(ready)
            self._begin(ready.due_us, ready.source)

    def _begin(self, due_us: int, source: Source) -> None:
        spec = self._the_spec()
        turn = cast("HandlerTurn", current.get())
        definition = turn.registry.find(spec.type)
        is_workflow = definition is not None and spec.name in definition.workflows
        target = spec.target(due_us)
        token = new_message_id()
        turn.send(
            target,
            Kind.START if is_workflow else Kind.SEND,
            spec.name,
            encode_json(spec.arguments_for(due_us)),
            delay_us=0,
            message_id=f"{self.key}:{token}",
            options=f"restart,notify=finished/{token}" if is_workflow else "",
        )
        self.started += 1
        run = ScheduledRun(
            token=token,
            due_at=from_us(due_us),
            started_at=now(),
            source=source,
            entity=str(target),
            workflow=spec.name,
            status="running" if is_workflow else "sent",
        )
        if is_workflow:
            self.running.append(run)
        else:
            self._keep(run)

    def _cancel(self, run: ScheduledRun) -> None:
        if run.status != "cancelling":
            run.status = "cancelling"
            turn = cast("HandlerTurn", current.get())
            turn.send(EntityId.parse(run.entity), Kind.CANCEL, run.workflow, b"{}", delay_us=0, message_id="")

    def _keep(self, run: ScheduledRun) -> None:
        self.last = [*self.last[-RUNS_KEPT + 1 :], run]


async def schedule(
    name: str,
    action: BoundWorkflow[..., Any] | BoundHandler[..., Any],
    /,
    *,
    arguments: Mapping[str, Any] | None = None,
    every: dt.timedelta | float | None = None,
    cron: str = "",
    tz: str = "UTC",
    start_at: dt.datetime | None = None,
    end_at: dt.datetime | None = None,
    jitter: dt.timedelta | float = 0.0,
    overlap: Overlap = "skip",
    catch_up: CatchUp = "one",
    catch_up_window: dt.timedelta | float | None = None,
    replace: bool = True,
) -> Schedule:
    """Have a workflow started, or a handler sent to, at times.

    ```python
    await schedule("nightly", Report.ref("report-{time:%Y-%m-%d}").run, cron="0 2 * * *", tz="Europe/Berlin")
    ```

    Returns a reference to the schedule (see `Schedule`: pause, unpause, trigger, backfill, describe, delete). It may be
    called at every start of the application: an equal schedule is left as it is, another one of that name is replaced
    (or ScheduleExists raised, without `replace`). The fields are those of `ScheduleSpec`; numbers are seconds. `{time}`
    or `{time:%Y-%m-%d}` in the key and in texts among the arguments is the occurrence. In a handler it leaves with the
    turn's commit. Raises InvalidArguments.
    """
    target, method = Target.of(action.target), action.method
    try:
        plain = to_jsonable_python(dict(arguments or {}))
        spec = ScheduleSpec(
            type=target.entity_id.type,
            key=target.entity_id.key,
            name=method.name,
            arguments=plain,
            every=_duration(every),
            cron=cron,
            tz=tz,
            start_at=start_at,
            end_at=end_at,
            jitter=_duration(jitter) or dt.timedelta(0),
            overlap=overlap,
            catch_up=catch_up,
            catch_up_window=_duration(catch_up_window) or dt.timedelta(days=365),
        )
        spec.check()
        method.signature.load_arguments(msgspec.json.encode(spec.arguments_for(_now_us())))
    except (PydanticSerializationError, ValueError, InvalidArguments) as error:
        raise InvalidArguments(f"schedule {name}: {error}") from None
    made = Schedule.ref(name)
    turn = current.get()
    if turn is not None and turn.mode == "handler":
        await made.create.send(spec, replace=replace)
    else:
        await made.create(spec, replace=replace)
    return made


def _duration(value: dt.timedelta | float | None) -> dt.timedelta | None:
    return dt.timedelta(seconds=value) if isinstance(value, int | float) else value


def _now_us() -> int:
    return to_us(now())
