"""Planted bugs: the twenty of the reference (M1 to M20) and our own (N1 on). What kills none of them is no check.

Each patches the real production code while its `with` block runs (surgery.py); production code knows nothing of it. A
mutant names what it breaks, which promise, and the checker that is expected to notice. Where our design has no place
for the bug of the list, its nearest relative stands in its stead and says so.

Several guards keep each promise, so some slips alone change nothing that anybody can see: a host that forgets to look
up a message that it runs again is stopped by the history's unique key. Then both are taken away, and the note says so.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from perdure.cluster.exchange import Exchange
from perdure.cluster.link import Link
from perdure.cluster.ownership import Ownership
from perdure.cluster.postgres import directory, janitor, reads, statements
from perdure.cluster.postgres.commit import Committer as PostgresCommitter
from perdure.cluster.router import Router
from perdure.entities.engine.activation import Activation
from perdure.entities.engine.committer import Committer
from perdure.entities.engine.engine import Engine
from perdure.entities.engine.readers import Readers
from perdure.entities.engine.suspects import Suspects
from perdure.entities.engine.turns.handlers import HandlerTurns
from perdure.entities.engine.turns.held import Held
from perdure.entities.engine.turns.holding import Holding
from perdure.entities.engine.turns.queries import Queries
from perdure.entities.engine.turns.record import Record
from perdure.entities.engine.turns.resumes import Resumes
from perdure.entities.ids import new_message_id
from perdure.entities.messages import Envelope
from perdure.entities.sources import sources
from perdure.entities.store import memory
from perdure.entities.store.memory import MemoryStore
from perdure.entities.store.memory_directory import MemoryDirectory
from perdure.entities.store.port import EntityStore
from perdure.entities.store.rows import Batch, EntityWrite

from .killers import KILLERS
from .surgery import Surgery

Plant = Callable[[Surgery], None]


@dataclass(frozen=True)
class Mutant:
    """One planted bug."""

    name: str
    title: str
    breaks: str
    """Promises and invariants."""
    killer: str
    """The checker that should notice."""
    workload: str
    """Which of them gives it the most to do: where `kill` looks for a killer."""
    note: str
    plant: Plant

    @property
    def tests(self) -> tuple[str, ...]:
        """Tests of the suite that fail while it is planted."""
        return KILLERS[self.name]

    @contextmanager
    def planted(self) -> Generator[None]:
        """The bug is there while this block runs. Raises Stale if the code does not read as it did."""
        with Surgery() as surgery:
            self.plant(surgery)
            yield

    def __str__(self) -> str:
        return f"{self.name} {self.title}"


MUTANTS: dict[str, Mutant] = {}


def _mutant(name: str, title: str, breaks: str, killer: str, workload: str) -> Callable[[Plant], Plant]:
    """The docstring of what plants it is the mutant's note."""

    def add(plant: Plant) -> Plant:
        assert plant.__doc__
        MUTANTS[name] = Mutant(name, title, breaks, killer, workload, plant.__doc__, plant)
        return plant

    return add


async def _in_two(store: EntityStore, batch: Batch, rows: str) -> int:
    """Commit a batch, then what it says of `rows` in a transaction of its own."""
    second: list[EntityWrite] = []
    taken = [(write, getattr(write, rows)) for write in batch.writes]
    for write, those in taken:
        if those:
            again = EntityWrite(
                entity=write.entity, shard=write.shard, expected_version=write.version, version=write.version,
                state=write.state, schema_version=write.schema_version, clock=write.clock,
            )  # fmt: skip
            setattr(again, rows, those)
            second.append(again)
            setattr(write, rows, [])
    try:
        written_us = await store.commit(batch)
    finally:
        for write, those in taken:
            setattr(write, rows, those)
    if second:
        await store.commit(Batch(incarnation=batch.incarnation, epochs=batch.epochs, writes=second))
    return written_us


# --- the list ---------------------------------------------------------------------------------------------------------


