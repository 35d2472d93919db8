"""A. Keys: all who used one idempotency key got one result, and it had one effect; other payloads none (P1, I10)."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping

from simulation.contract import Violation
from simulation.record import Came, Op

NAME = "A keys"
MISMATCH = "idempotency_mismatch"


def one_effect(ops: Mapping[str, Iterable[Op]], effects: Iterable[tuple[str, object]]) -> list[Violation]:
    """`ops`: by key, all that used it; their argument is the payload. `effects`: (key, payload) of each effect."""
    had: dict[str, Counter[str]] = {}
    for key, payload in effects:
        had.setdefault(key, Counter())[_text(payload)] += 1
    texts: list[str] = []
    for key in sorted({*ops, *had}):
        tried, done = list(ops.get(key, ())), had.get(key, Counter[str]())
        if not tried:
            texts.append(f"{key}: nobody used it, but it had an effect: {dict(done)}")
        if done.total() > 1:
            texts.append(f"{key}: {done.total()} effects: {dict(done)}")
        for op in tried:
            if op.is_ok and not done[_text(op.argument)]:
                texts.append(f"{key}: acknowledged, but the effect is {dict(done) or 'none'}: {op}")
            if op.error == MISMATCH and done[_text(op.argument)]:
                texts.append(f"{key}: refused as another payload, but it is the one that counted: {op}")
        if done and all(op.outcome is Came.FAIL for op in tried if _text(op.argument) in done):
            texts.append(f"{key}: refused to everybody, but it had the effect {dict(done)}")
        if len(results := {_text(op.result) for op in tried if op.is_ok}) > 1:
            texts.append(f"{key}: different results: {sorted(results)}")
    return [Violation(NAME, "P1, I10", text) for text in texts]


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True)
