"""What OpenAPI says about an operation."""

import inspect
from typing import Any

from pydantic import BaseModel, ConfigDict, create_model

from ..entities.calls import IDEMPOTENCY_KEY_MAX
from ..entities.descriptors import Method, Query
from ..entities.ids import KEY_BYTES_MAX
from ..entities.mailbox import Mailbox
from ..entities.operate import RunOperations, WaitingOperation
from .operations import Action, Operation
from .problems import PROBLEM
from .repair import BODIES, Applied, Restart, needs_body
from .requests import DELAY_MAX_S
from .schemas import arguments_type, has_schema, item_type, parameters, query_parameters, result_type


class Termination(BaseModel):
    """Why a run is terminated."""

    model_config = ConfigDict(extra="forbid")

    reason: str = ""


class Started(BaseModel):
    """The run is durable."""

    run_id: str


class Accepted(BaseModel):
    """The message is durable and will be applied."""

    accepted: bool
    idempotency_key: str


class StillRunning(BaseModel):
    """There is no result yet."""

    status: str
    waited_s: float


_CONTROLS = r"\x00-\x1f\x7f-\x9f"
KEY: dict[str, Any] = {
    "name": "key",
    "in": "path",
    "required": True,
    "description": "The entity's key, percent-encoded (`/` as `%2F`).",
    "schema": {
        "type": "string",
        "minLength": 1,
        "maxLength": KEY_BYTES_MAX,  # counted in characters here, in bytes of UTF-8 by the gateway
        "pattern": rf"^[^\S{_CONTROLS}]*[^\s{_CONTROLS}][^{_CONTROLS}]*$",
    },
}
IDEMPOTENCY: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "Repeats with this key get the first outcome. Taken literally.",
    "schema": {"type": "string", "minLength": 1, "maxLength": IDEMPOTENCY_KEY_MAX, "pattern": "^[!-~]([ -~]*[!-~])?$"},
}
_PREFER: dict[str, Any] = {
    "name": "Prefer",
    "in": "header",
    "description": "`wait=10`: how many seconds to wait for the answer (shortened to the gateway's limit).",
    "schema": {"type": "string"},
}
_PREFER_ASYNC: dict[str, Any] = _PREFER | {
    "description": "`respond-async`: 202 once the message is durable. `wait=10`: how many seconds to wait for the "
    "answer (shortened to the gateway's limit)."
}
_TIMEOUT: dict[str, Any] = {
    "name": "timeout",
    "in": "query",
    "description": "How many seconds to wait for the answer (brought between 0.25 and the gateway's limit).",
    "schema": {"type": "number", "minimum": 0},
}
_DELAY: dict[str, Any] = {
    "name": "delay",
    "in": "query",
    "description": "With `Prefer: respond-async`: deliver not before this many seconds from now.",
    "schema": {"type": "number", "minimum": 0, "maximum": DELAY_MAX_S},
}
_RESTART: dict[str, Any] = {
    "name": "restart",
    "in": "query",
    "description": "Start a new run if the last one has ended, whatever its input was.",
    "schema": {"type": "boolean"},
}
_VERSION = {
    "Perdure-Version": {
        "description": "The entity's version that the answer reflects.",
        "schema": {"type": "integer", "minimum": 0},
    }
}
_OPERATIONS: dict[str, Any] = {
    "type": "object",
    "required": list(RunOperations.__struct_fields__),
    "properties": {
        "operations": {
            "type": "array",
            "items": {"type": "object", "required": list(WaitingOperation.__struct_fields__)},
        }
    },
}
_SUMMARIES = {
    Action.START: "Start {}",
    Action.RESULT: "Result of {}",
    Action.CANCEL: "Cancel {}",
    Action.TERMINATE: "Terminate {}",
    Action.SIGNAL: "Send to {}",
    Action.OPERATIONS: "What {} waits for",
    Action.PAUSE: "Pause {}",
    Action.RESUME: "Resume {}",
    Action.RETRY: "Retry an operation of {} now",
    Action.COMPLETE: "Complete an operation of {}",
    Action.FAIL: "Fail an operation of {}",
    Action.RESTART: "Restart {}",
    Action.RERUN: "Run {} again",
}


