"""A process that Ray has started does not outlive its raylet, whatever Ray's own watch does."""

import os
import signal
import subprocess
import sys

CHILD = """
import time
from perdure.cluster.orphans import end_with_parent
end_with_parent()
print("ready", end="", flush=True)
time.sleep(60)
"""
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}])"


def test_it_ends_when_its_parent_is_killed() -> None:
    reading, writing = os.pipe()
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=writing, stdin=subprocess.DEVNULL)
    os.close(writing)
    with os.fdopen(reading, "rb") as output:
        assert output.read(5) == b"ready"
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert output.read() == b""  # its last writer is gone: the child, which would have slept for a minute
