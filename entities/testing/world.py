"""A whole cluster in one test, on virtual time: the real engine, a store in memory, fakes for the outside world.

```python
async def test_unpaid_orders_are_cancelled() -> None:
    charge = fake(charge_customer, fails(2, ConnectionError, then="pay-1"))
    async with PerdureTest([Order], activities=[charge]) as world:
        order = Order.ref("o-1")
        await order.run.start(product_id=3)
        await world.advance(minutes=2)               # or simply await what must come: time skips to it
        assert await order.state() == "Refunding"
        await world.crash()                          # a host dies; what is not committed is lost
```

What a world checks by itself, whatever the test asserts: no attempt of an activity begins before the step that asks for
it is committed (P3) or after its result is (P7), and after every resume each workflow is replayed from its journal and
must come out the same. A wait for something that can never come fails at once and lists what every entity waits for.

Time begins at `start` and passes only when nothing can run. Ids, chance and the order of events depend on `seed` alone.
"""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from math import inf
from types import TracebackType
from typing import Any, Literal, Self

from ..calls import outside_clock
from ..definition import Registry
from ..engine.activities import ActivityCall
from ..engine.engine import Outlets
from ..engine.settings import EngineSettings
from ..entity import Entity
from ..messages import Envelope, Reply
from ..sources import sources
from ..store.rows import Batch, RunStatus
from .clock import VirtualClock
from .fakes import Attempt, Fake, fake
from .faults import Crasher, Fault, FaultyStore
from .local import LocalCluster
from .resume_check import NotRepeatable, check_resumes
from .runner import StagedRunner

START = datetime(2030, 1, 1, tzinfo=UTC)
FOREVER_S = 99 * 365 * 86400.0
"""A client's wait without limit: no timer is set for it, so that it never counts as something to wait for."""
SPIN_MAX = 20_000
"""So many commits at one moment are a loop without end."""


class Stuck(AssertionError):
    """Nothing can ever happen again, and somebody still waits."""


class UntimelyEffect(AssertionError):
    """An activity was executed before the step that asked for it was committed, or after its own result was."""


@dataclass(frozen=True)
class Point:
    """A moment at which something goes wrong."""

    kind: Literal["commit", "attempt"]
    number: int
    """Of all commits, or of all attempts of activities, in order, from 0."""
    when: Literal["before", "after"]
    what: Literal["crash", "store failure"] = "crash"
    """The host dies; or the store fails at this commit, before or after it has written."""

    def __str__(self) -> str:
        return f"{self.what} {self.when} {self.kind} {self.number}"


_FAULTS = {
    ("crash", "before"): Fault.CRASH_BEFORE,
    ("crash", "after"): Fault.CRASH_AFTER,
    ("store failure", "before"): Fault.BEFORE,
    ("store failure", "after"): Fault.AFTER,
}


