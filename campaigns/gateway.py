"""Food delivery's own web application in a process that can be killed alone: `python -m campaigns.gateway PORT`.

Database, namespace and Ray come from the environment (PERDURE_DSN, PERDURE_NAMESPACE, PERDURE_RAY_ADDRESS).
"""

import asyncio
import sys

import uvloop

from examples.food_delivery.app import app
from perdure.api import Settings
from perdure.api.serve import serve


def main() -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(app, Settings(port=int(sys.argv[1]))))


if __name__ == "__main__":
    main()
