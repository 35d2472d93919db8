"""Runs that would wait for each other: refused, with the ring named, by whoever would close it.

Whoever starts or awaits a run tells it who waits already (`Envelope.chain`). For runs that one another has started the
chain is complete. A run that is awaited later (`.result()`) learns of its direct waiters only: rings of two and three
are noticed when their last link is made, longer ones are not.
"""

from itertools import islice

from ..messages import Kind
from .journal import OperationKind
from .run import Run

CHAIN_MAX = 64
"""Runs named to those that a run waits for, of the many that may wait for it."""


def waiters(run: Run) -> tuple[str, ...]:
    """This run and those known to wait for it, outermost first: what it starts or awaits must not wait for them."""
    joined = (address.rpartition("#") for address in run.row.reply_to)
    names = (f"{entity}#{operation.partition('/')[0]}" for entity, _, operation in joined)
    return (*dict.fromkeys((*run.row.chain, *islice(names, CHAIN_MAX))), f"{run.entity}#{run.row.workflow}")


def ring_with(run: Run, chain: tuple[str, ...]) -> list[str] | None:
    """The ring that would close if the last run of `chain` waited for this one; None if there is none."""
    me = f"{run.entity}#{run.row.workflow}"
    waits_for = {
        f"{operation.detail.target}#{operation.detail.name}"
        for operation in run.pending.values()
        if operation.kind is OperationKind.CALL and operation.detail.kind in (Kind.START, Kind.RESULT)
    }
    for index, waiter in enumerate(chain):
        if waiter == me or waiter in waits_for:
            return [*chain[index:], me] if waiter == me else [me, *chain[index:], me]
    return None
