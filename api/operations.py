"""What a caller can do to an entity over HTTP: one operation per route, derived from the class.

`pick_up` (handler)   POST /{key}/pick_up
`state` (query)       GET /{key}/state?… (if its arguments fit into a query string), POST /{key}/state
`run` (workflow)      POST /{key}/run/start, GET /{key}/run/result, POST /{key}/run/cancel, POST /{key}/run/terminate,
                      and those of repair.py
`decision` (mailbox)  POST /{key}/decision
"""

import difflib
from collections.abc import Collection, Iterator
from enum import StrEnum
from typing import Any

from ..entities.definition import BUILT_IN, EntityDefinition, Registry
from ..entities.descriptors import Method
from ..entities.errors import DefinitionError, UnknownHandler, UnknownType
from ..entities.mailbox import Mailbox
from ..entities.messages import Kind
from .principal import Right
from .problems import Refused
from .schemas import query_parameters


class Action(StrEnum):
    """What happens."""

    CALL = "call"
    QUERY = "query"
    START = "start"
    RESULT = "result"
    CANCEL = "cancel"
    TERMINATE = "terminate"
    SIGNAL = "signal"
    OPERATIONS = "operations"
    PAUSE = "pause"
    RESUME = "resume"
    RETRY = "retry"
    COMPLETE = "complete"
    FAIL = "fail"
    RESTART = "restart"
    RERUN = "rerun"

    @property
    def is_repair(self) -> bool:
        """Whether a person does it to a run (see repair.py)."""
        return self in _REPAIRS

    @property
    def right(self) -> Right:
        """What a caller needs. `operations` shows the tokens of activities, so it is for operators."""
        if self in (Action.QUERY, Action.RESULT):
            return Right.READ
        return Right.CALL if self in (Action.CALL, Action.SIGNAL, Action.START) else Right.OPERATE

    @property
    def kind(self) -> Kind:
        """The message that does it."""
        return Kind.OPERATE if self in _REPAIRS else Kind(self.value)


_REPAIRS = frozenset(
    (Action.PAUSE, Action.RESUME, Action.RETRY, Action.COMPLETE, Action.FAIL, Action.RESTART, Action.RERUN)
)


WORKFLOW_ACTIONS = {
    "start": ("POST", Action.START),
    "result": ("GET", Action.RESULT),
    "cancel": ("POST", Action.CANCEL),
    "terminate": ("POST", Action.TERMINATE),
    "operations": ("GET", Action.OPERATIONS),
    **{action.value: ("POST", action) for action in Action if action.is_repair},
}


class Operation:
    """One thing to do with one member of an entity class: `method` is HTTP's, `name` the member's."""

    __slots__ = ("action", "definition", "member", "method", "name")

    def __init__(
        self,
        definition: EntityDefinition,
        member: Method[Any, Any] | Mailbox[Any],
        *,
        name: str,
        action: Action,
        method: str,
    ) -> None:
        self.definition = definition
        self.member = member
        self.name = name
        self.action = action
        self.method = method

    @property
    def right(self) -> Right:
        """What a caller needs. Perdure's own entities send to whomever they are told to: that is for administrators."""
        right = self.action.right
        return Right.ADMIN if right is not Right.READ and self.definition.cls in BUILT_IN else right

    @property
    def path(self) -> str:
        """Below the entity: `pick_up`, `run/start`."""
        return f"{self.name}/{self.action}" if self.action.value in WORKFLOW_ACTIONS else self.name


class Operations:
    """The operations of one entity class, by path and HTTP method. Private members are as if they were not there."""

    def __init__(self, definition: EntityDefinition, only: Collection[str] | None = None) -> None:
        """`only`: the members to be served; none: all that are public. Raises DefinitionError for a wrong name."""
        self.definition = definition
        self._only = only
        self._by_path: dict[str, dict[str, Operation]] = {}
        for name in only or ():
            if definition.method(name).is_private:
                raise DefinitionError(f"{definition.name}.{name} is private; routes cannot serve it")
        for name in definition.handlers:
            self._add(name, Action.CALL, "POST", definition.handlers[name])
        for name in definition.queries:
            if query_parameters(definition.queries[name]) is not None:
                self._add(name, Action.QUERY, "GET", definition.queries[name])
            self._add(name, Action.QUERY, "POST", definition.queries[name])
        for name in definition.workflows:
            for method, action in WORKFLOW_ACTIONS.values():
                self._add(name, action, method, definition.workflows[name])
        for name in definition.mailboxes:
            self._add(name, Action.SIGNAL, "POST", definition.mailboxes[name])

    def _add(self, name: str, action: Action, method: str, member: Method[Any, Any] | Mailbox[Any]) -> None:
        if member.is_private or (self._only is not None and name not in self._only):
            return
        operation = Operation(self.definition, member, name=name, action=action, method=method)
        self._by_path.setdefault(operation.path, {})[method] = operation

    def __iter__(self) -> Iterator[Operation]:
        for methods in self._by_path.values():
            yield from methods.values()

    @property
    def names(self) -> frozenset[str]:
        """Of the members that are served."""
        return frozenset(operation.name for operation in self)

    def right_for(self, path: str, method: str) -> Right:
        """What a caller needs for an operation, or to learn that there is none."""
        operation = self._by_path.get(path, {}).get(method)
        return right_for(path, method) if operation is None else operation.right

    def has(self, path: str, method: str) -> bool:
        """Whether there is one."""
        return method in self._by_path.get(path, ())

    def find(self, path: str, method: str) -> Operation:
        """Raises UnknownHandler with close matches, or Refused (405) with the methods that there are."""
        methods = self._by_path.get(path)
        if methods is None:
            raise self._unknown(path)
        operation = methods.get(method)
        if operation is None:
            allowed = ", ".join(sorted(methods))
            raise Refused(
                405,
                "method_not_allowed",
                f"{self.definition.name}.{path.replace('/', '.')} takes {allowed}, not {method}",
                headers={"Allow": allowed},
            )
        return operation

    def _unknown(self, path: str) -> UnknownHandler:
        name = path.partition("/")[0]
        names = list(dict.fromkeys(operation.name for operation in self))
        if name in self.definition.workflows and name in names:
            actions = ", ".join(f"{verb} …/{name}/{action}" for action, (verb, _) in WORKFLOW_ACTIONS.items())
            return UnknownHandler(f"{self.definition.name}.{name} is a workflow: {actions}")
        message = f"{self.definition.name} has no handler {name[:80]!r}; it has {', '.join(sorted(names)) or 'none'}"
        close = difflib.get_close_matches(name, names, n=3)
        return UnknownHandler(message, suggestions=close) if close else UnknownHandler(message)


def right_for(path: str, method: str) -> Right:
    """What a caller needs to learn that there is no such operation."""
    action = WORKFLOW_ACTIONS.get(path.partition("/")[2])
    if action is not None:
        return action[1].right
    return Right.READ if method == "GET" else Right.CALL


def find_type(registry: Registry, name: str) -> EntityDefinition:
    """Raises UnknownType with close matches."""
    definition = registry.find(name)
    if definition is not None:
        return definition
    close = difflib.get_close_matches(name, [known.name for known in registry], n=3)
    try:
        return registry.get(name)
    except UnknownType as error:
        raise (UnknownType(error.message, suggestions=close) if close else error) from None
