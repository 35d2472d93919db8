"""Activities of a simulated host: on its own node, without threads."""

from concurrent.futures import ThreadPoolExecutor
from typing import cast

from perdure.entities.engine.activities import ActivityRunner
from perdure.entities.engine.slots import Slots

from .loop import here


class SimRunner(ActivityRunner):
    """`async def` ones as tasks of the host's node; `def` ones run to their end on the spot."""

    def open(self) -> None:
        self._host_loop = self._loop = here.get().facts["loop"]
        self._threads = cast("ThreadPoolExecutor", None)  # the loop runs what would go there
        self._slots = Slots(self._settings.activities_max)

    def close(self) -> None:
        for task in self._tasks.values():
            task.cancel()
