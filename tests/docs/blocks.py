"""The blocks of the documentation, as code."""

import ast
import re
import textwrap
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
_BLOCK = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```$", flags=re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """What stands between two fences."""

    language: str
    text: str


def blocks(page: str | Path, language: str | None = None) -> list[Block]:
    """Every block of a page (in one language), in their order."""
    found = [Block(one[1], textwrap.dedent(one[2])) for one in _BLOCK.finditer((ROOT / page).read_text())]
    return [block for block in found if language in (None, block.language)]


def block(page: str, part: str) -> str:
    """The text of the one block of a page that holds `part`."""
    [found] = [text for _, text in blocks(page) if part in text]
    return found


def python_blocks(page: Path) -> list[str]:
    """The text of every ```python block of a page."""
    return [text for _, text in blocks(page, "python")]


def split_awaits(block: str) -> tuple[str, str]:
    """(definitions, statements that await at top level): the second part runs inside a function."""
    lines = block.splitlines(keepends=True)
    tree = ast.parse(textwrap.dedent(block))
    awaiting = [node for node in tree.body if _awaits(node)]
    first = awaiting[0].lineno - 1 if awaiting else len(lines)
    return "".join(lines[:first]), "".join(lines[first:])


def defined(text: str, **names: Any) -> dict[str, Any]:
    """What the definitions of a block define, where `names` are there already."""
    space: dict[str, Any] = {"__name__": "shown", **names}
    exec(split_awaits(text)[0], space)
    return space


async def walked(text: str, space: dict[str, Any]) -> AsyncGenerator[str]:
    """Run a block: its definitions, then the rest one by one, of which each is yielded as code before it runs."""
    definitions, rest = split_awaits(text)
    exec(definitions, space)
    for node in ast.parse(rest).body:
        yield ast.unparse(node)
        code = compile(ast.Module([node], []), "block", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        pending = eval(code, space)
        if pending is not None:
            await pending


async def run(text: str, space: dict[str, Any]) -> None:
    """Run a block."""
    async for _ in walked(text, space):
        pass


def member(text: str) -> str:
    """A definition, indented to be one of a class."""
    return textwrap.indent(text, "    ")


def _awaits(node: ast.stmt) -> bool:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return False
    return any(isinstance(inner, ast.Await | ast.AsyncWith | ast.AsyncFor) for inner in ast.walk(node))
