"""I. Streams: what one sender sent to one receiver is applied in the order sent, without a gap (P5, I2)."""

from collections.abc import Iterable, Mapping, Sequence

from simulation.contract import Violation
from simulation.record import Came, Op

NAME = "I streams"

Stream = tuple[str, str]
"""(receiver, sender)"""


def complete(heard: Mapping[Stream, Sequence[int]], sent: Mapping[Stream, int]) -> list[Violation]:
    """Streams between entities: exactly 1, 2, … up to what was sent, in this order."""
    texts: list[str] = []
    for stream in sorted({*heard, *sent}):
        numbers, count = list(heard.get(stream, ())), sent.get(stream, 0)
        if numbers != list(range(1, count + 1)):
            at = next((i for i, number in enumerate(numbers) if number != i + 1), len(numbers))
            texts.append(
                f"{stream[1]} to {stream[0]}: {numbers[max(0, at - 3) : at + 4]} around place {at} of 1 to {count}"
            )
    return [Violation(NAME, "P1, P5, I2", text) for text in texts]


def in_order(heard: Mapping[Stream, Sequence[int]], ops: Iterable[Op]) -> list[Violation]:
    """Streams of clients (argument: sender, number): acknowledged ones are there, once, in the order sent.

    One of unknown outcome may be there, at any place: it may have come late.
    """
    by_stream: dict[Stream, list[Op]] = {}
    for op in ops:
        by_stream.setdefault((str(op.entity), op.argument[0]), []).append(op)
    texts: list[str] = []
    for stream, sent in by_stream.items():
        numbers = list(heard.get(stream, ()))
        ok = [op.argument[1] for op in sent if op.is_ok]
        acknowledged = [number for number in numbers if number in set(ok)]
        refused = {op.argument[1] for op in sent if op.outcome is Came.FAIL}
        if sorted(acknowledged) != sorted(ok):
            texts.append(f"{stream[1]} to {stream[0]}: acknowledged {sorted(ok)}, heard {sorted(acknowledged)}")
        elif acknowledged != ok:
            texts.append(f"{stream[1]} to {stream[0]}: sent in the order {ok}, heard in the order {acknowledged}")
        if wrong := [number for number in numbers if number in refused and number not in ok]:
            texts.append(f"{stream[1]} to {stream[0]}: refused, but heard: {wrong}")
        if len(set(numbers)) < len(numbers):
            texts.append(f"{stream[1]} to {stream[0]}: heard twice: {numbers}")
    return [Violation(NAME, "P5, I2", text) for text in texts]
