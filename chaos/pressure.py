"""As many calls as so many callers can make, in a process of its own: `python -m chaos.pressure CALLERS FILE`.

Writes down when each acknowledged call ended (eight bytes each, Unix time), until SIGTERM.
"""

import asyncio
import itertools
import os
import signal
import struct
import sys
import time
from pathlib import Path

from perdure.cluster.connect import connect
from perdure.entities import PerdureError

from .calls import CALL_S
from .entities import Flooded

KEYS = 200


async def main(callers: int, path: Path) -> None:
    over = asyncio.Event()
    client = await connect(
        dsn=os.environ["PERDURE_DSN"],
        namespace=os.environ["PERDURE_NAMESPACE"],
        ray_address=os.environ["PERDURE_RAY_ADDRESS"],
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)  # after Ray has set its own
    with path.open("ab", buffering=0) as file:

        async def caller(number: int) -> None:
            for count in itertools.count(number):
                if over.is_set():
                    return
                try:
                    await Flooded.ref(f"p{count % KEYS}").add.options(timeout=CALL_S * 6)()
                except PerdureError:
                    await asyncio.sleep(0.05)
                else:
                    file.write(struct.pack("d", time.time()))

        async with client:
            await asyncio.gather(*(caller(number) for number in range(callers)))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2])))
