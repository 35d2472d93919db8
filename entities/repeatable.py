"""What workflow code must not do, found at the definition of its class: clocks and chance of its own, stale reads.

Upholds P7: a workflow is rebuilt by running its code again, so it must come to the same. Reads of the wall clock and
of chance cannot be seen at run time, nor on Python 3.11 can threads (they make no audit event; what does is refused by
`engine.guard`). So the byte code of a workflow, of functions nested in it and of the plain methods of its class that it
uses is searched for names that resolve to them: a DefinitionError with the place and the alternative.

What a workflow calls in other modules or in plain functions is not looked at. That is also the way out where a clock
is meant (a measurement, a log line): put it into a function outside the class.
"""

import ast
import builtins
import datetime as dt
import dis
import inspect
import logging
import os
import random
import secrets
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from .errors import DefinitionError

log = logging.getLogger("perdure.workflow")

_CALLABLE = (BuiltinFunctionType, FunctionType, MethodType, type)
_CLASSES = (dt.datetime, dt.date, random.SystemRandom)
_LOADS_LOCAL = ("LOAD_FAST", "LOAD_FAST_CHECK", "LOAD_FAST_AND_CLEAR", "LOAD_FAST_LOAD_FAST", "LOAD_FAST_BORROW")
_LOADS_CELL = ("LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF")
_LOADS_ATTRIBUTE = ("LOAD_ATTR", "LOAD_METHOD")
_KEEPS = ("CACHE", "PUSH_NULL", "NOP", "EXTENDED_ARG", "COPY_FREE_VARS")


def _forbidden() -> dict[Any, tuple[str, str]]:
    """Function → (how people call it, the alternative)."""
    clock = "`now()` of perdure.entities"
    chance = "`random()` of perdure.entities"
    found: dict[Any, tuple[str, str]] = {
        time.sleep: ("time.sleep", "`await asyncio.sleep(...)`, which is durable"),
        dt.datetime.now: ("datetime.now", clock),
        dt.datetime.utcnow: ("datetime.utcnow", clock),  # type: ignore[deprecated]  # pyright: ignore[reportDeprecated]
        dt.datetime.today: ("datetime.today", clock),
        dt.date.today: ("date.today", f"{clock}, `.date()`"),
        uuid.uuid1: ("uuid.uuid1", "`uuid4()` of perdure.entities"),
        uuid.uuid4: ("uuid.uuid4", "`uuid4()` of perdure.entities"),
        os.urandom: ("os.urandom", f"{chance}, or an @activity for secrets"),
    }
    for cls in (threading.Thread, threading.Timer, ThreadPoolExecutor, ProcessPoolExecutor):
        found[cls] = (cls.__name__, "an @activity: a `def` one runs in a thread")
    for name in ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time"):
        found[getattr(time, name)] = (f"time.{name}", clock)
    for name in random.__all__:
        if name not in ("Random", "SystemRandom"):
            found[getattr(random, name)] = (f"random.{name}", chance)
    for name in ("choice", "randbelow", "randbits", "token_bytes", "token_hex", "token_urlsafe"):
        found[getattr(secrets, name)] = (f"secrets.{name}", "an @activity that makes the secret")
    return found


_FORBIDDEN = _forbidden()
_SELF = object()
_NOTHING = object()


def check_repeatable(cls: type, name: str, fn: Callable[..., Any]) -> None:
    """Raise DefinitionError if the workflow `fn` of this class reads a clock or takes a chance that replay cannot."""
    seen: set[CodeType] = set()
    todo: list[Any] = [fn]
    while todo:
        function = todo.pop()
        if function.__code__ in seen:
            continue
        seen.add(function.__code__)
        code = function.__code__
        cells = {
            free: cell.cell_contents
            for free, cell in zip(code.co_freevars, function.__closure__ or (), strict=True)
            if _is_filled(cell)
        }
        for line, used in _uses(code, function.__globals__, cells, is_method=True):
            if isinstance(used, str):
                todo += _followed(cls, used)
                continue
            words, alternative = _FORBIDDEN[used]
            via = "" if function is fn else f" (through `{function.__name__}`)"
            raise DefinitionError(
                f"class {cls.__name__}: the workflow `{name}`{via} uses {words} at {code.co_filename}:{line}, which "
                f"differs each time the run is rebuilt; use {alternative} instead. Where it is meant and its value "
                "decides nothing (a measurement), put it into a function outside the class"
            )


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - looking is what tells
    except ValueError:
        return False
    return True