@_mutant("M1", "commit without version check", "P1 P4; I3", "B chain audit", "W3")
def _no_version_check(code: Surgery) -> None:
    """The store writes a snapshot whatever version it finds. Epochs still fence other hosts, so it shows where two
    writers share an epoch: a transaction that commits after its hold has expired.
    """
    code.rewrite(MemoryStore._fits, "stored.version == write.expected_version\n        and ", "")
    code.template(statements.ENTITIES_CHANGED, " and t.version = u.expected", "")


@_mutant("M2", "one-way messages acknowledged before they are durable", "P1; I1 I8", "A set-full", "W2")
def _ack_before_commit(code: Surgery) -> None:
    """A send is acknowledged when it is in the mailbox."""
    code.rewrite(
        Held.take_in,
        "self.mailbox.append(delivery)\n",
        "self.mailbox.append(delivery); delivery.acknowledge(self.durable)\n",
    )


@_mutant("M3", "outbox written in a second transaction", "P2; I6 I13", "I bijection", "W2")
def _outbox_apart(code: Surgery) -> None:
    """What a turn sends is written after its commit: a crash in between loses it."""
    code.rewrite(
        Committer._commit_once, "engine.store.commit(batch)", '_in_two(engine.store, batch, "outbox")', _in_two=_in_two
    )


@_mutant("M4", "a reminder fires without generation check", "P6; I4", "H occurrence ledger", "W6")
def _no_generation_check(code: Surgery) -> None:
    """An occurrence that was handed out runs although a turn before it has cancelled or replaced its reminder. Both
    guards are gone: the activation's, and the store's.
    """
    code.rewrite(HandlerTurns._is_current, "return self.", "return True or self.")
    code.rewrite(
        MemoryStore._fits,
        "(reminder := stored.reminders.get(key.name)) is not None\n"
        "            and (reminder.generation, reminder.due_us) == (key.generation, key.due_us)\n"
        "            and not",
        "not",
    )
    code.template(statements.REMINDERS_GONE, " and t.generation = u.generation and t.due_at = u.due_at", "")
    code.template(
        statements.REMINDERS_GONE, "1 / ((select count(*) from hit) = cardinality($1))::int4", "count(*) from hit"
    )


@_mutant("M5", "outcomes written outside of the turn's transaction", "P1; I10 I13", "A set-full", "W2")
def _history_apart(code: Surgery) -> None:
    """The history row that a repeat is found by is written after the turn's commit."""
    code.rewrite(
        Committer._commit_once, "engine.store.commit(batch)", '_in_two(engine.store, batch, "history")', _in_two=_in_two
    )


@_mutant("M6", "replies before the commit", "P1 P3; I7", "A set-full", "W2")
def _reply_before_commit(code: Surgery) -> None:
    """The caller of a handler gets its answer as soon as the handler has returned."""
    code.rewrite(
        Record._consume,
        "self._output(delivery, lambda: delivery.reply(status, body, version))",
        "delivery.reply(status, body, version); self._output(delivery, None)",
    )


@_mutant("M7", "what is due is decided by the host's clock", "P6; I4 I22", "H occurrence ledger", "W6")
def _clock_of_the_host(code: Surgery) -> None:
    """Neither the engine nor the commit asks the database for the time."""

    def now_us(_: Engine) -> int:
        return sources.time_ns() // 1_000

    code.put(Engine, "now_us", now_us)
    code.rewrite(MemoryStore._fits, "and not (key.is_fired and key.due_us > now)", "")
    code.template(statements.REMINDERS_GONE, " and (not u.is_fired or t.due_at <= clock_timestamp())", "")


@_mutant("M8", "blind repetition after an unknown commit", "P1; I1 I21", "A set-full", "W2")
def _blind_retry(code: Surgery) -> None:
    """Messages of a commit whose answer got lost run again without a look at what has become of them, and the history
    takes the same id twice.
    """
    code.rewrite(Record.unfinished, "item.needs_lookup = True", "item.needs_lookup = False")
    code.rewrite(MemoryStore._fits, "and message_ids.isdisjoint(stored.history)", "")
    code.template(statements.HISTORY, "from {u} ", "from {u} on conflict do nothing")


