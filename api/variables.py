"""Mistakes in the environment and in a `.env` file that nothing else would notice: they are told, nothing is refused.

A variable that is mistyped is as if it had not been set; who has set an API key in vain would like to know.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

_ASSIGNMENT = re.compile(r"\s*(?:export\s+)?([^=\s#][^=\s]*)\s*=")
_BLANK = re.compile(r"\s*(?:#.*)?")


def environment_warnings(names: Iterable[str], known: frozenset[str], prefix: str) -> list[str]:
    """About variables that nearly are ours. `known`: all that are, in capitals."""
    return [told for name in sorted(names) if (told := _misnamed(name, known, prefix))]


def file_warnings(path: Path, known: frozenset[str], prefix: str) -> list[str]:
    """About the lines of a `.env` file: misnamed, given twice, or no assignment at all. A missing file is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeError) as error:
        return [f"{path} cannot be read: {error}"]
    told: list[str] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        place = f"{path.name} line {number}"
        found = _ASSIGNMENT.match(line)
        if found is None:
            if not _BLANK.fullmatch(line):
                told.append(f"{place} is no NAME=value")
            continue
        name = found[1].upper()
        if name in known:
            if name in seen:
                told.append(f"{place}: {found[1]} was set in line {seen[name]} already; the last one counts")
            seen[name] = number
        elif misnamed := _misnamed(found[1], known, prefix):
            told.append(f"{place}: {misnamed}")
    return told


def line_of(path: Path, name: str) -> int:
    """The last line of a `.env` file that sets this variable; 0 if none does."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError):
        return 0
    found = [n for n, line in enumerate(lines, 1) if (m := _ASSIGNMENT.match(line)) and m[1].upper() == name]
    return found[-1] if found else 0


def origin(name: str, environment: Mapping[str, str], path: Path) -> str:
    """Where a setting's value comes from, for messages: empty for the environment."""
    if any(given.upper() == name for given in environment):
        return ""
    line = line_of(path, name)
    return f" ({path.name} line {line})" if line else ""


def _misnamed(name: str, known: frozenset[str], prefix: str) -> str:
    upper = name.upper()
    if upper in known or upper.startswith(prefix + "_"):
        return ""
    if upper.startswith(prefix):
        close = difflib.get_close_matches(upper, known, n=1)
        return f"{name} means nothing to Perdure" + (f"; did you mean {close[0]}?" if close else "")
    # The prefix itself is mistyped: only where the rest is a setting of ours, other programs have variables too.
    head, line, rest = upper.partition("_")
    is_close = difflib.SequenceMatcher(None, head + line, prefix).ratio() > 0.8
    return (
        f"{name} means nothing to Perdure; did you mean {prefix + rest}?" if is_close and prefix + rest in known else ""
    )
