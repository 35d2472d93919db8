"""The lists in pyproject.toml that a new folder has to enter, compared with the folders."""

import importlib
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
FRAMEWORK = ("entities", "cluster", "api")
SETTINGS: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]


def import_name(folder: Path) -> str:
    return ".".join(["perdure", *folder.relative_to(ROOT).parts])


def test_every_package_is_listed_for_the_wheel() -> None:
    folders = {module.parent for name in FRAMEWORK for module in (ROOT / name).rglob("*.py")}
    assert sorted(SETTINGS["setuptools"]["packages"]) == sorted(map(import_name, folders))


def test_every_package_has_an_init() -> None:
    folders = {module.parent for name in FRAMEWORK for module in (ROOT / name).rglob("*.py")}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


@pytest.mark.parametrize("name", FRAMEWORK)
def test_links_are_relative_and_lead_to_the_folders(name: str) -> None:
    link = ROOT / ".links" / "perdure" / name
    assert link.readlink() == Path("../..") / name
    assert link.resolve() == ROOT / name


@pytest.mark.parametrize("name", FRAMEWORK)
def test_the_suite_tests_this_checkout(name: str) -> None:
    module = importlib.import_module(f"perdure.{name}")
    assert module.__file__ is not None
    assert Path(module.__file__).resolve() == ROOT / name / "__init__.py"


def test_every_folder_with_code_is_type_checked() -> None:
    folders = {
        folder.name
        for folder in ROOT.iterdir()
        if folder.is_dir() and not folder.name.startswith(".") and any(folder.rglob("*.py"))
    }
    assert {name.removeprefix("perdure.") for name in SETTINGS["mypy"]["packages"]} == folders
    assert set(SETTINGS["pyright"]["include"]) == folders
