"""Chaos, as short as can be: all starts, faults happen and show, nothing is found. `make chaos` is the real one."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]

KINDS = ["host kill", "postgres kill", "answers lost", "supervisor kill"]


# In a process of its own, which goes on in a mount namespace of its own.
def test_chaos() -> None:
    kinds = [argument for kind in KINDS for argument in ("--only", kind)]
    command = [sys.executable, "-m", "chaos", "--minutes", "0.2", "--seed", "1", "--rate", "60", *kinds]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASSED" in done.stdout
