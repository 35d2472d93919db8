"""Random asyncio programs as workflows, undisturbed and then evicted and crashed at random: the same must come out.

No Ray and no Postgres: the real engine on a store in memory, so that thousands of seeds take minutes. A seed that
differs is played again alone by `PERDURE_SEED=<seed> pytest tests/engine/test_random_programs.py`.
"""

import asyncio
import logging
import traceback

from tests.engine.random_programs import compare, outside

from .harness import Options
from .verdict import Verdict

ROUNDS = 2_000
LIMIT_S = 60.0
SHOW_EVERY = 200


async def run(options: Options) -> Verdict:
    """`rounds` programs, from the seed on."""
    logging.getLogger("perdure").setLevel(logging.CRITICAL)  # its hosts die by the thousand
    verdict = Verdict("programs", options.seed)
    different: list[str] = []
    failed: list[str] = []
    rounds = options.rounds or ROUNDS
    commits = 0
    for seed in range(options.seed, options.seed + rounds):
        try:
            async with asyncio.timeout(LIMIT_S):
                undisturbed, disturbed = await compare(seed)
        except Exception as error:
            failed.append(f"seed {seed}: {error!r} {_where(error)}")
        else:
            if undisturbed != disturbed:
                different.append(f"seed {seed}: {disturbed} instead of {undisturbed}")
        commits += len(outside.store.commits)
        if (seed - options.seed + 1) % SHOW_EVERY == 0:
            print(f"  {seed - options.seed + 1} programs, {len(different) + len(failed)} bad", flush=True)
    verdict.none_of("result, state and effects as undisturbed", different, f"{rounds} programs")
    verdict.none_of("every program ends and leaves nothing behind", failed, f"{rounds} programs")
    verdict.figure("commits of disturbed programs", commits)
    return verdict


def _where(error: BaseException) -> str:
    """Where it was raised; for a time limit: what was being waited for."""
    while error.__cause__ is not None:
        error = error.__cause__
    frames = traceback.extract_tb(error.__traceback__)
    return " > ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames[-6:])
