"""What the documentation shows runs as it is printed."""

import ast
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from perdure.api import gateway_router
from perdure.entities.testing import LocalCluster

from .blocks import PAGES, ROOT, python_blocks, split_awaits


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory on the import path; what is imported from it is forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def imported(folder: Path, name: str, source: str) -> ModuleType:
    (folder / f"{name}.py").write_text(source)
    importlib.invalidate_caches()
    return importlib.import_module(name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_is_python(page: Path) -> None:
    for block in python_blocks(page):
        compile(block, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_import_from_perdure_exists(page: Path) -> None:
    for block in python_blocks(page):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("perdure"):
                module = importlib.import_module(node.module)
                missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
                assert not missing, f"{node.module} has no {missing}"


async def test_the_example_of_the_readme_runs(folder: Path) -> None:
    [block] = python_blocks(ROOT / "README.md")
    definitions, calls = split_awaits(block)
    charged: dict[str, int] = {}

    async def pay(amount: int, *, key: str) -> str:
        charged[key] = amount
        return f"payment of {amount}"

    module = imported(folder, "readme_example", definitions)
    vars(module)["pay"] = pay
    order: Any = module.Order
    async with LocalCluster([order]) as cluster:
        await run(calls, vars(module))
        result = await order.ref("order-42").run.result(timeout=10)
        assert result == "payment of 1200"
        assert await order.ref("order-42").state() == "Picked up"
        assert list(charged.values()) == [1200]
        await cluster.crash()
        assert await order.ref("order-42").state() == "Picked up"


async def run(statements: str, names: dict[str, Any]) -> None:
    """Statements with awaits at top level."""
    code = compile(statements, "block", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    pending = eval(code, names)
    if inspect.isawaitable(pending):
        await pending


async def test_getting_started(folder: Path) -> None:
    shop_source, app_source, test_source = python_blocks(ROOT / "docs" / "getting-started.md")
    imported(folder, "shop", shop_source)
    app: Any = imported(folder, "shop_app", app_source).app
    assert "/counters/{key}/add" in app.openapi()["paths"]
    assert "/visit/{page}" in app.openapi()["paths"]
    test = imported(folder, "shop_test", test_source)
    await test.test_counter_survives_a_crash()


async def test_the_http_calls_of_getting_started(folder: Path) -> None:
    text = (ROOT / "docs" / "getting-started.md").read_text()
    calls = re.findall(
        r"^curl (-X (?P<verb>\w+) )?localhost:8000(?P<path>\S+)(.* -d '(?P<body>.*)')?$", text, re.MULTILINE
    )
    shop: Any = imported(folder, "shop", python_blocks(ROOT / "docs" / "getting-started.md")[0])
    app = FastAPI()
    app.include_router(gateway_router([shop.Counter]))
    async with (
        LocalCluster([shop.Counter]),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost:8000") as http,
    ):
        answers = [
            await http.request(verb or "GET", path, content=body, headers={"content-type": "application/json"})
            for _, verb, path, _, body in calls
        ]
    assert [(a.status_code, a.json()) for a in answers] == [(200, 1), (200, 1)]
