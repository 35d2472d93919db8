"""The guide's examples of long runs and of changing code work as printed."""

import asyncio
import importlib
from pathlib import Path
from typing import Any

import pytest

from perdure.entities import Registry
from perdure.entities.testing import LocalCluster

from .blocks import ROOT, python_blocks

IMPORTS = "import asyncio\nimport contextlib\nfrom typing import Any\nfrom perdure.entities import *\n\n"


def example(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The class of this name, from a module made of its block."""
    [block] = [one for one in python_blocks(ROOT / "docs" / "guide.md") if f"class {name}(" in one]
    module = f"guide_{name.lower()}"
    (folder / f"{module}.py").write_text(IMPORTS + block)
    monkeypatch.syspath_prepend(folder)
    return getattr(importlib.import_module(module), name)


async def test_a_subscription_continues_as_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subscription: Any = example("Subscription", tmp_path, monkeypatch)
    async with LocalCluster([subscription]) as cluster:
        run_id = await subscription.ref("s").run.start("basic")
        await asyncio.gather(*(subscription.ref("s").changes.send(f"plan {number}") for number in range(30)))
        await cluster.drained()
        assert await subscription.ref("s").run.start("basic") == f"{run_id}.2"


async def test_a_patched_trip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trip: Any = example("Trip", tmp_path, monkeypatch)
    async with LocalCluster([trip]):
        await trip.ref("t").run()


def test_an_upgraded_person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    person: Any = example("Person", tmp_path, monkeypatch)
    [definition] = Registry([person])
    loaded: Any = definition.load("p", b'{"first": "Ada", "last": "Lovelace"}', version=1)
    assert loaded.name == "Ada Lovelace"
