"""Every test that docs/guarantees.md names as a proof is there, and so is every file."""

import re

from .blocks import ROOT

TEXT = (ROOT / "docs" / "guarantees.md").read_text()


def test_every_proof_exists() -> None:
    proofs = re.findall(r"`(tests/\S+?\.py)(?:::(test_\w+))?`", TEXT)
    assert len(proofs) > 60, "the pattern has stopped finding them"
    for file, name in proofs:
        assert (ROOT / file).is_file(), file
        if name:
            assert re.search(rf"def {name}\(", (ROOT / file).read_text()), f"{file} has no {name}"


def test_every_row_of_the_table_has_a_proof() -> None:
    table = TEXT.partition("## The table")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert rows
    assert [row for row in rows if "`tests/" not in row.split("|")[3]] == []
