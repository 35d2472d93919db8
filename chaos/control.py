"""What an operator does, in a process of its own that joins Ray for that time: `python -m chaos.control '<order>'`.

The order is JSON: the arguments of `perdure.cluster.connect.up`. A process can join one Ray cluster in its life, and
chaos replaces clusters.
"""

import asyncio
import json
import logging
import sys

from perdure.cluster.connect import up
from perdure.cluster.ray_runtime import leave
from perdure.cluster.settings import ClusterSettings


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    order = json.loads(sys.argv[1])
    order["settings"] = ClusterSettings.model_validate(order.pop("settings", {}))
    asyncio.run(up(**order))
    leave()


if __name__ == "__main__":
    main()
