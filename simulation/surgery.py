"""Planting bugs in code that runs: a few words of a function are replaced by others, and put back afterwards.

The real code is patched, in place: whoever holds the function (a subclass, a bound method, a task that begins later)
runs the changed one. Words that are not found exactly once raise `Stale`: the code has moved on, and the bug has to be
thought through anew.
"""

import __future__

import inspect
import textwrap
from collections.abc import Callable
from types import FunctionType, TracebackType
from typing import Any, Self

from perdure.cluster.postgres.statements import ArrayStatement

_ABSENT = object()


class Stale(Exception):
    """The code to be changed does not read as it did."""


class Surgery:
    """Changes that end with the `with` block, last one first."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []
        self._sources: dict[FunctionType, str] = {}
        """Of functions that have been changed already, as they read now."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._undo:
            self._undo.pop()()

    def put(self, owner: Any, name: str, value: Any) -> None:
        """Another attribute of a class or module."""
        before = vars(owner).get(name, _ABSENT)

        def undo() -> None:
            if before is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, before)

        self._undo.append(undo)
        setattr(owner, name, value)

    def rewrite(self, function: Any, before: str, after: str, **names: Any) -> None:
        """Other words in the source of a function; `names` are globals that they may use. Raises Stale."""
        assert isinstance(function, FunctionType)
        source = self._sources.get(function) or textwrap.dedent(inspect.getsource(function))
        self._sources[function] = source = replaced(source, before, after, function.__qualname__)
        for name, value in names.items():
            function.__globals__[name] = value
            self._undo.append(lambda name=name: function.__globals__.pop(name, None))  # type: ignore[misc]
        code = function.__code__
        changed = _compiled(function, source)
        self._undo.append(lambda: setattr(function, "__code__", code))
        function.__code__ = changed

    def template(self, statement: ArrayStatement, before: str, after: str) -> None:
        """Other words in one statement of the group commit. Raises Stale."""
        template = statement.template

        def set_to(text: str) -> None:
            object.__setattr__(statement, "template", text)
            ArrayStatement.sql.cache_clear()

        self._undo.append(lambda: set_to(template))
        set_to(replaced(template, before, after, "statement"))

    def text(self, module: Any, name: str, before: str, after: str) -> None:
        """Other words in a constant of a module. Raises Stale."""
        self.put(module, name, replaced(vars(module)[name], before, after, name))


def replaced(text: str, before: str, after: str, where: str) -> str:
    """Raises Stale if `before` is not there exactly once."""
    if text.count(before) != 1:
        raise Stale(f"{where} has {before!r} {text.count(before)} times")
    return text.replace(before, after)


def _compiled(function: FunctionType, source: str) -> Any:
    """The code of a changed function, with the cells of the original in the same order."""
    free = function.__code__.co_freevars
    lines = source.splitlines()
    while lines[0].startswith("@"):
        del lines[0]
    body = textwrap.indent("\n".join(lines), "    ")
    text = f"def make({', '.join(free)}):\n{body}\n    return {function.__name__}\n"
    flags = __future__.annotations.compiler_flag
    made: dict[str, Any] = {}
    exec(compile(text, function.__code__.co_filename, "exec", flags=flags), function.__globals__.copy(), made)
    code = made["make"](*(None for _ in free)).__code__
    if code.co_freevars != free:
        raise Stale(f"{function.__qualname__} would close over {code.co_freevars} instead of {free}")
    return code
