"""`make audit` fails for a vulnerability, and never takes "could not look" for "found nothing"."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOLE = {"id": "CVE-1", "fix_versions": ["2.0"]}
SKIPPED = "not found on PyPI"


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit_of_dependencies", ROOT / ".ci" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def package(name: str, *holes: Any) -> dict[str, Any]:
    return {"name": name, "version": "1.0", "vulns": list(holes)}


@pytest.mark.parametrize(
    ("packages", "status", "told"),
    [
        ([package("a"), package("b")], 0, "no known vulnerability in 2"),
        ([package("a"), package("b", HOLE)], 1, "b 1.0: CVE-1, fixed in 2.0"),
        ([package("a"), {"name": "b", "skip_reason": SKIPPED}], 1, "could not be looked up: b"),
        ([{"name": "a", "skip_reason": SKIPPED}], 0, "NOT CHECKED"),
        ([package("a", HOLE), {"name": "b", "skip_reason": SKIPPED}], 1, "CVE-1"),
        ([package("a"), {"name": "perdure", "skip_reason": "editable"}], 0, "no known vulnerability in 1"),
    ],
)
def test_the_verdict(audit: ModuleType, packages: list[Any], status: int, told: str) -> None:
    output = json.dumps({"dependencies": packages})
    got, lines = audit.judge(output, "")
    assert got == status
    assert audit.judge(output, "", is_strict=True) == (1 if told == "NOT CHECKED" else status, lines)
    assert told in "\n".join(lines)


@pytest.mark.parametrize(
    ("complaint", "status"),
    [("requests.exceptions.ConnectionError: …", 0), ("Max retries exceeded", 0), ("Traceback: KeyError", 1), ("", 1)],
)
def test_only_a_service_that_is_away_is_no_failure(audit: ModuleType, complaint: str, status: int) -> None:
    got, lines = audit.judge("", complaint)
    assert got == status
    assert ("NOT CHECKED" in lines[0]) is (status == 0)
    assert audit.judge("", complaint, is_strict=True) == (1, lines), "what always fails is looked into"
