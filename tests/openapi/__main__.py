"""python -m tests.openapi [--seed N] [--examples N] [--only gateway|delivery]: the long examination by Schemathesis."""

import argparse
import logging
import random
import sys

from .examine import examine
from .worlds import delivery, gateway

WORLDS = {"gateway": gateway, "delivery": delivery}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.openapi", description=__doc__)
    parser.add_argument("--seed", type=int, help="of every request; printed in any case")
    parser.add_argument("--examples", type=int, default=100, help="random requests per operation")
    parser.add_argument("--only", choices=WORLDS, help="examine one of them")
    chosen = parser.parse_args()
    logging.disable(logging.ERROR)
    seed = random.SystemRandom().randrange(1_000_000) if chosen.seed is None else chosen.seed
    is_clean = True
    for name, make in WORLDS.items():
        if chosen.only in (None, name):
            print(f"{name}: seed {seed}", flush=True)
            with make() as world:
                findings = examine(world, seed=seed, examples=chosen.examples)
            print(findings.render(), flush=True)
            is_clean = is_clean and not findings.unexplained
    return 0 if is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
