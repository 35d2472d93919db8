"""Promise P9 for activities: an attempt that died with its host counts as one, durably, before the next begins.

An activity runs in a thread of the host's process, so it may be what the host died of. What was under way in a shard
that was taken over is therefore noted as a failed attempt. The first such loss costs no time and never ends the
activity (most hosts die of something else, and it may not even have begun: P7); from the second in a row the
activity's own back-off and its limit of attempts apply.
"""

from typing import TYPE_CHECKING

from ..errors import ActivityHostLost
from ..messages import encode_json
from ..store.rows import AttemptRow, AttemptStatus

if TYPE_CHECKING:
    from .run import Operation, Run
    from .turns.record import Record


def begin(activation: "Record", run: "Run", operation: "Operation") -> None:
    """After an activation: take up an activity without an outcome, noting first that its host was lost during it."""
    engine, address = activation.engine, run.address(operation.number)
    before = activation.attempts.get(address)
    if before is not None and before.status is not AttemptStatus.RETRYING:
        return  # it waits for a person or for the outside: there was no attempt to lose
    # What is under way here was not lost: a run that went on in the moments of the takeover looks as old as it.
    if engine.attempts.is_under_way(activation.id, address) or not engine.suspects.is_lost(
        activation.id, run, before.next_us if before else 0
    ):
        engine.attempts.begin(activation, run, operation)
        return
    attempt = before.attempt + 1 if before else 1
    error = ActivityHostLost(
        f"{activation.id}: the host of attempt {attempt} of activity {operation.name} died during it; it may or may "
        "not have taken effect"
    )
    policy = operation.detail.options.retry
    is_repeated = before is not None and ActivityHostLost.code.encode() in before.error
    delay_s = policy.delay_s(attempt) if is_repeated else 0.0
    activation.attempts[address] = row = AttemptRow(
        address,
        operation.name,
        attempt,
        encode_json(error.body()),
        max(engine.now_us(), engine.suspects.taken_us(activation.id) + 1) + round(delay_s * 1e6),
        before.first_us if before else run.now,
        details=before.details if before else b"null",
        started_us=before.started_us if before else 0,
    )
    is_final = is_repeated and policy.is_final(error, attempt)
    if is_final and policy.on_exhausted == "pause" and not policy.forbids(error):
        is_final = False
        activation.attempts[address] = row = row._replace(status=AttemptStatus.PAUSED)

    def go_on() -> None:
        if address not in activation.outcomes_waiting():
            engine.attempts.begin(activation, run, operation, error=error if is_final else None)

    activation.note_lost_attempt(row, go_on)
