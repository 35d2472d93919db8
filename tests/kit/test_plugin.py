"""The pytest plugin in a project that knows nothing of asyncio plugins."""

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


@pytest.mark.parametrize("plugins", [["-p", "no:asyncio"], [], ["-o", "asyncio_mode=auto"]])
def test_the_fixture_works_without_configuration(tmp_path: Path, plugins: list[str]) -> None:
    (tmp_path / "test_it.py").write_text(TEST)
    kit = ["-p", "perdure.entities.testing.plugin", "-p", "no:perdure", "--perdure-seed=7"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *kit, *plugins, str(tmp_path)],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "'hello' == 'good bye'" in done.stdout
