"""What the verbs print: a table for people, JSON or YAML for programs."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

import typer
import yaml
from rich.console import Console
from rich.table import Table

WIDE = 10_000
"""Columns where nobody looks: what goes into a pipe is not cut."""


class Format(StrEnum):
    """How to print."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def show(
    value: Any, form: Format, *, columns: Sequence[str] = (), rows: Iterable[Mapping[str, Any]] | None = None
) -> None:
    """Print `value` whole (JSON, YAML), or `rows` of it with these columns as a table; without rows as YAML."""
    if form is Format.JSON:
        typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
    elif form is Format.YAML or rows is None:
        typer.echo(_yaml(value), nl=False)
    else:
        _table(columns, rows)


def _yaml(value: Any) -> str:
    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, default_flow_style=False, width=WIDE)
    return text.removesuffix("...\n")


def _table(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for column in columns:
        table.add_column(column.upper().replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(cell(row.get(column)) for column in columns))
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else WIDE, highlight=False, markup=False)
    console.print(table)


def cell(value: Any) -> str:
    """One value in a table: text as it is, everything else as JSON, in one line."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(", ", ": "))
    return "".join(char if char.isprintable() else " " for char in text)
