"""python -m chaos [run|postgres|head] [--minutes M] [--seed S] [--rate OPS] [--only KIND ...] [--json FILE]"""

import argparse
import asyncio
import logging
import random
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from campaigns.harness import Options
from campaigns.verdict import Verdict

from .disk import isolate

MINUTES = 30.0
HEAD = ["head kill", "head kill, nodes stay"]
LIMIT_S = 1_200.0
"""Beyond the minutes of faults: starting, coming to rest, checking."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("scenario", nargs="?", default="run", choices=["run", "postgres", "head"])
    parser.add_argument("--minutes", type=float, default=MINUTES, help="how long faults are done")
    parser.add_argument("--seed", type=int, default=None, help="of every choice; printed in any case")
    parser.add_argument("--rate", type=float, default=150.0, help="operations per second, at most")
    parser.add_argument("--only", action="append", default=[], help="this kind of fault (repeatable)")
    parser.add_argument("--reminders", type=int, default=100_000, help="how many come due after a downtime")
    parser.add_argument("--json", type=Path, help="write the verdict there too")
    parser.add_argument("--keep", action="store_true", help="keep logs and records")
    chosen = parser.parse_args()
    why_no_disk = isolate()
    logging.basicConfig(level=logging.ERROR, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    seed = chosen.seed if chosen.seed is not None else random.SystemRandom().randrange(1_000_000)
    options = Options(seed=seed, keep=chosen.keep)
    print(f"chaos {chosen.scenario}: seed {seed}", flush=True)
    scenario = _scenario(chosen, options, why_no_disk)
    verdict: Verdict = asyncio.run(_within(chosen.minutes * 60 + LIMIT_S, scenario))
    print(verdict.render(), flush=True)
    if chosen.json is not None:
        chosen.json.write_text(verdict.to_json(), encoding="utf-8")
    return 0 if verdict.is_ok else 1


def _scenario(chosen: argparse.Namespace, options: Options, why_no_disk: str) -> Coroutine[Any, Any, Verdict]:
    if chosen.scenario == "postgres":
        from .throughput import run as measure  # noqa: PLC0415 - only what is needed

        return measure(options, why_no_disk=why_no_disk)
    from .campaign import run  # noqa: PLC0415

    kinds = HEAD if chosen.scenario == "head" else chosen.only
    minutes = 0.0 if chosen.scenario == "head" else chosen.minutes
    return run(options, minutes=minutes, rate=chosen.rate, kinds=kinds, reminders=chosen.reminders, disk=why_no_disk)


async def _within(limit_s: float, scenario: Coroutine[Any, Any, Verdict]) -> Verdict:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # clean up as after Ctrl-C
    async with asyncio.timeout(limit_s):
        return await scenario


if __name__ == "__main__":
    sys.exit(main())