def _followed(cls: type, name: str) -> list[Any]:
    """The code behind `self.<name>`, if that is a plain method or property of the class."""
    member = inspect.getattr_static(cls, name, None)
    if isinstance(member, staticmethod | classmethod):
        member = member.__func__
    elif isinstance(member, property):
        member = member.fget
    is_ours = isinstance(member, FunctionType) and not member.__module__.startswith(("pydantic", "perdure."))
    return [member] if is_ours else []


def _uses(
    code: CodeType, names: Mapping[str, Any], cells: dict[str, Any], *, is_method: bool
) -> Iterator[tuple[int, Any]]:
    """(line, forbidden function) and (line, name of an attribute of self), in order of appearance."""
    own = dict(cells)
    if is_method and code.co_argcount and code.co_varnames[0] in ("self", "cls"):
        own[code.co_varnames[0]] = _SELF
    found: Any = _NOTHING
    module: Any = _NOTHING
    for instruction in dis.get_instructions(code):
        opname, name = instruction.opname, instruction.argval
        if opname in _KEEPS:
            continue
        if found is _SELF and opname in _LOADS_ATTRIBUTE:
            yield _line(instruction), name
        if opname == "STORE_FAST":
            own[name] = found  # an import in the function, or another name for something
        if opname == "IMPORT_NAME":
            module = sys.modules.get(name, _NOTHING)
        found = _meant(opname, name, found, module, names, own)
        if isinstance(found, _CALLABLE) and found in _FORBIDDEN:
            yield _line(instruction), found
            found = _NOTHING
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _uses(constant, names, own, is_method=False)


def _meant(opname: str, name: Any, found: Any, module: Any, names: Mapping[str, Any], own: dict[str, Any]) -> Any:  # noqa: PLR0917 - the state of the search
    """What is on the stack after this instruction, if it is something that a name means."""
    if opname in ("LOAD_GLOBAL", "LOAD_NAME"):
        return names.get(name, getattr(builtins, str(name), _NOTHING))
    if opname in _LOADS_LOCAL or opname in _LOADS_CELL:
        return own.get(name[-1] if isinstance(name, tuple) else name, _NOTHING)
    if opname in _LOADS_ATTRIBUTE:
        return _attribute(found, name)
    if opname == "IMPORT_NAME":
        return module
    return _attribute(module, name) if opname == "IMPORT_FROM" else _NOTHING


def _line(instruction: dis.Instruction) -> int:
    positions = instruction.positions
    return (positions.lineno or 0) if positions is not None else 0


def _attribute(found: Any, name: str) -> Any:
    """An attribute of a module or of one of the classes of interest, without running anybody's code."""
    if isinstance(found, ModuleType):
        return vars(found).get(name, _NOTHING)
    return getattr(found, name, _NOTHING) if isinstance(found, type) and found in _CLASSES else _NOTHING


# --- stale reads ------------------------------------------------------------------------------------------------------


def warn_of_stale_reads(cls: type, name: str, fn: Callable[..., Any], fields: Mapping[str, Any]) -> list[str]:
    """Log, and return, places where the state is read, then awaited, then changed: an update may be lost.

    `self.items.append(await f())` takes the list before it waits; if another turn runs meanwhile, the append goes to a
    list that is not the state's any more. `self.total += await f()` reads the total before it waits.
    """
    try:
        source, first = inspect.getsourcelines(fn)
        tree = ast.parse(textwrap.dedent("".join(source)))
    except (OSError, TypeError, SyntaxError):
        return []  # defined where there is no source: nothing to warn of
    warnings: list[str] = []
    for node in sorted(ast.walk(tree), key=lambda one: getattr(one, "lineno", 0)):
        match node:
            case ast.Call(func=ast.Attribute(value=target)) if _awaits([*node.args, *node.keywords]):
                advice = "assign what you await to a variable first"
            case ast.AugAssign(target=target, value=value) if _awaits([value]):
                advice = "assign what you await to a variable first, then add it"
            case _:
                continue
        field = _field(target)
        if field in fields:
            at = f"{fn.__code__.co_filename}:{first + node.lineno - 1}"
            text = (
                f"class {cls.__name__}: the workflow `{name}` reads `self.{field}` before an await in one expression "
                f"({at}); a change is lost if another turn runs during the await: {advice}"
            )
            warnings.append(text)
            log.warning("%s", text)
    return warnings


def _awaits(nodes: list[Any]) -> bool:
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Await):
            return True
        if not isinstance(node, ast.Lambda | ast.FunctionDef | ast.AsyncFunctionDef):
            nodes.extend(ast.iter_child_nodes(node))
    return False


def _field(node: ast.expr) -> str:
    """`x` of `self.x`, `self.x.y`, `self.x[...]`; else nothing."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
            return node.attr
        node = node.value
    return ""
