"""Every draw of a simulation: one source of chance per purpose, all from one seed.

Split by purpose, so that one more draw of one kind (a fault, say) does not reshuffle all the others.
"""

import random


class Choices:
    """Chance of one seed. Independent of PYTHONHASHSEED: names are hashed by `random` itself (SHA-512)."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._known: dict[str, random.Random] = {}

    def of(self, purpose: str) -> random.Random:
        """The source for this purpose; the same object each time."""
        found = self._known.get(purpose)
        if found is None:
            found = self._known[purpose] = random.Random(f"{self.seed}/{purpose}")
        return found


def chance(rng: random.Random, probability: float) -> bool:
    """Whether it happens. Nothing is drawn for what never happens, so a fault that is off costs no draw."""
    return probability > 0.0 and rng.random() < probability


def spread(rng: random.Random, low: float, high: float) -> float:
    """Somewhere between, every order of magnitude alike: most delays are short, some are long."""
    return float(low * (high / low) ** rng.random())