@_mutant("M9", "a lease is renewed after it was taken away", "P8; I11", "C linearizability", "W5")
def _renewal_of_the_fenced(code: Surgery) -> None:
    """A fenced host that asks for another lease gets it, and goes on answering from memory."""
    code.rewrite(MemoryDirectory.renew, "if not self._can_commit(incarnation)", "if incarnation not in self._hosts")
    code.text(directory, "_RENEW", " and status in ('active', 'draining')", "")


@_mutant("M10", "what is idle leaves memory with its turns", "I14", "K quiescence", "W1")
def _eviction_of_the_dirty(code: Surgery) -> None:
    """An entity whose turns are not written yet counts as idle. Nothing acknowledged is lost (the gate), but whoever
    waits for those turns waits for ever.
    """
    code.rewrite(Record.is_idle, "or self.write is not None\n        or self.inflight is not None\n", "")


@_mutant("M11", "recovery takes shards of the living", "P8; I3 I30", "C linearizability", "W5")
def _claims_from_the_living(code: Surgery) -> None:
    """A shard may be claimed whoever owns it, and hosts try. The old owner cannot commit, but it answers queries from
    its memory. Both guards are gone: the host's look, and the store's.
    """
    code.rewrite(Ownership.settle, " and row.owner not in live]", " and row.owner != mine]")
    code.rewrite(MemoryDirectory.claim, "if not self._can_commit(before.owner)", "if before.owner != incarnation")
    code.text(
        directory,
        "_CLAIM",
        "and not exists (select from {s}.hosts h where h.incarnation = t.owner and h.status in ('active', 'draining'))",
        "",
    )


@_mutant("M12", "an idempotency key counts for all entities", "P1; I10 I19", "A set-full", "W10")
def _keys_of_all(code: Surgery) -> None:
    """For "scope misses the tenant": namespaces have tables of their own, entities share them. The outcome of a message
    is looked up by its id alone.
    """
    code.rewrite(
        MemoryStore.outcomes,
        "self._entities.get(entity, _NOTHING).history.get(message_id)",
        "next((s.history[message_id] for s in self._entities.values() if message_id in s.history), None)",
    )
    code.text(
        reads,
        "_OUTCOMES",
        "(t.shard, t.type, t.key, t.message_id) = (u.shard, u.type, u.key, u.message_id)",
        "t.message_id = u.message_id",
    )
    code.text(reads, "_OUTCOMES", "select t.type, t.key,", "select u.type, u.key,")


def _throw_away(activation: Any, write: EntityWrite) -> None:
    for queue in activation.items.values():
        for item in queue:
            if item in write.items_put:
                write.items_put.remove(item)
            else:
                write.items_taken.append((item.mailbox, item.position))
    activation.items.clear()


@_mutant("M13", "the end of a run empties its mailboxes", "P1; I16", "A set-full", "W8")
def _end_with_the_mail(code: Surgery) -> None:
    """For "the terminal commit ignores a non-empty inbox": what waits in durable mailboxes when a run ends or continues
    as new goes with it.
    """
    before = "self._withdraw_pending(write, run)\n"
    for method in (Resumes._finish, Resumes._continue_as_new):
        code.rewrite(method, before, f"_throw_away(self, write); {before}", _throw_away=_throw_away)


@_mutant("M14", "the attempt at a killer is counted after it ran", "P9; I15", "K quiescence", "W11")
def _count_after_the_run(code: Surgery) -> None:
    """What may end its host runs before a point against it is durable: it ends one host after the other."""
    code.rewrite(Suspects._hold_against, "await self._engine.store.suspect(", "list(")


@_mutant("M15", "wake-ups only, nobody looks", "I14", "K quiescence", "W9")
def _no_poll(code: Surgery) -> None:
    """For "NOTIFY only": a message whose wake-up got lost stays in the inbox."""
    code.rewrite(Readers._serve_poll, "await self._poll_mail(set(self._engine.epochs), self._polled)", "([], 0)")


@_mutant("M16", "journals are deleted by age alone", "P7; I28", "F replay", "W9")
def _prune_the_living(code: Surgery) -> None:
    """The janitor does not ask whether the run of a journal has ended."""
    code.rewrite(memory._prune_journals, "is_needed = run", "is_needed = False and run")
    code.text(janitor, "_JOURNAL", "(r.ended_at is null or r.ended_at >=", "(r.ended_at is not null and r.ended_at >=")


