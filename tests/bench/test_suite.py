"""The whole suite, tiny: every row of the table has a figure. `make bench` measures."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from bench.rows import ROWS
from tests.conftest import ROOT


# In a process of its own: it owns its Ray cluster, and one process can be in one only.
@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(300)
def test_every_row_is_measured(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    command = [sys.executable, "-m", "bench", "--quick", "--hosts", "1", "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["name"]: row for row in json.loads(file.read_text())["rows"]}
    assert set(rows) == {row.name for row in ROWS if not row.is_large}
    assert all(math.isfinite(row["median"]) for row in rows.values())
    for name in ("call", "http", "hot", "steps", "signals", "cold", "ceiling_commit", "ceiling_ray", "ceiling_http"):
        assert rows[name]["median"] > 0, f"nothing was done: {name}"
    for name in ("call", "call_alone", "http", "http_alone", "hot", "steps", "steps_alone", "signals", "timers"):
        assert rows[name]["ratio_to_ceiling"] > 0, name
    assert all(f"| {row.title} |" in done.stdout for row in ROWS if not row.is_large)
