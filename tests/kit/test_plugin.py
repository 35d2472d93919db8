"""The pytest plugin in a project that knows nothing of asyncio plugins."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

TEST = """
from datetime import timedelta
from perdure.entities import Entity, activity, condition, workflow
from perdure.entities.testing import fake

@activity
async def greet(name: str) -> str:
    raise AssertionError

class Greeting(Entity):
    @workflow
    async def run(self, name: str) -> str:
        await condition(lambda: False, timeout=timedelta(days=365))
        return await greet(name)

async def test_greeting(perdure):
    async with perdure([Greeting], activities={greet: "hello"}) as world:
        assert await Greeting.ref("g").run("Ada") == "hello"
        assert world.session == "test-7"

async def test_wrong(perdure):
    async with perdure([Greeting], activities={greet: "hello"}):
        assert await Greeting.ref("g").run("Ada") == "good bye"
"""


ROOT = Path(__file__).resolve().parents[2]
KIT = ["-p", "perdure.entities.testing.plugin", "-p", "no:perdure"]


def run_pytest(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *KIT, *arguments, str(folder)],
        cwd=folder, capture_output=True, text=True, check=False, timeout=110,
    )  # fmt: skip
    return done.stdout + done.stderr


@pytest.mark.parametrize("plugins", [["-p", "no:asyncio"], [], ["-o", "asyncio_mode=auto"]])
def test_the_fixture_works_without_configuration(tmp_path: Path, plugins: list[str]) -> None:
    (tmp_path / "test_it.py").write_text(TEST)
    output = run_pytest(tmp_path, "--perdure-seed=7", *plugins)
    assert "1 failed, 1 passed" in output, output
    assert "'hello' == 'good bye'" in output


@pytest.mark.parametrize("options", [[], ["--perdure-evict"]])
def test_the_page_on_testing_is_true(tmp_path: Path, options: list[str]) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/testing.md").read_text(), re.DOTALL | re.MULTILINE)
    (tmp_path / "test_page.py").write_text(block)
    output = run_pytest(tmp_path, "-p", "no:asyncio", *options)
    assert "2 passed" in output, output
