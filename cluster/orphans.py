"""A process that Ray has started ends when its raylet does.

Ray's own workers look for that, but on a timer of the system's clock: after a step of it one has been seen to live on
(chaos, seed 2028). Nobody can reach such a process through Ray any more, while it renews its lease in Postgres: its
shards would be served by nobody, for ever. So it looks by itself, in a thread, which a blocked event loop cannot stop.
"""

import logging
import os
import threading
import time

log = logging.getLogger("perdure.process")

EXIT_ORPHANED = 72
LOOK_S = 0.5


def end_with_parent() -> None:
    """From now on this process ends itself once its parent process is gone. Whatever it had not committed is lost."""
    threading.Thread(target=_watch, args=(os.getppid(),), name="perdure orphan watch", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_S)
    log.error("the process %d that had started this one (a raylet) is gone: this one ends, too", parent)
    os._exit(EXIT_ORPHANED)
