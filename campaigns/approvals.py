"""approvals: two thousand workflows wait for a decision while everything is killed and started again.

Decisions are sent just before (some still on their way when the processes die), while Postgres and all hosts are down,
and after. Each sender repeats with its idempotency key until it is acknowledged. In the end every approval has ended
with its own decision, and the clerk has processed each exactly once.
"""

import asyncio
import time
from collections import Counter as Count
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from perdure.entities import Busy, OutcomeUnknown, PerdureError, Unavailable

from .audit import audit_chains, audit_leftovers
from .entities import Approval, Clerk, Ruling
from .harness import Options, Scene, check_faults, open_scene
from .load import limited
from .verdict import Verdict, distribution

APPROVALS = 2_000
AT_ONCE = 200
CALL_S = 10.0
PATIENCE_S = 120.0
CLERKS = 16
T = TypeVar("T")


async def run(options: Options, *, approvals: int = APPROVALS) -> Verdict:
    """The campaign."""
    verdict = Verdict("approvals", options.seed)
    count = options.rounds or approvals
    entities = ["campaigns.entities:Approval", "campaigns.entities:Clerk"]
    async with open_scene(verdict, options, entities=entities) as scene:
        keys = [f"a{number}" for number in range(count)]
        await limited((Approval.ref(key).run.start(f"request {key}", CLERKS) for key in keys), AT_ONCE)
        waiting = await scene.sql("select count(*) as n from runs where status = 'running' and waiting like 'receive%'")
        verdict.holds("all wait for their decision", waiting[0]["n"] == count, f"{waiting[0]['n']} of {count}")

        before, during, after = keys[: count // 4], keys[count // 4 : count * 5 // 8], keys[count * 5 // 8 :]
        took: list[float] = []
        senders = [asyncio.create_task(_decide(key, took)) for key in before]
        await asyncio.sleep(0.05)  # some are acknowledged, some under way, some not yet sent
        await _restart_everything(scene, senders, during, took)
        await asyncio.gather(*senders)
        await limited((_decide(key, took) for key in after), AT_ONCE)

        wrong: list[str] = []

        async def check(key: str) -> None:
            said = await _until_answered(lambda: Approval.ref(key).run.options(timeout=CALL_S).result())
            if said != _decision(key).by:
                wrong.append(f"{key}: {said} decided instead of {_decision(key).by}")

        await limited((check(key) for key in keys), AT_ONCE)
        verdict.none_of("every approval ended with its own decision", wrong, f"{count} approvals")
        await scene.until("no message waits", lambda: _is_empty(scene))
        await _check_clerks(verdict, keys)
        check_faults(verdict, scene, {"all hosts": 1, "supervisor": 1, "postgres": 1})
        await audit_chains(verdict, scene)
        await audit_leftovers(verdict, scene)
        verdict.figure("decision sent → acknowledged", distribution(took))
        verdict.figure("sent just before, during, after the restart", f"{len(before)}, {len(during)}, {len(after)}")
    return verdict


async def _restart_everything(
    scene: Scene, senders: "list[asyncio.Task[None]]", during: Iterable[str], took: list[float]
) -> None:
    """SIGKILL for all hosts, the supervisor and Postgres; decisions are sent from the first kill on."""
    fault = await scene.kill_all_hosts()
    senders += [asyncio.create_task(_decide(key, took)) for key in during]
    await asyncio.sleep(0)
    await scene.kill_postgres()
    await scene.kill_supervisor()
    await scene.heal_hosts(fault)


def _decision(key: str) -> Ruling:
    number = int(key[1:])
    return Ruling(is_approved=number % 3 != 0, by=f"approver {number}")


async def _decide(key: str, took: list[float]) -> None:
    began = time.monotonic()
    mailbox = Approval.ref(key).decision.options(idempotency_key=f"decision-{key}")
    await _until_answered(lambda: mailbox.send(_decision(key)))
    took.append(time.monotonic() - began)


async def _until_answered(call: Callable[[], Awaitable[T]]) -> T:
    """What a client does that wants an answer: ask again, with the same key."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return await call()
        except (OutcomeUnknown, Unavailable, Busy) as error:
            if time.monotonic() > deadline:
                raise PerdureError(f"no answer within {PATIENCE_S:g} s; the last: {error}") from error
            await asyncio.sleep(0.1)


async def _is_empty(scene: Scene) -> bool:
    [row] = await scene.sql("select count(*) as n from inbox")
    return bool(row["n"] == 0)


async def _check_clerks(verdict: Verdict, keys: list[str]) -> None:
    seen: Count[str] = Count()
    for number in range(CLERKS):
        seen.update(await Clerk.ref(f"clerk-{number}").processed())
    expected = Count(f"{key}: {_decision(key).by}" for key in keys)
    wrong = [*(expected - seen), *(seen - expected)]
    verdict.none_of("each was processed exactly once", wrong, f"{seen.total()} decisions at {CLERKS} clerks")
