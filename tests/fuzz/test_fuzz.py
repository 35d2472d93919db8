"""S42, F34, I32: whatever bytes come, decoders fail as declared, soon, in bounded memory (longer: __main__)."""

import time

import hypothesis
import hypothesis.strategies as st
import pytest

from .decoders import DECODERS, Decoder
from .run import check, fuzz, input_of

SEEDS = range(40)


@pytest.mark.parametrize("decoder", DECODERS, ids=lambda decoder: decoder.name)
def test_damaged_examples_are_refused_as_declared(decoder: Decoder) -> None:
    for number, example in enumerate(decoder.examples):
        assert check(decoder, example) is None, number
    findings = fuzz(decoder, SEEDS)
    assert not findings, "\n".join(map(str, findings))


@pytest.mark.parametrize("decoder", DECODERS, ids=lambda decoder: decoder.name)
@hypothesis.given(data=st.binary(max_size=200))
@hypothesis.settings(max_examples=15)
def test_any_bytes_are_refused_as_declared(decoder: Decoder, data: bytes) -> None:
    finding = check(decoder, data)
    assert finding is None, finding


def test_most_examples_are_accepted_unharmed() -> None:
    """Else nothing behind the first check is ever reached."""
    refused: list[str] = []
    for decoder in DECODERS:
        try:
            decoder.decode(decoder.examples[0])
        except decoder.raises:
            refused.append(decoder.name)
    assert refused == []


def test_a_seed_is_an_input() -> None:
    decoder = DECODERS[0]
    assert [input_of(decoder, seed) for seed in range(20)] == [input_of(decoder, seed) for seed in range(20)]
    assert len({input_of(decoder, seed) for seed in range(20)}) > 10


def test_the_fuzzer_notices_what_it_looks_for() -> None:
    assert len(b"x" * (512 * 1024 * 1024)), "whatever memory others have taken before"

    def raises(_: bytes) -> object:
        raise IndexError

    def hangs(_: bytes) -> object:
        until = time.process_time() + 0.05
        while time.process_time() < until:
            pass
        return None

    def swells(_: bytes) -> object:
        return b"x" * (256 * 1024 * 1024)

    problems = [
        check(Decoder("x", decode, (ValueError,), (b"",)), b"", seconds_max=limit)
        for decode, limit in ((raises, 1.0), (hangs, 0.04), (swells, 60.0))
    ]
    texts = [finding.problem if finding is not None else "" for finding in problems]
    assert "IndexError" in texts[0]
    assert "CPU" in texts[1]
    assert "memory" in texts[2]
