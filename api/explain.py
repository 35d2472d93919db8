"""Every error code with its meaning, what the system does next and what you can do: one source for three readers.

`errors_markdown` is docs/errors.md (written by `make errors`; a test compares). `error_page` and `errors_html` are what
the gateway answers at `/docs/errors`, where `type` of every problem leads: `#code` is the place on that page. Meanings
come from the error classes, statuses from `problems`, exit codes from `exits`, what to do from `advice` and
`advice_edges`.
"""

import functools
import html
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from ..entities.engine.children import TooManyChildren
from ..entities.engine.effects import OutboxLimit
from ..entities.errors import ERRORS, PerdureError
from .advice import ENTITY_SECTIONS, Section
from .advice_edges import (
    CLI,
    CLI_THEN,
    CLI_TITLE,
    GATEWAY,
    GATEWAY_THEN,
    GATEWAY_TITLE,
    START,
    START_THEN,
    START_TITLE,
)
from .exits import exit_of
from .problems import OWN_CODES, row_of

RAISED_DEEP = (OutboxLimit, TooManyChildren)
"""Imported for their names in ERRORS, which no other import of this package brings there."""
_INTRODUCTION = """\
# Errors

<!-- Made of the code by `make errors`: change api/advice.py, not this page. -->

Every error has a `code` that stays. In Python it is the class's (all are in [`perdure.entities`](reference/errors.md)
or named here), over HTTP it is `code` in the problem, whose `type` leads to this list on the gateway itself
(`/docs/errors#code`: a page for people, JSON for programs), on the command line it is in the brackets of
`error[code]: …`. The message says what happened and to which `type/key`. Codes are sorted by what they call for;
the exit code is that of [`perdure`](cli.md).
"""


class Explained(NamedTuple):
    """One code. Texts are inline Markdown, with links relative to docs/."""

    code: str
    meaning: str
    then: str
    do: str
    error_class: str = ""
    status: int = 0
    """0: none, or any."""
    exit_code: int | None = None


class Chapter(NamedTuple):
    """Codes that call for the same kind of action."""

    title: str
    codes: tuple[Explained, ...]


@functools.cache
def chapters() -> tuple[Chapter, ...]:
    """All codes in the order of the documentation."""
    gateway = (
        Explained(code, OWN_CODES[code], GATEWAY_THEN, one.do, "", one.status, one.status and exit_of(code, one.status))
        for code, one in GATEWAY.items()
    )
    start = (
        Explained(code, _meaning(ERRORS[code]), START_THEN, do, ERRORS[code].__name__, 0, exit_code)
        for code, (exit_code, do) in START.items()
    )
    cli = (Explained(code, one.meaning, CLI_THEN, one.do, exit_code=one.exit_code) for code, one in CLI.items())
    return (
        *(Chapter(section.title, tuple(_classes(section))) for section in ENTITY_SECTIONS),
        Chapter(START_TITLE, tuple(start)),
        Chapter(GATEWAY_TITLE, tuple(gateway)),
        Chapter(CLI_TITLE, tuple(cli)),
    )


def _classes(section: Section) -> Iterator[Explained]:
    for code, advice in section.codes.items():
        error = PerdureError if code == PerdureError.code else ERRORS[code]  # the base is not in ERRORS
        status = row_of(error("")).status
        yield Explained(
            code,
            advice.meaning or _meaning(error),
            advice.then or section.then,
            advice.do,
            error.__name__,
            status,
            exit_of(code, status),
        )


def _meaning(error: type[PerdureError]) -> str:
    return " ".join((error.__doc__ or "").split())


def error_page() -> dict[str, dict[str, Any]]:
    """Every code for programs, sorted."""
    return {
        one.code: {
            name: value
            for name, value in {
                "class": one.error_class,
                "status": one.status,
                "exit_code": one.exit_code,
                "meaning": _plain(one.meaning),
                "next": _plain(one.then),
                "do": _plain(one.do),
            }.items()
            if value
        }
        for one in sorted((one for chapter in chapters() for one in chapter.codes), key=lambda one: one.code)
    }


def errors_markdown() -> str:
    """The page of the documentation."""
    parts = [_INTRODUCTION]
    for chapter in chapters():
        parts.append(f"## {chapter.title}\n")
        parts += [
            f"### `{one.code}`\n\n{_facts(one)}\n\n{one.meaning}\n\n*Next:* {one.then}\n\n*You can:* {one.do}\n"
            for one in chapter.codes
        ]
    return "\n".join(parts)


@functools.cache
def errors_html() -> str:
    """The gateway's own page: no script, nothing loaded from elsewhere."""
    parts: list[str] = []
    for chapter in chapters():
        parts.append(f"<h2>{html.escape(chapter.title)}</h2>")
        parts += [
            f'<section id="{one.code}"><h3><a href="#{one.code}">{one.code}</a></h3><p>{_to_html(_facts(one))}</p>'
            f"<p>{_to_html(one.meaning)}</p><p><em>Next:</em> {_to_html(one.then)}</p>"
            f"<p><em>You can:</em> {_to_html(one.do)}</p></section>"
            for one in chapter.codes
        ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Errors · Perdure</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><style>'
        ":root{color-scheme:light dark}"
        "body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem}"
        "section{padding:.2rem 1rem;scroll-margin-top:1rem}section:target{outline:2px solid;border-radius:4px}"
        "p{margin:.3rem 0}h3{font-family:ui-monospace,monospace;margin:.6rem 0 .2rem}"
        "</style></head><body><main><h1>Errors</h1>" + "".join(parts) + "</main></body></html>"
    )


def _facts(one: Explained) -> str:
    facts = [f"`{one.error_class}`"] if one.error_class else []
    facts += [f"HTTP {one.status}"] if one.status else []
    facts += [f"exit code {int(one.exit_code)}"] if one.exit_code else []
    return " · ".join(facts) or "any status"


def _plain(text: str) -> str:
    return re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", text)


def _to_html(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(_plain(text)))
