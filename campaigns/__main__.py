"""python -m campaigns NAME [--rounds N] [--seconds S] [--seed S] [--hosts H] [--rate R] [--json FILE]"""

import argparse
import asyncio
import importlib
import logging
import random
import signal
import sys
from pathlib import Path

from .harness import Options
from .verdict import Verdict

CAMPAIGNS = {
    "approvals": "2,000 workflows wait for a decision while everything is killed and started again",
    "orders": "SIGKILL of hosts, supervisor, gateway and Postgres while food is delivered",
    "zombie": "a host stopped for longer than its lease, then continued",
    "counters": "1,000 counters, 200 callers, a host killed every 5 s",
    "long-lives": "a million calls to one entity, fifty thousand signals to one workflow",
    "passivation": "10,000 idle entities leave memory and come back",
    "dedicated": "an entity in a Ray actor of its own, killed",
    "transfers": "64 transfers at a time, by transaction and by saga, while hosts are killed",
    "exactly-once-messages": "numbered messages from entity to entity while hosts are killed",
    "rolling": "hosts and gateways of a new release under 500 calls/s, and no failed call",
    "years": "fifty subscriptions of ten years, three releases and a wrong one, fifty restarts",
    "programs": "random asyncio programs, evicted and crashed at random (no Ray, no Postgres)",
}
LIMIT_S = 1_800.0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m campaigns",
        description=__doc__,
        epilog="campaigns: " + "; ".join(f"{name}: {words}" for name, words in CAMPAIGNS.items()),
    )
    parser.add_argument("name", choices=CAMPAIGNS)
    parser.add_argument("--rounds", type=int, help="how many faults")
    parser.add_argument("--seconds", type=float, help="how long the load lasts")
    parser.add_argument("--seed", type=int, default=None, help="of every choice; printed in any case")
    parser.add_argument("--hosts", type=int, help="host processes")
    parser.add_argument("--rate", type=float, help="calls per second (rolling)")
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="the campaign fails if it takes longer, seconds")
    parser.add_argument("--json", type=Path, help="write the verdict there too")
    parser.add_argument("--keep", action="store_true", help="keep the database")
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.ERROR, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    seed = chosen.seed if chosen.seed is not None else random.SystemRandom().randrange(1_000_000)
    options = Options(
        seed=seed,
        rounds=chosen.rounds,
        seconds=chosen.seconds,
        hosts=chosen.hosts,
        rate=chosen.rate,
        keep=chosen.keep,
    )
    print(f"campaign {chosen.name}: seed {seed}", flush=True)
    campaign = importlib.import_module(f".{chosen.name.replace('-', '_')}", __package__)
    verdict: Verdict = asyncio.run(_within(chosen.limit, campaign.run(options)))
    print(verdict.render(), flush=True)
    if chosen.json is not None:
        chosen.json.write_text(verdict.to_json(), encoding="utf-8")
    return 0 if verdict.is_ok else 1


async def _within(limit_s: float, campaign: object) -> Verdict:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # clean up as after Ctrl-C
    async with asyncio.timeout(limit_s):
        return await campaign  # type: ignore[misc,no-any-return]


if __name__ == "__main__":
    sys.exit(main())
