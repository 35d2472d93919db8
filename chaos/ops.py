"""Operations of clients as written down by themselves: when they began, when and how they ended.

One file per client process, a JSON object per line, so that what a killed client did is known up to the last line. An
operation that has no end is unknown. Times are Unix times of this machine, which all processes share.
"""

import itertools
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OK, UNKNOWN, FAILED = "ok", "unknown", "failed"
"""Acknowledged; nobody can say; certainly not applied."""


@dataclass(slots=True)
class Op:
    """One operation of one client."""

    kind: str
    type: str
    key: str
    uid: str
    via: str
    """`client` or `http:PORT`, of the attempt that ended it."""
    began: float
    ended: float = 0.0
    came: str = UNKNOWN
    attempts: list[tuple[float, float, str, str]] = field(default_factory=list[tuple[float, float, str, str]])
    """Began, ended, how, via."""
    code: str = ""
    extra: dict[str, Any] = field(default_factory=dict[str, Any])


class OpLog:
    """A client's own file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1, encoding="utf-8")
        self._numbers = itertools.count()

    def began(self, kind: str, type_name: str, key: str, uid: str, **extra: Any) -> int:
        """Write down the beginning; returns its number."""
        number = next(self._numbers)
        line = {"n": number, "kind": kind, "type": type_name, "key": key, "uid": uid, "at": time.time()}
        self._write(line | ({"extra": extra} if extra else {}))
        return number

    def tried(self, number: int, via: str, since: float, came: str, code: str = "") -> None:
        """Write down the end of one attempt."""
        self._write({"n": number, "via": via, "since": since, "at": time.time(), "came": came, "code": code})

    def close(self) -> None:
        """Write nothing more."""
        self._file.close()

    def violation(self, text: str) -> None:
        """Something that must not be."""
        self._write({"violation": text})

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")


def read_ops(paths: Iterable[Path]) -> tuple[list[Op], list[str]]:
    """All operations, and what clients found wrong themselves."""
    ops: list[Op] = []
    violations: list[str] = []
    for path in paths:
        mine: dict[int, Op] = {}
        for line in _lines(path):
            if "violation" in line:
                violations.append(line["violation"])
            elif "kind" in line:
                extra = line.get("extra", {})
                mine[line["n"]] = Op(line["kind"], line["type"], line["key"], line["uid"], "", line["at"], extra=extra)
            else:
                _add(mine[line["n"]], line)
        ops += mine.values()
    return ops, violations


def _add(op: Op, line: dict[str, Any]) -> None:
    """An operation is ok if one attempt is, and failed only if all of them are."""
    op.attempts.append((line["since"], line["at"], line["came"], line["via"]))
    op.ended, op.via = line["at"], line["via"]
    came = {attempt[2] for attempt in op.attempts}
    op.came = OK if OK in came else UNKNOWN if UNKNOWN in came else FAILED
    op.code = op.code or line["code"]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):  # the last one of a killed process may be torn
                yield json.loads(line)
