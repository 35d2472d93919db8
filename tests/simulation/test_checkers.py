"""Every checker passes a clean record, and tells each kind of damage that it is there for."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from perdure.entities import Entity, handler
from perdure.entities.engine.journal import Entry, Event, EventKind, OperationKind, Scheduled, encode_entry
from perdure.entities.ids import EntityId
from perdure.entities.messages import Envelope, Kind
from perdure.entities.store.archive import Letter
from perdure.entities.store.rows import (
    STATE_UNCHANGED,
    AttemptRow,
    DeadLetter,
    HistoryRow,
    JournalRow,
    ReminderKind,
    ReminderRow,
    RunRow,
    RunStatus,
)
from simulation.checkers import (
    CancelCommand,
    Firing,
    Model,
    Part,
    SetCommand,
    all_or_compensated,
    bijection,
    calls,
    chain,
    complete,
    conserved,
    fidelity,
    in_order,
    journalled_once,
    linearizable,
    never_below,
    occurrences,
    one_effect,
    quiescent,
    results_agree,
    seen_at_once,
    served,
    set_full,
    set_report,
    vacuity,
    version_order,
    within,
    witness_join,
)
from simulation.checkers.sagas import Ended
from simulation.contract import Audit, Consumed, Resumed, Violation
from simulation.record import Came, Op, Record
from simulation.witness import Entry as Seen_
from simulation.witness import Seen

A, B = EntityId("T", "a"), EntityId("T", "b")


def told(problems: Sequence[Violation], *words: str) -> None:
    """One of them says all of this."""
    assert any(all(word in str(problem) for word in words) for problem in problems), [str(p) for p in problems]


def op(
    name: str = "add",
    argument: Any = None,
    *,
    came: Came = Came.OK,
    result: Any = None,
    at: float = 0.0,
    until: float | None = None,
    entity: EntityId = A,
    **more: Any,
) -> Op:
    number = more.pop("id", 0)
    return Op(
        number,
        "c",
        entity,
        name,
        argument,
        at,
        float("inf") if came is Came.UNKNOWN and until is None else until if until is not None else at + 1,
        came,
        result,
        **more,
    )


def turn(
    version: int,
    name: str = "add",
    *,
    entity: EntityId = A,
    at_us: int = 0,
    message: str = "",
    args: Any = None,
    result: Any = None,
    ok: bool = True,
    state: bytes = STATE_UNCHANGED,
) -> Consumed:
    arguments, outcome = json.dumps(args or {}).encode(), json.dumps(result).encode()
    row = HistoryRow(message or f"m{version}", version, "call", name, "c", b"", arguments, ok, outcome, state)
    return Consumed(entity, at_us, row)


def resume(
    version: int,
    number: int,
    *,
    run: str = "r1",
    asks: Sequence[tuple[int, OperationKind]] = (),
    ends: Sequence[tuple[int, Any]] = (),
    entity: EntityId = A,
    state: bytes = STATE_UNCHANGED,
) -> Resumed:
    entry = Entry(
        now_us=0,
        events=[Event(EventKind.VALUE, n, msgspec.Raw(json.dumps(value).encode())) for n, value in ends],
        operations=[Scheduled(n, kind, "x") for n, kind in asks],
    )
    return Resumed(entity, 0, JournalRow("run", run, number, version, encode_entry(entry), state))


# --- A ---

ADDED = [
    op(argument="x"),
    op(argument="y", came=Came.FAIL),
    op(argument="z", came=Came.UNKNOWN),
    op(argument="w", came=Came.UNKNOWN),
]


def test_set_full_of_what_is_right() -> None:
    report = set_report(ADDED, {A: ["z", "x"]})
    assert report.violations("P1") == []
    assert (report.attempted, report.ok, report.failed, report.unknown, report.final) == (4, 1, 1, 2, 2)
    assert report.recovered == 1
    assert "0 lost" in str(report)
    again = [op(argument="x", came=Came.UNKNOWN), op(argument="x")]
    assert set_full(again, {A: ["x"]}) == []


@pytest.mark.parametrize(
    ("final", "word"),
    [
        ({A: ["z"]}, "lost"),
        ({A: ["x", "x"]}, "duplicated"),
        ({A: ["x", "q"]}, "phantom"),
        ({A: ["x", "y"]}, "resurrected"),
        ({B: ["x"]}, "lost"),
        ({A: ["x"], B: ["x"]}, "phantom"),
    ],
)
def test_set_full_tells(final: dict[EntityId, list[str]], word: str) -> None:
    told(set_full(ADDED, final), "A set-full", word)


def test_keys() -> None:
    mismatch = op(argument=2, came=Came.FAIL, error="idempotency_mismatch")
    right = [op(argument=1, result="r1"), op(argument=1, result="r1"), mismatch, op(argument=1, came=Came.UNKNOWN)]
    assert one_effect({"k": right, "never": [op(argument=1, came=Came.UNKNOWN)]}, [("k", 1)]) == []
    told(one_effect({"k": right}, [("k", 1), ("k", 1)]), "2 effects")
    told(one_effect({"k": right}, []), "acknowledged, but the effect is none")
    told(one_effect({"k": [*right, op(argument=1, result="r2")]}, [("k", 1)]), "different results")
    told(one_effect({"k": [mismatch]}, [("k", 2)]), "the one that counted")
    told(one_effect({"k": [op(argument=1, came=Came.FAIL)]}, [("k", 1)]), "refused to everybody")
    told(one_effect({}, [("k", 1)]), "nobody used it")


# --- B ---


def test_a_chain_that_is_whole() -> None:
    audit = Audit(
        versions={A: 4},
        history=[turn(1), turn(2, "run"), turn(4)],
        journal=[resume(2, 0, asks=[(0, OperationKind.ACTIVITY)]), resume(3, 1, ends=[(0, "v")])],
    )
    assert chain(audit) == []


def test_a_late_answer_leaves_no_row() -> None:
    audit = Audit(
        versions={A: 3}, history=[turn(1, "run")], journal=[resume(1, 0, asks=[(0, OperationKind.CALL)]), resume(2, 1)]
    )
    assert chain(audit) == []
    told(chain(replace(audit, versions={A: 4})), "nothing made the versions [3, 4]")


@pytest.mark.parametrize(
    ("audit", "word"),
    [
        (Audit(versions={A: 3}, history=[turn(1), turn(3)]), "nothing made the versions [2]"),
        (Audit(versions={A: 1}, history=[turn(1), turn(2)]), "the snapshot is at 1"),
        (Audit(versions={A: 1}, history=[turn(0), turn(1)]), "made version 0"),
        (Audit(versions={}, history=[turn(1)]), "no snapshot"),
        (Audit(versions={A: 1}, history=[turn(1), turn(1, message="other")]), "two messages made version 1"),
        (Audit(versions={A: 2}, history=[turn(1, message="m"), turn(2, message="m")]), "consumed twice"),
        (Audit(versions={A: 1}, journal=[resume(1, 0), resume(1, 1)]), "two resumes of run made version 1"),
        (Audit(versions={A: 2}, journal=[resume(1, 0), resume(2, 2)]), "resumes [0, 2]"),
        (Audit(versions={A: 2}, journal=[resume(2, 0), resume(1, 1)]), "made the versions [2, 1]"),
        (
            Audit(versions={A: 3}, journal=[resume(1, 0), resume(3, 1), resume(2, 0, run="r2")]),
            "run r2 began at version 2, run r1 went on until 3",
        ),
    ],
)
def test_a_chain_that_is_broken(audit: Audit, word: str) -> None:
    told(chain(audit), "B chain", word)


def test_a_pruned_chain_may_lack_its_beginning() -> None:
    assert chain(Audit(versions={A: 9}, history=[turn(8), turn(9)], is_complete=False)) == []


# --- C and D ---

CELL = Model[int](
    0, lambda state, name, args: (args["v"], state) if name == "write" else (state, state), lambda state, _: state
)


def written(version: int, value: int, before: int, **more: Any) -> Consumed:
    return turn(version, "write", args={"v": value}, result=before, message=f"m{value}", **more)


def write(value: int, before: int, at: float, **more: Any) -> Op:
    return op("write", {"v": value}, result=before, at=at, id=value, message_ids=[f"m{value}"], **more)


def look(value: int, version: int, at: float, **more: Any) -> Op:
    return op("look", result=value, at=at, id=900 + int(at), versions=[version], **more)


CELLS = Audit(versions={A: 2}, history=[written(1, 5, 0), written(2, 6, 5)])


def judged(*ops: Op, audit: Audit = CELLS) -> list[Violation]:
    return version_order(ops, audit, CELL, queries=["look"])


def test_a_transaction_is_seen_from_its_commit_on() -> None:
    entity = EntityId("Vault", "v")
    reads = [Op(0, "c", entity, "look", None, 2.0, 2.1, Came.OK, versions=[3]), Op(1, "c", entity, "look", None, 9.0)]
    assert seen_at_once([(1.0, entity, 3), (2.05, entity, 4), (1.0, EntityId("Vault", "w"), 9)], reads) == []
    told(seen_at_once([(1.9, entity, 4)], reads), "C version order", "version 4 was committed at 1.900 s, read was 3")


def test_an_order_that_is_right() -> None:
    assert judged(write(5, 0, 0), look(5, 1, 2), write(6, 5, 4), look(6, 2, 6)) == []
    assert judged(write(6, 5, 0), write(5, 0, 0.5)) == [], "what overlaps may be in any order"
    unknown = write(6, 5, 2, came=Came.UNKNOWN)
    assert judged(write(5, 0, 0), unknown) == []
    given_up = write(6, 5, 0, came=Came.UNKNOWN, until=1)
    assert judged(given_up, write(5, 0, 4)) == [], "what had no answer may come into effect late"


def test_an_order_that_is_wrong() -> None:
    told(judged(write(5, 7, 0)), "the client was told 7, the model says 0")
    told(judged(write(5, 3, 0), audit=replace(CELLS, history=[written(1, 5, 3)])), "recorded 3, the model says 0")
    told(judged(write(6, 5, 0), write(5, 0, 4)), "came after one that began when it had ended")
    told(judged(write(5, 0, 0), write(7, 6, 4)), "no turn has it")
    told(judged(write(5, 0, 0, came=Came.FAIL)), "applied what was refused")


def test_queries_that_are_wrong() -> None:
    told(judged(look(4, 1, 2)), "version 1 is 5")
    told(judged(look(7, 3, 2)), "never committed")
    told(judged(write(5, 0, 0), write(6, 5, 2), look(5, 1, 9)), "after version 2 was acknowledged")
    told(judged(look(6, 2, 0), write(6, 5, 5)), "before version 2 was sent")
    told(judged(look(6, 2, 0), look(5, 1, 5)), "after a read of version 2")


def step(state: Any, one: Op) -> tuple[Any, Any]:
    return (one.argument["v"], state) if one.name == "write" else (state, state)


def test_the_search() -> None:
    right = [write(5, 0, 0), look(5, 0, 2), write(6, 5, 4), look(6, 0, 4.5), look(6, 0, 9)]
    assert linearizable(right, 0, step) == []
    told(linearizable([write(5, 0, 0), look(0, 0, 5)], 0, step), "D search", "no order")
    told(linearizable([look(5, 0, 0), write(5, 0, 5)], 0, step), "no order")
    told(linearizable([write(5, 0, 0), look(6, 0, 2), look(5, 0, 4)], 0, step), "no order")
    maybe = write(6, 5, 2, came=Came.UNKNOWN)
    assert linearizable([write(5, 0, 0), maybe, look(6, 0, 9)], 0, step) == [], "it was applied"
    assert linearizable([write(5, 0, 0), maybe, look(5, 0, 9)], 0, step) == [], "it was not, or not yet"
    told(linearizable([write(5, 0, 0), maybe, look(6, 0, 9), look(5, 0, 11)], 0, step), "no order")


# --- E ---


def amount(entity: EntityId, state: Any) -> int:
    return int(state["n"])


def flying(name: str, args: Any) -> int:
    return int(args["n"]) if name == "credit" else 0


def credit(n: int) -> Envelope:
    return Envelope("m", "T", "a", Kind.SEND, "credit", json.dumps({"n": n}).encode())


def test_conservation() -> None:
    audit = Audit(states={A: b'{"n": 3}', B: b'{"n": 4}'}, inbox=[credit(3)])
    assert conserved(audit, 10, amount, flying) == []
    delayed = ReminderRow(A, "m", ReminderKind.MESSAGE, 1, 5, handler="credit", args=b'{"n": 3}')
    assert conserved(replace(audit, inbox=[], reminders=[delayed]), 10, amount, flying) == []
    told(conserved(replace(audit, inbox=[]), 10, amount, flying, when="now"), "E conserv", "now: 7 held + 0 on the way")
    assert within(audit, amount, least=7, most=7) == []
    told(within(audit, amount, most=6), "7 held")
    told(within(audit, amount, least=8), "7 held")
    assert never_below(audit, amount, 3) == []
    told(never_below(audit, amount, 4), "T/a holds 3")


# --- F ---


class Kept(Entity):
    n: int = 0

    @handler
    async def add(self) -> None:
        self.n += 1


class Forgetful(Entity, name="Kept"):
    """Another class on the same data."""

    words: list[str] = []


K = EntityId("Kept", "k")


def test_fidelity() -> None:
    left = b'{"n":2}'
    audit = Audit(versions={K: 2}, states={K: b'{"n": 2}'}, history=[turn(1, entity=K, state=left), turn(2, entity=K)])
    assert fidelity(audit, [Kept]) == []
    told(fidelity(audit, [Forgetful]), "F fidelity", "stored as")
    told(fidelity(replace(audit, states={K: b'{"n": "two"}'}), [Kept]), "does not load")
    told(fidelity(replace(audit, states={K: b'{"n": 3}'}), [Kept]), "its last turn left")
    gap = [turn(1, entity=K, state=b'{"n":1}'), turn(3, entity=K)]
    assert (
        fidelity(replace(audit, versions={K: 3}, history=[*gap[:1], turn(2, entity=K, state=left), gap[1]]), [Kept])
        == []
    )


# --- G ---


def seen(*lines: tuple[Seen, str, str]) -> list[Seen_]:
    return [Seen_(n, what, name, 1, value) for n, (what, name, value) in enumerate(lines)]


def test_the_witness() -> None:
    log = seen(
        (Seen.START, "s", ""), (Seen.START, "s", ""), (Seen.RESULT, "s", "v2"), (Seen.SETTLED, "s", '"v2"'),
        (Seen.SETTLED, "another kind", "null"),
    )  # fmt: skip
    assert witness_join(log) == []
    assert results_agree({"state": ["v2"]}, log) == []
    told(witness_join([*log, Seen_(9, Seen.START, "s", 3)]), "G witness", "although its outcome was committed")
    told(witness_join([*log, Seen_(9, Seen.SETTLED, "s", 3, '"v1"')]), "two outcomes")
    told(witness_join(seen((Seen.START, "s", ""), (Seen.SETTLED, "s", '"v9"'))), "no attempt returned")
    told(results_agree({"state": ["v1"]}, log), "no committed result")
    told(witness_join(log, is_told=True), "G witness", "began before a commit had asked for it")
    assert witness_join([Seen_(-1, Seen.ASKED, "s"), *log], is_told=True) == []


def test_journals() -> None:
    ask = [(0, OperationKind.ACTIVITY)]
    audit = Audit(journal=[resume(1, 0, asks=ask), resume(2, 1, ends=[(0, 1)])])
    assert journalled_once(audit) == []
    told(journalled_once(replace(audit, journal=[*audit.journal, resume(3, 2, ends=[(0, 1)])])), "has 2 outcomes")
    told(journalled_once(replace(audit, journal=[*audit.journal, resume(3, 2, asks=ask)])), "asked for 2 times")
    told(journalled_once(Audit(journal=[resume(2, 0, ends=[(0, 1)])])), "nobody asked for it")


# --- H ---


def read(past: Consumed) -> list[Any]:
    value = json.loads(past.row.outcome)
    return [{"set": SetCommand, "cancel": CancelCommand, "fire": Firing}[past.row.name](*value)] if value else []


def put(version: int, due: int, every: int = 0, is_all: bool = False) -> Consumed:
    return turn(version, "set", result=["n", due, every, is_all])


def cancel(version: int) -> Consumed:
    return turn(version, "cancel", result=["n"])


def fire(version: int, generation: int, due: int, *, at: int, missed: int = 0) -> Consumed:
    return turn(version, "fire", result=["n", generation, due, missed], at_us=at)


def armed(generation: int, due: int, every: int = 0) -> ReminderRow:
    return ReminderRow(A, "n", ReminderKind.REMINDER, generation, due, every)


def ledger(*turns: Consumed, rows: Sequence[ReminderRow] = (), at: int = 100) -> list[Violation]:
    return occurrences(Audit(at_us=at, history=turns, reminders=rows), read)


def test_a_ledger_that_is_right() -> None:
    assert ledger(put(1, 50), fire(2, 1, 50, at=50)) == []
    assert ledger(put(1, 50), cancel(2)) == []
    assert ledger(put(1, 50), put(2, 60), fire(3, 2, 60, at=70)) == []
    assert ledger(put(1, 500), rows=[armed(1, 500)]) == []
    periodic = [put(1, 50, 10), fire(2, 1, 50, at=50), fire(3, 1, 60, at=85, missed=2)]
    assert ledger(*periodic, cancel(4)) == []
    assert ledger(*periodic, rows=[armed(1, 90, 10)], at=89) == []


@pytest.mark.parametrize(
    ("turns", "rows", "word"),
    [
        ([put(1, 50), fire(2, 1, 50, at=49)], [], "1 µs early"),
        ([put(1, 50), fire(2, 1, 50, at=50), fire(3, 1, 50, at=51)], [], "had fired at version 2"),
        ([put(1, 50), cancel(2), fire(3, 1, 50, at=60)], [], "was cancelled at version 2"),
        ([put(1, 50), put(2, 80), fire(3, 1, 50, at=60)], [armed(2, 80)], "was replaced at version 2"),
        ([fire(1, 7, 50, at=60)], [], "was never set"),
        ([put(1, 50)], [], "the store has nothing"),
        ([put(1, 50)], [armed(1, 50)], "has not fired by 100"),
        ([put(1, 50), cancel(2)], [armed(1, 50)], "is armed, but was cancelled"),
        ([], [armed(1, 50)], "nobody set it"),
        ([put(1, 50, 10), fire(2, 1, 50, at=50), fire(3, 1, 70, at=70)], [armed(1, 110, 10)], "but 60 was next"),
        ([put(1, 50, 10), fire(2, 1, 50, at=50)], [armed(1, 61, 10)], "should be armed for 60"),
        ([put(1, 50, 10, True), fire(2, 1, 50, at=75, missed=2)], [armed(1, 110, 10)], "although each was to fire"),
    ],
)
def test_a_ledger_that_is_wrong(turns: list[Consumed], rows: list[ReminderRow], word: str) -> None:
    told(ledger(*(turns or [turn(1, "x")]), rows=rows), "H occurrences", word)


# --- I ---


def test_bijection() -> None:
    assert bijection(["a", "b"], ["b"], ["a"]) == []
    told(bijection(["a"], []), "was sent and is nowhere")
    told(bijection(["a"], ["a", "a"]), "consumed 2 times")
    told(bijection(["a"], ["a"], ["a"]), "consumed 1 times, 1 wait")
    told(bijection([], ["a"]), "consumed, but nobody sent it")
    told(bijection([], [], ["a"]), "waits, but nobody sent it")


def test_calls() -> None:
    journal = [resume(1, 0, asks=[(0, OperationKind.CALL), (1, OperationKind.SEND), (2, OperationKind.TIMER)])]
    got = [turn(1, entity=B, message="r1:0"), turn(2, entity=B, message="r1:1"), turn(3, entity=B, message="else:7")]
    assert calls(Audit(journal=journal, history=got)) == []
    told(calls(Audit(journal=journal, history=got[1:])), "r1:0 was sent and is nowhere")
    told(calls(Audit(journal=journal, history=[*got, turn(4, entity=B, message="r1:5")])), "r1:5", "nobody sent it")
    told(calls(Audit(journal=journal, history=[*got, turn(1, message="r1:0")])), "consumed 2 times")


def test_streams() -> None:
    heard = {("T/a", "s"): [1, 2, 3]}
    assert complete(heard, {("T/a", "s"): 3}) == []
    told(complete(heard, {("T/a", "s"): 4}), "I streams", "around place 3")
    told(complete({("T/a", "s"): [1, 3, 2]}, {("T/a", "s"): 3}), "around place 1")
    told(complete({("T/a", "s"): [1, 1]}, {("T/a", "s"): 1}), "around place 1")
    sent = [op("hear", ("s", 1)), op("hear", ("s", 2), came=Came.UNKNOWN), op("hear", ("s", 3))]
    assert in_order({("T/a", "s"): [1, 3, 2]}, sent) == []
    assert in_order({("T/a", "s"): [1, 3]}, sent) == []
    told(in_order({("T/a", "s"): [3, 1]}, sent), "heard in the order [3, 1]")
    told(in_order({("T/a", "s"): [1]}, sent), "acknowledged [1, 3], heard [1]")
    told(in_order({("T/a", "s"): [1, 3, 2, 2]}, sent), "heard twice")
    told(in_order({("T/a", "s"): [1]}, [op("hear", ("s", 1), came=Came.FAIL)]), "refused, but heard")


# --- J ---

STEPS = {"s": ("take", "give")}


def marks(*names: str) -> list[Part]:
    return [Part("s", name.removeprefix("un"), name.startswith("un")) for name in names]


@pytest.mark.parametrize(
    ("names", "ended"),
    [
        (["take", "give"], "done"),
        ([], "undone"),
        (["take", "untake"], "undone"),
        (["take", "give"], "either"),
        ([], "either"),
    ],
)
def test_sagas_that_are_right(names: list[str], ended: Ended) -> None:
    assert all_or_compensated(marks(*names), STEPS, {"s": ended}) == []


@pytest.mark.parametrize(
    ("names", "ended", "word"),
    [
        (["take"], "done", "ended well, but only ['take']"),
        (["take"], "undone", "neither all nor none"),
        (["take", "give"], "undone", "neither all nor none"),
        (["take", "untake", "give"], "undone", "['give']"),
        (["take", "take", "give"], "done", "more than once"),
        (["take", "untake", "untake"], "undone", "more than once"),
        (["untake"], "undone", "took back what was never done"),
        (["take"], "either", "neither all nor none"),
    ],
)
def test_sagas_that_are_wrong(names: list[str], ended: Ended, word: str) -> None:
    told(all_or_compensated(marks(*names), STEPS, {"s": ended}), "J sagas", word)


def test_a_saga_that_nobody_began() -> None:
    told(all_or_compensated(marks("take"), {}, {}), "nobody knows it")
    told(all_or_compensated(marks("take", "give"), STEPS, {}), "ended: None")


# --- K and L ---


def a_run(**more: Any) -> RunRow:
    return RunRow("run", "r1", RunStatus.RUNNING, b"{}", b"", 0, **more)


@pytest.mark.parametrize(
    ("audit", "word"),
    [
        (Audit(inbox=[credit(1)]), "message m (send credit)"),
        (Audit(at_us=100, reminders=[armed(1, 99)]), "was due at 99, now is 100"),
        (Audit(runs=[(A, a_run(in_flight=True, waiting="activity pay"))]), "waits for activity pay"),
        (Audit(attempts=[(A, AttemptRow("run/r1/0", "pay", 3, b"{}", 0, 0))]), "attempt 3 of pay"),
        (Audit(dead_letters=[Letter(0, DeadLetter(credit(1), 5, b'{"message":"no"}'))]), "dead letter m"),
        (Audit(parked={A: "no such field"}), "is parked: no such field"),
    ],
)
def test_what_is_stuck(audit: Audit, word: str) -> None:
    problems = quiescent(audit)
    told(problems, "K quiescence", word)
    told(problems, "T/a at version 0; last turns")


def test_what_is_quiet() -> None:
    far = Audit(at_us=100, reminders=[armed(1, 101)], runs=[(A, a_run(waiting="receive letters"))])
    assert quiescent(far) == []
    told(quiescent(far, is_over=True), "is running")
    letter = Audit(dead_letters=[Letter(0, DeadLetter(credit(1), 5, b"{}"))])
    assert quiescent(letter, letters_allowed=[A]) == []
    assert served([op()]) == []
    told(served([op(came=Came.UNKNOWN)]), "after healing")


def test_a_run_that_proves_nothing() -> None:
    record = Record()
    record.ops = [op(), op(came=Came.FAIL), op(came=Came.UNKNOWN, until=60.0)]
    assert vacuity(record, least_ok=0.3) == []
    told(vacuity(record, least_ok=0.5), "1 of 3 operations")
    record.ops[2].t_return = 2.0
    assert vacuity(record, least_ok=0.5) == [], "one short outage"
    record.ops = [op(came=Came.UNKNOWN)]
    told(vacuity(record, least_ok=0.5), "0 of 1 operations")
    told(vacuity(Record()), "0 operations")
