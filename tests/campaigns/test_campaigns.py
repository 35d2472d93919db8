"""Campaigns, short: each runs, its faults happen, it finds nothing. `make campaigns` runs the real ones.

`years` is not here: however few bills it is told to send, its restarts and releases take more than a minute.
"""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.scratch import scratch

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(420)]

SHORT = {
    "approvals": ["--rounds", "100"],
    "counters": ["--seconds", "11"],
    "dedicated": ["--rounds", "1"],
    "exactly-once-messages": ["--seconds", "7"],
    "long-lives": ["--rounds", "2"],
    "orders": ["--rounds", "3"],
    "passivation": ["--rounds", "1"],
    "programs": ["--rounds", "40"],
    "rolling": ["--seconds", "3", "--rate", "60"],
    "transfers": ["--seconds", "8"],
    "zombie": ["--rounds", "1"],
}
EVERY_TIME = ("dedicated", "exactly-once-messages", "orders", "rolling", "transfers", "zombie")
"""The others show at more expense what tests of the same promises show, too."""


# In a process of its own: a campaign owns its Ray cluster, and one process can be in one only.
@pytest.mark.parametrize(
    "name", [name if name in EVERY_TIME else pytest.param(name, marks=pytest.mark.long) for name in SHORT]
)
def test_campaign(name: str) -> None:
    command = [sys.executable, "-m", "campaigns", name, "--seed", "1", *SHORT[name]]
    environment = os.environ | {"TMPDIR": scratch()}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASSED" in done.stdout
