"""Random asyncio programs as workflows: undisturbed, and evicted after every turn with crashes at random commits.

Seeds are printed; PERDURE_SEEDS=1000 tries more, PERDURE_SEED=17 only one. Thousands: `python -m campaigns programs`.
"""

import os

import pytest

from .random_programs import compare

SEEDS = [int(os.environ["PERDURE_SEED"])] if "PERDURE_SEED" in os.environ else range(
    int(os.environ.get("PERDURE_SEEDS", "50"))
)  # fmt: skip


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_random_program_ends_alike_whatever_happens(seed: int) -> None:
    undisturbed, disturbed = await compare(seed)
    assert disturbed == undisturbed
