"""The Python blocks of the documentation, as code."""

import ast
import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])


def python_blocks(page: Path) -> list[str]:
    """The text of every ```python block of a page."""
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def split_awaits(block: str) -> tuple[str, str]:
    """(definitions, statements that await at top level): the second part runs inside a function."""
    lines = block.splitlines(keepends=True)
    tree = ast.parse(textwrap.dedent(block))
    awaiting = [node for node in tree.body if _awaits(node)]
    first = awaiting[0].lineno - 1 if awaiting else len(lines)
    return "".join(lines[:first]), "".join(lines[first:])


def _awaits(node: ast.stmt) -> bool:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return False
    return any(isinstance(inner, ast.Await | ast.AsyncWith | ast.AsyncFor) for inner in ast.walk(node))
