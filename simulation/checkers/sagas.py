"""J. All or compensated: of every saga each part was done and stayed, or was done and undone, or never done (I6, P7).

A framework that promises no isolation between the steps of a saga is held to what it does promise.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from simulation.contract import Violation

NAME = "J sagas"
Ended = Literal["done", "undone", "either"]


@dataclass(frozen=True)
class Part:
    """A mark that a saga left on an entity: it did something there, or took it back."""

    saga: str
    step: str
    is_undo: bool


def all_or_compensated(
    marks: Iterable[Part], steps: Mapping[str, Sequence[str]], ended: Mapping[str, Ended]
) -> list[Violation]:
    """`steps`: what each saga consists of. `ended`: how, as far as it is known; one that is not in it never began."""
    done: dict[str, Counter[str]] = {}
    undone: dict[str, Counter[str]] = {}
    for mark in marks:
        (undone if mark.is_undo else done).setdefault(mark.saga, Counter())[mark.step] += 1
    texts: list[str] = []
    for saga in sorted({*steps, *done, *undone}):
        did, took_back = done.get(saga, Counter[str]()), undone.get(saga, Counter[str]())
        twice = [step for step, count in (did + took_back).items() if count > 2 or did[step] > 1 or took_back[step] > 1]
        if twice:
            texts.append(f"{saga}: more than once: {twice} (done {dict(did)}, undone {dict(took_back)})")
        if took_back - did:
            texts.append(f"{saga}: took back what was never done: {dict(took_back - did)}")
        if saga not in steps:
            texts.append(f"{saga}: nobody knows it, but it did {dict(did)}")
            continue
        stays = set((did - took_back).keys())
        end = ended.get(saga)
        if end in ("done", "either") and stays == set(steps[saga]):
            continue
        if end == "done":
            texts.append(f"{saga}: it ended well, but only {sorted(stays)} of {list(steps[saga])} stay")
        elif stays:
            texts.append(f"{saga}: {sorted(stays)} of {list(steps[saga])} stay, neither all nor none (ended: {end})")
    return [Violation(NAME, "P7, I6", text) for text in texts]
