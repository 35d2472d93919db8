"""Hostile configurations: the suites again, on engines that are set or treated as badly as they may be.

`pytest --hostile=evict tests/engine` runs tests under one of them, `python -m tests.hostile` under all, one after the
other, with a summary (`make hostile`). Each patches the real engine of every test from outside; production code knows
nothing of it. Chance comes from `--hostile-seed` and the name of the test, so that a failure can be repeated.

A test that cannot hold under a configuration by its nature says so:
`@pytest.mark.unfit("poll", reason="it is about wake-ups")`; what was left out is printed with its reason.
"""

# ruff: noqa: T201 - the summary is for the terminal

import argparse
import random
import re
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakValueDictionary

from perdure.entities.engine.activation import Activation
from perdure.entities.engine.arrivals import Arrivals
from perdure.entities.engine.deliveries import ActivityDone, Fire, Item
from perdure.entities.engine.engine import Engine
from perdure.entities.ids import EntityId
from perdure.entities.messages import Envelope, Reply
from perdure.entities.sources import sources
from perdure.entities.store.memory import MemoryStore
from perdure.entities.store.rows import Batch
from perdure.entities.testing.resume_check import NotRepeatable, check_resumes

SUITES = (
    "tests/engine", "tests/kit", "tests/stories", "tests/store/test_promises.py", "tests/store/test_runs_over_time.py",
    "tests/store/test_staged.py", "tests/store/test_steps.py",
)  # fmt: skip
"""All that run an engine without Ray."""


@dataclass
class Chance:
    """Repeatable chance: begins anew with each test."""

    seed: int = 0
    draw: random.Random = field(default_factory=random.Random)

    def begin(self, test: str) -> None:
        self.draw.seed(f"{self.seed}:{test}")


chance = Chance()
findings: list[NotRepeatable] = []
"""What the replay check has found in this test."""


class _Shuffled(deque[Any]):
    """A queue of which anything may come next."""

    def popleft(self) -> Any:
        self.rotate(-chance.draw.randrange(len(self)))
        return super().popleft()


def _set(**settings: Any) -> Callable[[], None]:
    """Whatever a test has set, these settings are so."""

    def patch() -> None:
        make = Engine.__init__

        def hostile(self: Engine, **arguments: Any) -> None:
            arguments["settings"] = replace(arguments["settings"], **settings)
            make(self, **arguments)

        Engine.__init__ = hostile  # type: ignore[method-assign]

    return patch


def _drop_hints() -> None:
    """No wake-up ever arrives: what a commit has put into an inbox is found by looking."""

    def silent(self: Engine, entity: EntityId) -> None:
        pass

    Engine.hint = silent  # type: ignore[method-assign]
    _set(mail_poll_s=0.02)()


def _repeat_everything() -> None:
    """Requests, wake-ups, mail, due reminders and outcomes of activities arrive twice."""
    deliver, wake, mail, offer = Engine.deliver, Arrivals.wake, Arrivals.mail, Arrivals.offer

    def deliver_twice(self: Engine, envelope: Envelope, respond: Callable[[Reply], None]) -> None:
        waiting = [respond]

        def once(reply: Reply) -> None:
            if waiting:
                waiting.pop()(reply)

        deliver(self, envelope, once)
        deliver(self, envelope, once)

    def wake_twice(self: Arrivals, entities: Sequence[EntityId]) -> int:
        wake(self, entities)
        return wake(self, entities)

    def mail_twice(
        self: Arrivals, asked: Mapping[EntityId, Activation], envelopes: Sequence[Envelope], *, per_entity_max: int
    ) -> None:
        mail(self, asked, envelopes, per_entity_max=per_entity_max)
        mail(self, asked, envelopes, per_entity_max=per_entity_max)

    def offer_twice(self: Arrivals, entity: EntityId, item: Item) -> None:
        offer(self, entity, item)
        if isinstance(item, Fire):
            offer(self, entity, Fire(item.row))
        elif type(item) is ActivityDone:  # what waits for a person is said once, within one process
            offer(self, entity, item)

    Engine.deliver = deliver_twice  # type: ignore[method-assign]
    Arrivals.wake = wake_twice  # type: ignore[method-assign]
    Arrivals.mail = mail_twice  # type: ignore[method-assign]
    Arrivals.offer = offer_twice  # type: ignore[method-assign]


