"""Very many calls to one entity at once, from a process of its own: `python -m chaos.flood KEY CALLS`."""

import asyncio
import json
import os
import sys
import time

from campaigns.load import Came, Tally
from perdure.cluster.connect import connect

from .calls import CALL_S
from .entities import Flooded


async def main(key: str, calls: int) -> None:
    client = await connect(
        dsn=os.environ["PERDURE_DSN"],
        namespace=os.environ["PERDURE_NAMESPACE"],
        ray_address=os.environ["PERDURE_RAY_ADDRESS"],
    )
    async with client:
        tally = Tally()
        entity = Flooded.ref(key)
        began = time.monotonic()
        await asyncio.gather(*(tally.call(entity.add.options(timeout=CALL_S * 4)()) for _ in range(calls)))
        last_s = time.monotonic() - began
        report: dict[str, object] = {came.value: tally.count[came] for came in Came}
        report |= {"errors": tally.errors, "last_s": last_s}
        print(json.dumps(report), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
