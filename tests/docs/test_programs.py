"""The commands of the documentation that take minutes, or are this very run: taken by make and by their own parsers.

`make` is asked for what it would do, and each program that it names gets its words and stops once it has understood
them. What the programs do is tested by tests/bench, tests/campaigns and tests/chaos.
"""

import argparse
import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .blocks import ROOT, block
from .shell import bash
from .test_examples import module_of

pytestmark = pytest.mark.slow

STAND_INS = """
make() { env -u MAKEFLAGS -u MFLAGS -u MAKEOVERRIDES -u ARGS make --dry-run --no-print-directory "$@"; }
python() { printf 'python'; printf ' %q' "$@"; echo; }
"""
PROGRAM = re.compile(r"(?m)^(?:\S*/)?(python -m (?:bench|campaigns|chaos)\b.*|perdure dev .*|pytest .*)$")
MAIN = {"bench", "campaigns", "chaos"}
"""Packages whose program is their `__main__`."""


class Understood(Exception):
    """The program would begin now."""


def understand(command: str, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """What a program of ours takes its words for. It ends with SystemExit where it does not understand them."""
    _, _, name, *words = shlex.split(command, comments=True)
    found: list[argparse.Namespace] = []
    parse = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, *arguments: Any) -> argparse.Namespace:
        found.append(parse(parser, *arguments))
        raise Understood

    program: Any = importlib.import_module(f"{name}.__main__" if name in MAIN else name)
    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        patch.setattr(sys, "argv", [name, *words])
        with pytest.raises(Understood):
            program.main()
    return found[0]


@pytest.mark.parametrize(
    ("page", "part", "programs"),
    [
        ("README.md", "make demo ", ["perdure", "pytest"]),
        ("docs/benchmarks.md", "make bench ", ["python"] * 4),
        ("docs/benchmarks.md", "bench.soak", ["python"] * 3),
        ("docs/testing.md", "make chaos-short", ["python"] * 5),
        ("examples/food_delivery/README.md", "make demo ", ["perdure"]),
        ("examples/subscription/README.md", "campaigns years", ["python"]),
    ],
)
async def test_the_programs_take_their_words(
    page: str, part: str, programs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = await bash(block(page, part), folder=ROOT, before=STAND_INS)
    taken = PROGRAM.findall("".join(one.output for one in said))
    assert [command.split()[0] for command in taken] == programs
    for command in taken:
        if command.startswith("perdure"):
            assert module_of(command) == "examples.food_delivery.app"
        elif command.startswith("python"):
            understand(command, monkeypatch)


def test_words_that_a_program_does_not_know_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit):
        understand("python -m chaos --minuets 3", monkeypatch)


async def test_contributing_starts_from_a_clone(tmp_path: Path) -> None:
    if subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, check=False).returncode != 0:
        pytest.skip("no repository: this is a source distribution")
    text = block("docs/contributing.md", "git clone").replace("<this repository>", shlex.quote(f"file://{ROOT}"))
    said = await bash(text, folder=tmp_path, before=STAND_INS + 'git() { command git "$@" --quiet --depth 1; }')
    steps = "".join(one.output for one in said)
    for tool in (
        "-m venv .venv",
        "ruff check",
        "mypy",
        "pyright",
        "lint-imports",
        "pytest -n 2",
        "perdure dev examples",
    ):
        assert tool in steps