def _shuffle() -> None:
    """Entities that are ready take their turns in any order."""
    make = Engine.__init__

    def hostile(self: Engine, **arguments: Any) -> None:
        make(self, **arguments)
        self._ready = _Shuffled()

    Engine.__init__ = hostile  # type: ignore[method-assign]
    _set(turns_per_tick=3)()


def _replay() -> None:
    """After every resume each run of the entity is rebuilt from its journal, and must come out the same."""
    make, commit = Engine.__init__, MemoryStore.commit
    engines: WeakValueDictionary[str, Engine] = WeakValueDictionary()

    def known(self: Engine, **arguments: Any) -> None:
        make(self, **arguments)
        engines[self.incarnation] = self

    async def checked(self: MemoryStore, batch: Batch) -> int:
        written_us = await commit(self, batch)
        engine = engines.get(batch.incarnation)
        if engine is None:
            return written_us
        for loaded in await MemoryStore.load(self, [write.entity for write in batch.writes if write.journal]):
            try:
                check_resumes(engine.registry.get(loaded.entity.type), loaded)
            except NotRepeatable as problem:
                findings.append(problem)
        return written_us

    Engine.__init__ = known  # type: ignore[method-assign]
    MemoryStore.commit = checked  # type: ignore[method-assign]


def _doubt_the_lease() -> None:
    """Half of the time the host must not answer from memory: its lease seems to have run out.

    Not in test worlds: there time is exact, and every other try takes some.
    """

    def doubtful(self: Engine) -> bool:
        return sources.time_ns is not time.time_ns or chance.draw.random() < 0.5

    Engine.has_lease = doubtful  # type: ignore[method-assign]


@dataclass(frozen=True)
class Hostile:
    """One configuration."""

    means: str
    patch: Callable[[], None]


HOSTILE = {
    "evict": Hostile("eviction after every turn", _set(evict_after_every_turn=True)),
    "one": Hostile("group commits of one entity, one turn between two looks, one message read", _set(
        commit_entities_max=1, turns_per_tick=1, load_max=1, inbox_max=1)),
    "timers": Hostile("a timer window of 10 ms, one reminder at a time", _set(timer_window_s=0.01, timer_batch=1)),
    "replay": Hostile("replay check on every resume", _replay),
    "poll": Hostile("poll only: no wake-up arrives", _drop_hints),
    "twice": Hostile("every internal message twice", _repeat_everything),
    "retention": Hostile("outcomes are kept for half a second", _set(history_retention_s=0.5, prune_every_s=0.02)),
    "shuffle": Hostile("any order of ready entities", _shuffle),
    "lease": Hostile("the lease is in doubt half of the time", _doubt_the_lease),
}  # fmt: skip


def unfit(arguments: Sequence[str], name: str) -> bool:
    """Whether `@pytest.mark.unfit(*arguments)` is about this configuration."""
    unknown = [argument for argument in arguments if argument not in HOSTILE]
    assert not unknown, f"no such hostile configuration: {unknown}"
    return name in arguments


def main(arguments: Sequence[str] | None = None) -> int:
    """All configurations, or those named, one after the other."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(HOSTILE)}; default: all")
    parser.add_argument("--suites", nargs="+", default=SUITES)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    asked = parser.parse_args(arguments)
    for name in set(asked.names) - HOSTILE.keys():
        parser.error(f"no such configuration: {name}; there are {', '.join(HOSTILE)}")
    lines: list[str] = []
    is_good = True
    for name in asked.names or HOSTILE:
        command = [sys.executable, "-m", "pytest", "-q", "-rfEs", f"--hostile={name}", f"--hostile-seed={asked.seed}"]
        done = subprocess.run([*command, *asked.suites], check=False, stdout=subprocess.PIPE, text=True)
        print(done.stdout)
        tally = Counter(
            {what: int(number) for number, what in re.findall(r"(\d+) (\w+)", done.stdout.splitlines()[-1])}
        )
        is_good = is_good and done.returncode == 0
        counts = f"{tally['passed']:5} passed {tally['failed'] + tally['error'] + tally['errors']:4} failed"
        lines.append(f"{name:10} {counts} {tally['skipped']:4} unfit   {HOSTILE[name].means}")
    print(f"hostile configurations, seed {asked.seed}", *lines, sep="\n")
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