@_mutant("M17", "a change that is not in the snapshot", "P1 P2; I12", "A set-full", "W5")
def _unnoticed_change(code: Surgery) -> None:
    """For "hidden attribute": a state as long as the one before counts as unchanged, and lives in memory only."""
    code.rewrite(HandlerTurns._conclude, "if snapshot != self.snapshot", "if len(snapshot) != len(self.snapshot)")


@_mutant("M18", "what a query writes is kept", "P8; I25", "C linearizability", "W5")
def _query_writes(code: Surgery) -> None:
    """Nobody compares the state after a query; the next turn commits what it changed."""

    def unchanged(*_: object) -> bool:
        return False

    code.put(Queries, "_is_changed", unchanged)


@_mutant("M19", "the inbox is read in any order", "P5; I2", "C streams", "W2")
def _inbox_unordered(code: Surgery) -> None:
    """Stored messages come in an order that has nothing to do with their senders'."""

    def by_chance(row: tuple[tuple[int, str], Envelope]) -> str:
        return row[0][1][::-1]

    code.rewrite(memory._first, "sorted(inbox.items())", "sorted(inbox.items(), key=_by_chance)", _by_chance=by_chance)
    code.text(reads, "_INBOX", "order by t.position, t.message_id", "order by reverse(t.message_id)")
    code.text(
        reads, "_INBOX", 'u.key collate "C", m.position, m.message_id', 'u.key collate "C", reverse(m.message_id)'
    )


def _take(inbox: dict[tuple[int, str], Envelope], limit: int) -> list[Envelope]:
    found = memory._first(inbox, limit)
    for envelope in found:
        del inbox[envelope.position, envelope.id]
    return found


@_mutant("M20", "the inbox is emptied by reading it", "P1; I6 I8", "I bijection", "W9")
def _read_is_delete(code: Surgery) -> None:
    """For "the dispatcher deletes before the receiver's commit": a message leaves the inbox when it is read."""
    code.rewrite(
        MemoryStore._load,
        "inbox=_first(stored.inbox, inbox_max),\n        damaged",
        "inbox=_take(stored.inbox, inbox_max),\n        damaged",
        _take=_take,
    )
    code.rewrite(MemoryStore.inbox, "in _first(", "in _take(", _take=_take)


# --- our own ----------------------------------------------------------------------------------------------------------


@_mutant("N1", "no fencing at all", "P1 P4; I3", "A set-full", "W5")
def _no_fencing(code: Surgery) -> None:
    """A commit is believed whoever sends it, whatever is stored: neither host, nor epoch, nor version is compared."""
    code.rewrite(MemoryStore.commit, "self._check_owner(batch)\n", "pass\n")
    code.rewrite(MemoryStore._fits, "stored.version == write.expected_version\n        and ", "")
    code.rewrite(PostgresCommitter._checks, "epochs = touched_epochs(batch)\n", "return []\n")
    code.template(statements.ENTITIES_CHANGED, " and t.version = u.expected", "")


@_mutant("N2", "queries answer from uncommitted state", "P3 P8; I7 I11", "C linearizability", "W5")
def _no_gate(code: Surgery) -> None:
    """The answer of a query does not wait for the commit of what it saw."""

    def at_once(self: Record, item: Any, output: Callable[[], None]) -> None:
        output()
        self._forget(item)

    code.put(Record, "_gate", at_once)


@_mutant("N3", "a batch that is put back loses the turns since", "P1; I1", "A set-full", "W2")
def _lost_merge(code: Surgery) -> None:
    """A group commit was refused because of somebody else. What an innocent entity did meanwhile is not merged into
    what is tried again, but acknowledged with it.
    """
    code.rewrite(Record.undo_take, "earlier.merge(self.write)", "pass")


@_mutant("N4", "repeats of what is under way run beside it", "I1 I14", "K quiescence", "W10")
def _no_memory_of_ids(code: Surgery) -> None:
    """A message that is waiting or running already is taken for a new one. The history refuses both, for ever."""
    code.rewrite(Activation.deliver, "known = self.by_id.get(envelope.id)", "known = None")


