"""Fuzzing for longer: `python -m tests.fuzz [--seconds 600] [--first-seed 0] [--only token]`. Exits 1 on findings."""

import argparse
import sys
import time

from .decoders import DECODERS
from .run import fuzz

ROUND = 200


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--first-seed", type=int, default=100_000, help="the default run of the tests uses lower ones")
    parser.add_argument("--only", default="", help="only decoders whose name holds this")
    options = parser.parse_args()
    decoders = [decoder for decoder in DECODERS if options.only in decoder.name]
    seed, findings, until = options.first_seed, 0, time.monotonic() + options.seconds
    shown: set[tuple[str, str]] = set()
    while time.monotonic() < until and decoders:
        for decoder in decoders:
            for finding in fuzz(decoder, range(seed, seed + ROUND)):
                findings += 1
                if (finding.decoder, finding.problem[:40]) not in shown:
                    shown.add((finding.decoder, finding.problem[:40]))
                    print(finding, flush=True)  # noqa: T201 - a command
        seed += ROUND
    print(f"{len(decoders)} decoders, seeds {options.first_seed} to {seed - 1}: {findings} findings")  # noqa: T201
    return 1 if findings or not decoders else 0


sys.exit(main())
