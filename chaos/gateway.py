"""A gateway for all entities of the installation: `python -m chaos.gateway PORT`.

Database, namespace and Ray come from the environment (PERDURE_DSN, PERDURE_NAMESPACE, PERDURE_RAY_ADDRESS).
"""

import asyncio
import faulthandler
import signal
import sys

import uvloop

from perdure.api import Settings, create_app
from perdure.api.serve import serve
from perdure.entities import Registry

from .entities import ENTITIES


def main() -> None:
    faulthandler.register(signal.SIGUSR1)  # where it hangs, if it does
    app = create_app(Registry.load(ENTITIES))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(app, Settings(port=int(sys.argv[1]))))


if __name__ == "__main__":
    main()
