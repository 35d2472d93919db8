"""Each workload runs clean in a small world with crashes, and its checks tell what they are there for.

Seeds are printed. PERDURE_SEEDS=50 tries more.
"""

import json
import os
import random
from dataclasses import replace
from typing import Any

import pytest

from perdure.entities.engine.settings import EngineSettings
from perdure.entities.ids import EntityId
from perdure.entities.store.rows import HistoryRow, RunStatus
from simulation.audit import audit_archive
from simulation.contract import Audit, Consumed, Violation, Workload
from simulation.record import Came, Record
from simulation.workloads import WORKLOADS
from simulation.workloads.graph import Graph
from simulation.workloads.programs import tally

from .driver import LocalWorld, play

SEEDS = range(int(os.environ.get("PERDURE_SEEDS", "2")))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", WORKLOADS)
async def test_a_workload_is_clean(name: str, seed: int) -> None:
    workload, record, audit = await play(WORKLOADS[name], seed, rate=(0.1, 0.0)[seed % 2], evict=seed % 4 < 2)
    assert [str(problem) for problem in workload.check(record, audit)] == []
    assert record.count(Came.OK) > 0
    assert audit.history


def text_of(problems: list[Violation]) -> str:
    return "\n".join(map(str, problems))


async def damaged(name: str, damage: Any, *, seed: int = 1) -> str:
    """What the workload says of a clean run whose audit or record was changed afterwards."""
    workload, record, audit = await play(WORKLOADS[name], seed, rate=0.0, evict=False)
    return text_of(workload.check(record, damage(record, audit)))


def with_state(audit: Audit, type_name: str, change: Any) -> Audit:
    """The first entity of this type for whose state the change makes a difference."""
    for entity, data in audit.states.items():
        if entity.type == type_name:
            state = json.loads(data)
            change(state)
            if state != json.loads(data):
                return replace(audit, states={**audit.states, entity: json.dumps(state).encode()})
    raise AssertionError(f"nothing to damage in {type_name}")


def lists(name: str) -> Any:
    """Take the last one away."""
    return lambda state: state[name] and state[name].pop()


@pytest.mark.parametrize(
    ("name", "type_name", "change", "told"),
    [
        ("W1", "Bag", lists("elements"), "lost"),
        ("W2", "Listener", lists("heard"), "I streams"),
        ("W3", "Vault", lambda state: state.update(vault=state["vault"] + 1), "E conservation"),
        ("W3", "Vault", lambda state: state.update(till=state["till"] - 1), "held; at least"),
        ("W4", "Hub", lists("hits"), "lost"),
        ("W7", "Job", lists("values"), "results of"),
        ("W8", "Life", lists("got"), "A set-full"),
        ("W8", "Life", lists("notes"), "lost"),
        ("W9", "Cell", lambda state: state.update(total=state["total"] + 1), "its programs come to"),
        ("W10", "Cashbox", lambda state: state["receipts"].append(state["receipts"][0]), "2 effects"),
        ("W11", "Bystander", lambda state: state["elements"].clear(), "lost"),
        ("W11", "Victim", lambda state: state["touched"].append("u0-1"), "kept something of a turn that failed"),
        ("W13", "Doc", lambda state: [part.pop() for part in state["parts"].values() if part], "lost"),
    ],
)
async def test_a_state_that_lies(name: str, type_name: str, change: Any, told: str) -> None:
    assert told in await damaged(name, lambda _, audit: with_state(audit, type_name, change))


async def test_a_register_that_answers_wrongly() -> None:
    def damage(record: Record, audit: Audit) -> Audit:
        read = next(op for op in record.of("look", "read") if op.is_ok)
        read.result = -7
        return audit

    told = await damaged("W5", damage)
    assert "C version order" in told
    assert "D search" in told


async def test_a_reminder_that_fires_early() -> None:
    def damage(_: Record, audit: Audit) -> Audit:
        return replace(audit, history=[_earlier(past) if past.row.name == "ring" else past for past in audit.history])

    assert "early" in await damaged("W6", damage)


def _earlier(past: Consumed) -> Consumed:
    return past._replace(at_us=json.loads(past.row.outcome)["due_us"] - 1)


async def test_a_saga_that_was_told_to_be_done_and_failed() -> None:
    def damage(_: Record, audit: Audit) -> Audit:
        done = [(entity, run) for entity, run in audit.runs if run.status is RunStatus.COMPLETED]
        assert done, "another seed"
        return replace(audit, runs=[(entity, run._replace(status=RunStatus.FAILED)) for entity, run in audit.runs])

    assert "J sagas" in await damaged("W3", damage, seed=3)


async def test_a_dead_letter_that_vanished() -> None:
    told = await damaged("W11", lambda _, audit: replace(audit, dead_letters=[]))
    assert "accepted poison is not among the dead letters" in told


async def test_a_message_that_is_consumed_twice() -> None:
    def damage(_: Record, audit: Audit) -> Audit:
        call = next(past for past in audit.history if past.entity.type == "Hub")
        return replace(audit, history=[*audit.history, _copy(call)])

    told = await damaged("W4", damage)
    assert "B chain" in told
    assert "I bijection" in told


def _copy(past: Consumed) -> Consumed:
    row: HistoryRow = past.row._replace(version=past.row.version + 1)
    return past._replace(row=row, entity=EntityId("Hub", "another"))


@pytest.mark.parametrize("name", ["W3", "W6", "W8", "W11"])
async def test_the_archive_gives_the_same_audit(name: str) -> None:
    """What a campaign on Postgres reads, beside what is parked."""
    workload = WORKLOADS[name](random.Random(5), 1)
    async with LocalWorld(workload.entities, random.Random(5), rate=0.0, settings=EngineSettings()) as world:
        await workload.drive(world)
        await workload.settle(world)
        whole = await world.cut()
        read = await audit_archive(world.archive, whole.versions, at_us=whole.at_us)
    for part in ("states", "versions", "history", "journal", "runs", "reminders", "items", "attempts", "inbox"):
        assert getattr(read, part) == getattr(whole, part), part
    key = lambda letter: letter.letter.envelope.id  # noqa: E731
    assert sorted(read.dead_letters, key=key) == sorted(whole.dead_letters, key=key)
    assert workload.check(world.record, read) == []


def test_a_plan_is_repeatable() -> None:
    for make in WORKLOADS.values():
        one, other = make(random.Random(3), 1), make(random.Random(3), 1)
        assert {k: v for k, v in vars(one).items() if k not in ("rng", "witness")} == {
            k: v for k, v in vars(other).items() if k not in ("rng", "witness")
        }


def test_sizes_scale() -> None:
    def events(make: type[Workload], size: int) -> int:
        return sum(len(str(vars(make(random.Random(seed), size)))) for seed in range(5))

    for name, make in WORKLOADS.items():
        assert events(make, 4) > 1.5 * events(make, 1), name


def test_the_sum_of_a_program() -> None:
    commands: list[Any] = [
        ["add", 1],
        ["call", "c", 2],
        ["relay", "c", "d", 3],
        ["toil", -1, 9],
        ["child", "k", ["add", 5], ["all", ["send", "d", 4], ["sleep", 1]]],
    ]
    assert tally("p", commands) == {
        "Interpreter/p": 1 + 2 + 1 + 5, "Interpreter/k": 5, "Cell/c": 2 + 3, "Cell/d": 3 + 4
    }  # fmt: skip


def test_rings_are_planned() -> None:
    plans = [str(Graph(random.Random(seed), 1).trips) for seed in range(10)]
    assert any("'ring'" in plan for plan in plans)
