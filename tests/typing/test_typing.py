"""User code type-checks without generated code, and its mistakes are found on their line, by mypy and by pyright."""

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
CASES = Path(__file__).resolve().parent / "cases"
Found = dict[tuple[str, int], set[str]]

pytestmark = [pytest.mark.typing, pytest.mark.timeout(300)]  # mypy reads FastAPI and Ray from their sources


def expected(tool: str) -> Found:
    """What the comments of the cases tell."""
    found: Found = {}
    for path in CASES.glob("*.py"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            comment = re.search(rf"  # {tool}: ([\w\-, ]+)", line)
            if comment:
                found[path.name, number] = set(comment[1].replace(" ", "").split(","))
    return found


def mypy(project: Path) -> Found:
    """Error codes by place."""
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--hide-error-context", "."],
        cwd=project,
        env={**os.environ, "MYPYPATH": str(ROOT / ".links")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode in (0, 1), run.stdout + run.stderr
    found: Found = defaultdict(set)
    for line in run.stdout.splitlines():
        problem = re.match(r"([\w.]+):(\d+): error: .*\[([\w-]+)\]$", line)
        if problem:
            found[problem[1], int(problem[2])].add(problem[3])
        else:
            assert ": error:" not in line, line
    return dict(found)


def pyright(project: Path) -> Found:
    """Rules by place."""
    config = {"include": ["."], "extraPaths": [str(ROOT / ".links")], "typeCheckingMode": "strict"}
    (project / "pyrightconfig.json").write_text(json.dumps(config))
    run = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "-p", str(project)],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    found: Found = defaultdict(set)
    for problem in json.loads(run.stdout)["generalDiagnostics"]:
        place = Path(problem["file"]).name, problem["range"]["start"]["line"] + 1
        found[place].add(problem.get("rule", "?"))
    return dict(found)


@pytest.mark.parametrize("tool", [mypy, pyright], ids=["mypy", "pyright"])
def test_a_type_checker_finds_exactly_the_mistakes(tool: Callable[[Path], Found], tmp_path: Path) -> None:
    for case in CASES.glob("*.py"):
        (tmp_path / case.name).write_text(case.read_text())
    wanted = expected(tool.__name__)
    assert len(wanted) > 20
    assert tool(tmp_path) == wanted


def test_the_correct_case_also_runs() -> None:
    run = subprocess.run([sys.executable, str(CASES / "shop.py")], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
