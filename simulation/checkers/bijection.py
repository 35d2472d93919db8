"""I. Bijection: every message that a committed turn sent is consumed once, or still there; and nothing else (P1, I6).

`bijection` joins two lists of ids; `calls` makes them from the journals: an operation of a run that sends a message
gives it the id `run:number`.
"""

from collections import Counter
from collections.abc import Iterable

from perdure.entities.engine.journal import OperationKind, decode_entry
from simulation.contract import Audit, Violation

NAME = "I bijection"


def bijection(
    emitted: Iterable[str], consumed: Iterable[str], pending: Iterable[str] = (), *, what: str = "message"
) -> list[Violation]:
    """`pending`: in inboxes, delayed, or among the dead letters."""
    sent, taken, left = Counter(emitted), Counter(consumed), Counter(pending)
    texts: list[str] = []
    for one, count in sent.items():
        there = taken[one] + left[one]
        if there < count:
            texts.append(f"{what} {one} was sent and is nowhere")
        elif there > count:
            texts.append(f"{what} {one} was sent {count} times, consumed {taken[one]} times, {left[one]} wait")
    texts += [f"{what} {one} was consumed, but nobody sent it" for one in taken if one not in sent]
    texts += [f"{what} {one} waits, but nobody sent it" for one in left if one not in sent and one not in taken]
    return [Violation(NAME, "P1, P2, I6", text) for text in texts]


def calls(audit: Audit) -> list[Violation]:
    """Judge the calls of all workflows: asked for in a journal, consumed where they were sent to.

    One-way messages of workflows have such ids as well, unless they got an idempotency key: so they need not be found.
    """
    runs = {resumed.row.run_id for resumed in audit.journal}
    asked: dict[OperationKind, list[str]] = {OperationKind.CALL: [], OperationKind.SEND: []}
    for resumed in audit.journal:
        for operation in decode_entry(resumed.row.entry).operations:
            if operation.kind in asked:
                asked[operation.kind].append(f"{resumed.row.run_id}:{operation.number}")
    consumed = [past.row.message_id for past in audit.history if _run_of(past.row.message_id) in runs]
    pending = [envelope.id for envelope in audit.inbox if _run_of(envelope.id) in runs]
    there = {*consumed, *pending}
    sent = [one for one in asked[OperationKind.SEND] if one in there]
    return bijection([*asked[OperationKind.CALL], *sent], consumed, pending, what="message of a workflow")


def _run_of(message_id: str) -> str:
    """The run that an id names, if it is one of a call."""
    run, colon, number = message_id.rpartition(":")
    return run if colon and number.isdigit() else ""