class PerdureTest(LocalCluster):
    """The world of one test. Use it as `async with PerdureTest([...]) as world`."""

    default_timeout_s = FOREVER_S

    def __init__(
        self,
        entities: Iterable[type[Entity]],
        *,
        activities: Iterable[Fake] | Mapping[Any, Any] = (),
        hosts: int = 1,
        evict: bool = False,
        check_resumes: bool = True,
        start: datetime = START,
        seed: int = 0,
        settings: EngineSettings | None = None,
    ) -> None:
        """`activities`: fakes, or {activity: behaviour}; an activity without a fake is really executed.

        evict: nothing stays in memory longer than its commit. check_resumes: replay every workflow after every resume.
        """
        self.clock = VirtualClock(start)
        self.attempts: list[Attempt] = []
        """Every attempt of an activity, in order."""
        self.fault_at: Point | None = None
        """Where something goes wrong next."""
        self.faults = 0
        """How often it did."""
        self._memory = FaultyStore(shards=8, now_us=self.clock.now_us)
        settings = settings or EngineSettings()
        if evict:
            settings = replace(settings, evict_after_every_turn=True)
        super().__init__(entities, store=self._memory, hosts=hosts, settings=settings)
        self.session = f"test-{seed}"
        self._random = random.Random(seed)  # noqa: S311 - repeatable chance is the point
        self._fakes: dict[Callable[..., Any], Fake] = {}
        self._put_fakes(activities)
        self._checks_resumes = check_resumes
        self._crasher = Crasher(self, self._memory)
        self._failure: AssertionError | None = None
        self._spinning_since = (0, 0)
        self._succeeded: dict[str, Attempt] = {}
        self.callers: Counter[str] = Counter()
        """Requests of clients that are under way."""
        self._memory.pick = self._pick
        self._memory.written = self._written
        self._memory.linger = self.clock.linger
        self.clock.next_due_us = self._next_due_us
        self.clock.has_work = self._has_work
        self.clock.stuck = self._stuck

    def _put_fakes(self, activities: Iterable[Fake] | Mapping[Any, Any]) -> None:
        if isinstance(activities, Mapping):
            activities = [_fake(activity, behaviour) for activity, behaviour in activities.items()]
        for it in activities:
            self._fakes[it.activity.fn] = it

    async def __aenter__(self) -> Self:
        self.clock.install()
        sources.time_ns = lambda: self.clock.now_us() * 1_000
        sources.entropy = self._random.randbytes
        outside_clock.last = 0
        try:
            return await super().__aenter__()
        except BaseException:
            self._give_back()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._crasher.settle()
            await super().__aexit__(kind, error, trace)
        finally:
            self._give_back()
        if self._failure is not None and kind is None:
            raise self._failure

    def _give_back(self) -> None:
        self.clock.uninstall()
        sources.reset()

    # --- time ---

    def now(self) -> datetime:
        """The time in this world, in UTC."""
        return self.clock.now()

    async def advance(self, duration: timedelta | None = None, **parts: float) -> datetime:
        """Let this much time pass, `advance(timedelta(days=1))` or `advance(days=1)`, and everything that it brings.

        Returns the new time.
        """
        await asyncio.sleep((duration or timedelta(**parts)).total_seconds())
        await self.settled()
        return self.now()

    async def settled(self) -> None:
        """Wait until nothing more happens without time passing. Raises what the world has found wrong so far."""
        await self.clock.settled()
        self._raise()

    # --- what goes wrong on request ---

    async def restart(self, entities: Iterable[type[Entity]] | None = None) -> None:
        """Stop every host in order and start new ones, with other classes if `entities` says so (a deploy)."""
        hosts = len(self.engines)
        await self._stop_all()
        if entities is not None:
            self.registry = Registry(entities)
        await self._start_all(hosts)

    @asynccontextmanager
    async def outage(self) -> AsyncGenerator[None]:
        """Everything is down while this block runs: all hosts die; whoever calls meanwhile waits."""
        hosts = len(self.engines)
        for engine in [self.kill() for _ in range(hosts)]:
            await engine.stop()
            await self.store.fence(engine.incarnation, is_dead=True)
        try:
            yield
        finally:
            await self._start_all(hosts)

    async def _stop_all(self) -> None:
        self._is_served.clear()
        while self.engines:
            engine = self.engines[0]
            await engine.stop()
            self.kill()
            await self.store.retire(engine.incarnation)

    async def _start_all(self, hosts: int) -> None:
        for _ in range(hosts):
            await self.add_host()
        await self.balance()

    # --- looking inside ---

    @property
    def commits(self) -> int:
        """Commits tried so far."""
        return len(self._memory.commits)

    def states(self) -> dict[str, Any]:
        """The committed state of every entity, by `Type/key`, as JSON values."""
        return {entity: json.loads(state) for entity, state in self._memory.states().items()}

    def effects(self) -> Counter[str]:
        """What activities did to the outside world: each once per idempotency key, however many attempts it took."""
        done = self._succeeded.values()
        return Counter(f"{a.entity} {a.activity} {json.dumps(a.arguments)}" for a in done)

    @property
    def dead_letters(self) -> list[str]:
        """Messages that were given up: `Type/key.handler: error`."""
        return [f"{letter.envelope.entity}.{letter.envelope.name}" for letter in self._memory.dead_letters]

    # --- the caller's side ---

    async def request(self, envelope: Envelope, *, timeout_s: float) -> Reply:
        """See `perdure.entities.client.Caller`."""
        self._raise()
        caller = f"{envelope.entity}.{envelope.name} ({envelope.kind})"
        self.callers[caller] += 1
        try:
            # What `deliver` has left of FOREVER_S may be a little less.
            return await super().request(envelope, timeout_s=inf if timeout_s > FOREVER_S - 60 else timeout_s)
        finally:
            self.callers -= Counter([caller])

    # --- what happens inside ---

    @asynccontextmanager
    async def attempt(self, call: ActivityCall, incarnation: str) -> AsyncGenerator[Callable[..., Any]]:
        """See `runner.Stage`."""
        key = call.info.idempotency_key
        if key in self._memory.settled:
            self._fail(UntimelyEffect(f"activity {call.name} {key} began after its result had been committed"))
        if key not in self._memory.asked:
            self._fail(
                UntimelyEffect(f"activity {call.name} {key} began before the step that asks for it is committed")
            )
        number = len(self.attempts)
        attempt = Attempt(
            entity=call.entity,
            activity=call.name,
            arguments=json.loads(call.args),
            attempt=call.attempt,
            idempotency_key=key,
            at=self.now(),
        )
        self.attempts.append(attempt)
        await self._die_at(Point("attempt", number, "before"), incarnation)
        stand_in = self._fakes.get(call.fn)
        if stand_in is not None:
            stand_in.calls.append(attempt)
        try:
            yield stand_in or call.fn
            self._succeeded[key] = attempt
        finally:
            await self._die_at(Point("attempt", number, "after"), incarnation)

    async def _die_at(self, point: Point, incarnation: str) -> None:
        if self.fault_at == point:
            self.faults += 1
            self._crasher.crash(incarnation)
            await asyncio.Event().wait()

    def _pick(self, number: int, _: Batch) -> Fault:
        if self._spinning_since[0] != self.clock.now_us():
            self._spinning_since = (self.clock.now_us(), number)
        elif number - self._spinning_since[1] > SPIN_MAX:
            self._fail(Stuck(f"{SPIN_MAX} commits without any time passing.{waiting_report(self._memory)}"))
        point = self.fault_at
        if point is None or point.kind != "commit" or point.number != number:
            return Fault.NONE
        self.faults += 1
        return _FAULTS[point.what, point.when]

    async def _written(self, batch: Batch) -> None:
        self.clock.worked()
        if not self._checks_resumes:
            return
        resumed = [write.entity for write in batch.writes if write.journal]
        for loaded in await self._memory.load(resumed):
            try:
                check_resumes(self.registry.get(loaded.entity.type), loaded)
            except NotRepeatable as problem:
                self._fail(problem)

    def _outlets(self, incarnation: str) -> Outlets:
        return replace(
            super()._outlets(incarnation),
            activity_runner=partial(StagedRunner, stage=self, incarnation=incarnation),
        )

    # --- when nothing can happen any more ---

    def _next_due_us(self) -> int | None:
        now_us = self.clock.now_us()
        return min((row.due_us for row in self._memory.reminder_rows() if row.due_us > now_us), default=None)

    def _has_work(self) -> bool:
        now_us = self.clock.now_us()
        return bool(self._memory.waiting_messages()) or any(
            row.due_us <= now_us for row in self._memory.reminder_rows()
        )

    def _stuck(self) -> None:
        error = Stuck(
            f"at {self.now():%Y-%m-%d %H:%M:%S} nothing can happen any more (no timer, no activity, no message), and "
            f"somebody still waits. {waiting_report(self._memory, self.callers)}"
        )
        waiting = [answer for answers in self._waiting.values() for answer in answers if not answer.done()]
        if not waiting:
            self.clock.uninstall()  # whoever cleans up after this error does so in real time
            raise error
        for answer in waiting:
            answer.set_exception(error)

    def _fail(self, error: AssertionError) -> None:
        """Something is wrong that no user code can know: tell whoever waits, else whoever asks next."""
        waiting = [answer for answers in self._waiting.values() for answer in answers if not answer.done()]
        for answer in waiting:
            answer.set_exception(error)
        self.clock.fail(error)
        self._failure = self._failure or error

    def _raise(self) -> None:
        if self._failure is not None:
            raise self._failure

    def __repr__(self) -> str:
        return f"<test world at {self.now():%Y-%m-%d %H:%M:%S}, {len(self.engines)} hosts, {self.commits} commits>"


def _fake(activity: Any, behaviour: Any) -> Fake:
    return behaviour if isinstance(behaviour, Fake) else fake(activity, behaviour)


def waiting_report(store: FaultyStore, callers: Iterable[str] = ()) -> str:
    """What every entity waits for, for people."""
    lines = [f"{entity}.{row.workflow} is parked" for entity, row in store.runs() if row.status is RunStatus.PARKED]
    lines += [
        f"{entity}.{row.workflow} waits for {row.waiting or 'nothing'}"
        for entity, row in store.runs()
        if row.status is RunStatus.RUNNING
    ]
    lines += [f"{envelope.entity} has the message {envelope.name} waiting" for envelope in store.waiting_messages()]
    lines += [f"a client waits for {caller}" for caller in callers]
    return "".join(f"\n  {line}" for line in lines) or "No workflow is running."
