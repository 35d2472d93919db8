"""The code of each story's page is the code of its example, perhaps with lines left out: tests/stories runs it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from .blocks import ROOT, python_blocks

STORIES = sorted(page.stem for page in (ROOT / "docs/stories").glob("*.md") if python_blocks(page))
_PARTS = ("body", "handlers", "orelse", "finalbody")


def bodies(tree: ast.AST) -> Iterator[list[ast.stmt]]:
    """Every list of statements."""
    for node in ast.walk(tree):
        for part in _PARTS:
            if isinstance(inner := getattr(node, part, None), list):
                yield inner


def head(node: ast.AST) -> list[object]:
    """A statement without the statements in it."""
    fields = [(name, value) for name, value in ast.iter_fields(node) if name not in _PARTS]
    return [type(node).__name__, *((name, _dumped(value)) for name, value in fields)]


def _dumped(value: object) -> object:
    if isinstance(value, list):
        return [_dumped(one) for one in value]
    return ast.dump(value) if isinstance(value, ast.AST) else value


def is_shown(shown: list[ast.stmt], real: list[ast.stmt]) -> bool:
    """Each of the first is one of the second, in their order; so are the statements in it."""
    left = iter(real)
    return all(any(_is_same(one, other) for other in left) for one in shown)


def _is_same(one: ast.AST, other: ast.AST) -> bool:
    if head(one) != head(other):
        return False
    return all(is_shown(getattr(one, part, []), getattr(other, part, [])) for part in _PARTS)


def test_all_stories_are_found() -> None:
    assert len(STORIES) == 7


@pytest.mark.parametrize("story", STORIES)
def test_the_lines_of_a_story_are_those_of_its_example(story: str) -> None:
    folder: Path = ROOT / "examples" / story.replace("-", "_")
    real = [body for file in sorted(folder.glob("*.py")) for body in bodies(ast.parse(file.read_text()))]
    for text in python_blocks(ROOT / f"docs/stories/{story}.md"):
        shown = ast.parse(text).body
        assert any(is_shown(shown, body) for body in real), f"not the lines of {folder.name}:\n{text}"
