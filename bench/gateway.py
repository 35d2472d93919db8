"""The gateway of the benchmarks in a process of its own: `python -m bench.gateway PORT_FILE`.

Database, namespace and Ray come from the environment (PERDURE_DSN, PERDURE_NAMESPACE, PERDURE_RAY_ADDRESS).
"""

import asyncio
import contextlib
import signal
import sys
from pathlib import Path

import uvloop

from perdure.api import Settings, create_app
from perdure.api.serve import bind, serving

from .entities import Counter, Steps


def main() -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(Path(sys.argv[1])))


async def _serve(port_file: Path) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    with contextlib.closing(bind("127.0.0.1", 0)) as listener:
        async with serving(create_app([Counter, Steps]), Settings(), listener=listener):
            port_file.write_text(f"{listener.getsockname()[1]}\n")
            await ended.wait()


if __name__ == "__main__":
    main()
