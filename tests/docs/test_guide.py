"""The blocks of the guide that start with their imports are whole programs: they run as printed."""

import ast
from typing import Any

import pytest

from perdure.entities import Entity, Schedule
from perdure.entities.testing import LocalCluster

from . import blocks
from .blocks import split_awaits


def block(part: str) -> str:
    return blocks.block("docs/guide.md", part)


async def run(text: str, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    definitions, calls = split_awaits(text)
    names: dict[str, Any] = {"__name__": "guide"}
    exec(definitions, names)
    classes = [c for c in names.values() if isinstance(c, type) and issubclass(c, Entity) and c is not Entity]
    async with LocalCluster(classes):
        code = compile(calls, "guide", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        await eval(code, names)
        if "nightly" in names:
            about = await Schedule.ref("nightly").describe()
            assert (about.is_paused, about.note, about.started + len(about.waiting) + about.skipped) == (
                True,
                "quiet week",
                3,
            )
        else:
            assert await names["Delivery"].ref("o-1").run.result() == "o-1 to Elm Street 5"
    return names, capsys.readouterr().out


async def test_the_schedule_of_the_guide(capsys: pytest.CaptureFixture[str]) -> None:
    _, printed = await run(block("nightly = await schedule("), capsys)
    assert "[" in printed


async def test_the_events_of_the_guide(capsys: pytest.CaptureFixture[str]) -> None:
    names, _ = await run(block("told = await publish("), capsys)
    assert names["told"] == 2


async def test_the_decision_of_the_guide(capsys: pytest.CaptureFixture[str]) -> None:
    definitions, calls = split_awaits(block("from perdure.entities import DecisionOverdue"))
    names: dict[str, Any] = {"__name__": "guide"}
    exec(definitions, names)
    async with LocalCluster([names["Loan"]]):
        await eval(compile(calls, "guide", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    assert capsys.readouterr().out == "approve\n"