def documented_body(operation: Operation) -> Any:
    """The type of the request body, None if there is none."""
    member, definition = operation.member, operation.definition
    if operation.method != "POST" or operation.action is Action.CANCEL:
        return None
    if operation.action is Action.TERMINATE:
        return Termination
    if operation.action is Action.RESTART:
        return _restart(operation)
    if operation.action.is_repair:
        return BODIES[operation.action]
    body: Any
    if isinstance(member, Mailbox):
        body = item_type(member)
    elif not parameters(member):
        return None
    else:
        body = arguments_type(member, f"{definition.name}{_camel(operation.name)}Arguments")
    return body if has_schema(body, is_result=False) else dict[str, Any]


def _restart(operation: Operation) -> Any:
    """`Restart` with the arguments of this workflow."""
    assert isinstance(operation.member, Method)
    name = f"{operation.definition.name}{_camel(operation.name)}"
    arguments = arguments_type(operation.member, f"{name}Arguments")
    if not has_schema(arguments, is_result=False):
        return Restart
    field: Any = (arguments | None, None)
    return create_model(f"{name}Restart", __base__=Restart, arguments=field)


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def documentation(operation: Operation) -> dict[str, Any]:
    """Keyword arguments of `add_api_route`."""
    summary = _SUMMARIES.get(operation.action, "{}").format(operation.name.replace("_", " "))
    extra: dict[str, Any] = {"parameters": _parameters(operation)}
    if documented_body(operation) is not None:
        extra["requestBody"] = {"required": _needs_body(operation)}
    return {
        "summary": summary[:1].upper() + summary[1:],
        "description": inspect.getdoc(operation.member) if operation.member.__doc__ else None,
        "name": f"{operation.definition.name}.{operation.path.replace('/', '.')}",
        "openapi_extra": extra,
        **_responses(operation),
    }


def _needs_body(operation: Operation) -> bool:
    if operation.action is Action.TERMINATE:
        return False
    if operation.action.is_repair:
        return needs_body(operation.action)
    return isinstance(operation.member, Mailbox) or not operation.member.signature.takes_nothing


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    found = [KEY]
    match operation.action:
        case Action.CALL:
            found += [IDEMPOTENCY, _PREFER_ASYNC, _TIMEOUT, _DELAY]
        case Action.QUERY:
            names: set[str] = set()
            if operation.method == "GET":
                assert isinstance(operation.member, Query)
                for name, schema, is_required in query_parameters(operation.member) or ():
                    found.append({"name": name, "in": "query", "required": is_required, "schema": schema})
                    names.add(name)
            found += [_PREFER] if "timeout" in names else [_PREFER, _TIMEOUT]
        case Action.START:
            found += [IDEMPOTENCY, _PREFER, _TIMEOUT, _RESTART]
        case Action.RESULT | Action.OPERATIONS:
            found += [_PREFER, _TIMEOUT]
        case _:
            found += [IDEMPOTENCY, _PREFER, _TIMEOUT]
    return found


def _responses(operation: Operation) -> dict[str, Any]:
    others: dict[int | str, dict[str, Any]] = {"default": PROBLEM}
    if operation.action in (Action.CALL, Action.QUERY, Action.RESULT):
        assert not isinstance(operation.member, Mailbox)
        result = result_type(operation.member)
        if operation.action is Action.CALL:
            others[202] = {"model": Accepted, "description": "Accepted, after `Prefer: respond-async`"}
        if operation.action is Action.RESULT:
            others[202] = {"model": StillRunning, "description": "No result yet"}
        return {
            "response_model": result if result is not Any and has_schema(result, is_result=True) else None,
            "responses": {200: {"headers": _VERSION}, **others},
        }
    if operation.action is Action.OPERATIONS:
        described = {"description": "A run, and what it waits for", "headers": _VERSION}
        described["content"] = {"application/json": {"schema": _OPERATIONS}}
        return {"response_model": None, "responses": {200: described, **others}}
    if operation.action.is_repair and operation.action not in (Action.RESTART, Action.RERUN):
        return {"response_model": Applied, "responses": {200: {"headers": _VERSION}, **others}}
    model = Accepted if operation.action in (Action.CANCEL, Action.TERMINATE, Action.SIGNAL) else Started
    return {"response_model": model, "status_code": 202, "responses": {202: {"headers": _VERSION}, **others}}