@_mutant("N5", "requests that are sent again change places", "P5; I2", "C streams", "W2")
def _reversed_retries(code: Surgery) -> None:
    """After a detour the requests of a shard leave in another order than their callers made them in."""
    code.rewrite(Router._resume, "sorted(stall.waiting, key=lambda pending: pending.order)", "reversed(stall.waiting)")


@_mutant("N6", "a request that is sent again gets a new id", "P1; I1 I10", "A set-full", "W1")
def _new_ids(code: Surgery) -> None:
    """Nobody can find out that it has been applied."""
    code.rewrite(
        Link._call,
        "is_retry=True, losses=losses)",
        "id=_new_message_id(), is_retry=True, losses=losses)",
        _new_message_id=new_message_id,
    )


@_mutant("N7", "calls that overtake are not held", "P5; I2", "C streams", "W2")
def _no_gap(code: Surgery) -> None:
    """The host takes the messages of each call when it comes, not in the order in which calls were made."""
    code.rewrite(Exchange.exchange, "self._hold(link, offer)", "self._hand_over(link, offer)")


@_mutant("N8", "what recurs is armed again from the moment it ran", "P6; I4", "H occurrence ledger", "W6")
def _drift(code: Surgery) -> None:
    """Each occurrence is as late as all before it together."""
    code.rewrite(HandlerTurns._fired, "row.due_us, delivery.fired_us,", "delivery.fired_us, delivery.fired_us,")


@_mutant("N9", "activities begin before the commit that asks for them", "P3 P7; I5", "G witness join", "W7")
def _activity_at_once(code: Surgery) -> None:
    """The outside world sees what may never have been."""
    code.rewrite(
        Resumes._schedule,
        "self._output(None, lambda: self.engine.attempts.begin(self, run, operation))",
        "self.engine.call_later(0, lambda: self.engine.attempts.begin(self, run, operation))",
    )


@_mutant("N10", "an expired hold is lifted without ruling out its transaction", "P8; I11", "C linearizability", "W3")
def _hold_forgotten(code: Surgery) -> None:
    """The transaction can still commit, and the owner's memory does not know it."""
    code.rewrite(Holding._expire, "self.rule_out(hold)", "self.end_hold()")


@_mutant("N11", "the journal does not say which state a resume saw", "P7; I12 I24", "F replay", "W4")
def _no_state_in_journal(code: Surgery) -> None:
    """What other turns did between two resumes is missing when the run is rebuilt."""
    code.rewrite(Resumes._resume, "if self.snapshot != state or not run.entries:", "if not run.entries:")


@_mutant("N12", "a host trusts its lease for ever", "P8; I11", "C linearizability", "W5")
def _eternal_trust(code: Surgery) -> None:
    """A host that is cut off goes on answering queries from memory while others have taken over."""

    def always(_: Engine) -> bool:
        return True

    code.put(Engine, "has_lease", always)


@_mutant("N13", "a handler that raises keeps what it changed", "P2; I13", "A set-full", "W1")
def _half_a_turn(code: Surgery) -> None:
    """The state is not restored; the next turn commits it."""
    code.rewrite(HandlerTurns._conclude, "self.definition.replace_fields(self.entity, self.snapshot)", "")


@_mutant("N14", "a cancelled reminder is only forgotten", "P6; I4", "H occurrence ledger", "W6")
def _cancelled_in_memory(code: Surgery) -> None:
    """Its row stays in the store: after a restart it fires."""
    code.rewrite(Record._drop_reminder, "write.reminders_cancelled.append(name)", "")


@_mutant("N15", "what follows a failed message overtakes it", "P5; I2", "C streams", "W2")
def _overtaking(code: Surgery) -> None:
    """While a one-way message waits for its next attempt, later ones of its sender go on."""
    code.rewrite(Held._hold_back, "*later]", "]")
    code.rewrite(Held._hold_back, "for item in later:", "for item in ():")
    code.rewrite(Held.take_in, "if envelope.sender in self.blocked and", "if False and")
