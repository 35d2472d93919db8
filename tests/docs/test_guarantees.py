"""Every test that docs/guarantees.md names as a proof is there and is run; so are the files and folders it names."""

import ast
import re
from collections.abc import Iterable

from .blocks import ROOT

TEXT = (ROOT / "docs" / "guarantees.md").read_text()
PROOF = re.compile(r"`(tests/\S+?\.py)(?:::(test_\w+))?`")
LEFT_OUT = {"long", "skip", "skipif", "xfail"}
"""Marks that `make test` leaves out, or takes no failure of."""


def test_every_proof_exists_and_is_run() -> None:
    proofs = PROOF.findall(TEXT)
    assert len(proofs) > 60, "the pattern has stopped finding them"
    for file, name in proofs:
        path = ROOT / file
        assert path.is_file(), file
        tree = ast.parse(path.read_text())
        tests = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        if name:
            assert name in tests, f"{file} has no {name}"
        marks = marks_in(node for node in tree.body if isinstance(node, ast.Assign) and "pytestmark" in names_in(node))
        marks |= marks_in(tests[name].decorator_list) if name else set()
        assert not marks & LEFT_OUT, f"{file}::{name} is not run by `make test`: {marks & LEFT_OUT}"


def names_in(node: ast.AST) -> set[str]:
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}


def marks_in(nodes: Iterable[ast.AST]) -> set[str]:
    """`long` of `pytest.mark.long`, wherever it stands in these."""
    return {
        one.attr
        for node in nodes
        for one in ast.walk(node)
        if isinstance(one, ast.Attribute) and isinstance(one.value, ast.Attribute) and one.value.attr == "mark"
    }


def test_marks_are_seen() -> None:
    marked = ast.parse("@pytest.mark.skipif(True, reason='')\n@pytest.mark.unfit('lease')\ndef test_x(): ...").body[0]
    assert isinstance(marked, ast.FunctionDef)
    assert marks_in(marked.decorator_list) == {"skipif", "unfit"}
    assert marks_in(ast.parse("pytestmark = [pytest.mark.cluster, pytest.mark.long]").body) == {"cluster", "long"}


def test_every_promise_names_what_is_there() -> None:
    """The table of P1 to P10 names files, folders and patterns."""
    promises = [line for line in TEXT.splitlines() if re.match(r"\| P\d+ \|", line)]
    assert len(promises) == 10
    for line in promises:
        proofs = re.findall(r"`([^`\s]+)`", line.split("|")[3])
        assert proofs, line
        for proof in proofs:
            assert list(ROOT.glob(proof.rstrip("/"))), f"there is no {proof}"


def test_every_row_of_the_table_has_a_proof() -> None:
    table = TEXT.partition("## The table")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert rows
    assert [row for row in rows if not PROOF.search(row.split("|")[3])] == []
