"""Feeding decoders with damaged examples: no error that is not declared, no hang, no memory blow-up (S42, F34, I32)."""

import contextlib
import resource
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from random import Random

from .decoders import Decoder
from .mutate import mutated

SECONDS_MAX = 1.0
"""CPU time that one input may take."""
MEMORY_MAX = 64 * 1024 * 1024
"""Bytes by which the memory of the process may grow meanwhile."""
_RESET_PEAK = "5"
"""To Linux: forget the peak of this process, which another test may have set too high to be seen."""


@dataclass(frozen=True)
class Finding:
    """An input that was not handled as declared."""

    decoder: str
    seed: int
    problem: str
    data: bytes

    def __str__(self) -> str:
        return f"{self.decoder} seed {self.seed}: {self.problem}\n    {self.data[:300]!r} ({len(self.data)} bytes)"


def check(decoder: Decoder, data: bytes, seed: int = -1, *, seconds_max: float = SECONDS_MAX) -> Finding | None:
    """What is wrong with how these bytes are decoded."""
    _forget_peak()
    peak, began = _peak(), time.process_time()
    try:
        decoder.decode(data)
    except decoder.raises:
        pass
    except Exception as error:
        return Finding(decoder.name, seed, f"undeclared {error!r}"[:400], data)
    took, grown = time.process_time() - began, _peak() - peak
    if took > seconds_max:
        return Finding(decoder.name, seed, f"took {took:.1f} s of CPU", data)
    if grown > MEMORY_MAX:
        return Finding(decoder.name, seed, f"took {grown >> 20} MiB of memory", data)
    return None


def fuzz(decoder: Decoder, seeds: range) -> list[Finding]:
    """Findings of these seeds."""
    found = (check(decoder, input_of(decoder, seed), seed) for seed in seeds)
    return [finding for finding in found if finding is not None]


def input_of(decoder: Decoder, seed: int) -> bytes:
    """The input that a seed stands for."""
    return mutated(Random(zlib.crc32(decoder.name.encode()) * 1_000_003 + seed), decoder.examples)


def _forget_peak() -> None:
    with contextlib.suppress(OSError):  # not Linux: then the peak is that of all tests so far
        Path("/proc/self/clear_refs").write_text(_RESET_PEAK, encoding="ascii")


def _peak() -> int:
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return int(status.partition("VmHWM:")[2].split(maxsplit=1)[0]) * 1024
