"""Every error code has its section in docs/errors.md, and the section says what the code does."""

import ast
from collections.abc import Iterator

import pytest

from perdure.api.advice_edges import CLI, GATEWAY, START
from perdure.api.explain import chapters, error_page, errors_html, errors_markdown
from perdure.api.failures import failure_of
from perdure.api.problems import OWN_CODES, TABLE
from perdure.cluster.embedded import PostgresUnavailable
from perdure.entities.errors import ERRORS, PerdureError

from .blocks import ROOT

TEXT = (ROOT / "docs" / "errors.md").read_text()
OURS = {code for code, error in ERRORS.items() if error.__module__.startswith("perdure.")}
SOURCES = sorted((ROOT / "api").rglob("*.py"))


def literals(called: str, code_at: int, beside: int) -> Iterator[tuple[str, str]]:
    """(code, source of the argument beside it) of every call with a literal code."""
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == called:
                code = node.args[code_at] if len(node.args) > 2 else None
                if isinstance(code, ast.Constant) and isinstance(code.value, str):
                    yield code.value, ast.unparse(node.args[beside])


def test_the_page_is_that_of_the_code() -> None:
    assert errors_markdown() == TEXT, "run `make errors`"


def test_every_code_has_one_section() -> None:
    codes = [one.code for chapter in chapters() for one in chapter.codes]
    assert len(codes) == len(set(codes))
    assert set(codes) >= OURS | {error.code for error in TABLE} | set(OWN_CODES) | {PerdureError.code}
    assert set(codes) <= OURS | {error.code for error in TABLE} | set(OWN_CODES) | set(CLI), "a code that is none"
    assert [code for code in codes if TEXT.count(f"\n### `{code}`\n") != 1] == []
    assert set(error_page()) == set(codes)


def test_every_section_says_meaning_next_and_what_to_do() -> None:
    for chapter in chapters():
        for one in chapter.codes:
            assert one.meaning.endswith("."), one
            assert one.then.endswith("."), one
            assert one.do.endswith("."), one


def test_the_gateway_gives_the_statuses_that_are_documented() -> None:
    given = set(literals("Refused", 1, 0))
    assert len(given) > 15, "the pattern has stopped finding them"
    documented = {code: one.status for code, one in GATEWAY.items()} | {e.code: row.status for e, row in TABLE.items()}
    assert [(code, status) for code, status in given if documented.get(code) != int(status)] == []


def test_the_command_line_gives_the_exit_codes_that_are_documented() -> None:
    given = set(literals("Failure", 0, 2))
    assert len(given) > 20, "the pattern has stopped finding them"
    assert [(c, e) for c, e in given if c not in CLI or e != f"Exit.{CLI[c].exit_code.name}"] == []
    embedded = {failure_of(error("x")) for error in PostgresUnavailable.__subclasses__()}
    told = {(failure.code, failure.exit_code) for failure in embedded} | {
        ("unexpected", failure_of(OSError()).exit_code)
    }
    assert [(code, exit_code) for code, exit_code in told if CLI[code].exit_code != exit_code] == []
    assert set(CLI) == {code for code, _ in given} | {code for code, _ in told}, "a code that nobody gives"


@pytest.mark.parametrize("code", sorted(START))
def test_what_a_start_ends_with(code: str) -> None:
    assert failure_of(ERRORS[code]("x")).exit_code == START[code][0]


def test_texts_on_the_gateways_page_are_text() -> None:
    assert "](" not in errors_html()
    assert "<script" not in errors_html()
