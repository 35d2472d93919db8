"""What OpenAPI says about the routes of operators: parameters and bodies that FastAPI cannot see, because they are read
by hand.
"""

from typing import Any

import msgspec

from ..entities.history import What
from ..entities.present import ROWS_MAX
from ..entities.search import FIND_LIMIT_MAX
from .openapi import IDEMPOTENCY, KEY
from .problems import PROBLEM

NUMBER_DIGITS_MAX = 18
"""Of a whole number in a query string."""
TYPE: dict[str, Any] = {
    "name": "type",
    "in": "path",
    "required": True,
    "description": "Name of a class of entities.",
    "schema": {"type": "string", "minLength": 1},
}
TOKEN: dict[str, Any] = {
    "name": "token",
    "in": "path",
    "required": True,
    "description": "What `activity_info().token` was for the attempt.",
    "schema": {"type": "string", "minLength": 1},
}


def asked(name: str, kind: str, description: str, *, is_required: bool = False, **schema: Any) -> dict[str, Any]:
    """A parameter of the query string."""
    return {
        "name": name,
        "in": "query",
        "required": is_required,
        "description": description,
        "schema": {"type": kind, **schema},
    }


def whole(name: str, description: str, *, is_required: bool = False) -> dict[str, Any]:
    """A parameter that is a whole number, 0 or more."""
    return asked(name, "integer", description, is_required=is_required, minimum=0, maximum=10**NUMBER_DIGITS_MAX - 1)


LIMIT = asked("limit", "integer", "How many at most.", minimum=1, maximum=FIND_LIMIT_MAX)
AFTER = asked("after", "string", "`next` of the page before.")


def described(parameters: list[dict[str, Any]], body: type[msgspec.Struct] | None = None) -> dict[str, Any]:
    """Keyword arguments of `add_api_route`."""
    extra: dict[str, Any] = {"parameters": parameters}
    if body is not None:
        _, components = msgspec.json.schema_components([body])
        schema = components[body.__name__]
        extra["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return {"openapi_extra": extra, "responses": {"default": PROBLEM}}


def streaming(parameters: list[dict[str, Any]]) -> dict[str, Any]:
    """The same, of a route whose answer is a stream of events."""
    told = described(parameters)
    content = {"text/event-stream": {"schema": {"type": "string"}}}
    told["responses"] = {200: {"description": "Events named `change`, without end.", "content": content}} | told[
        "responses"
    ]
    return told


ENTITY = [TYPE, KEY]
FIND = [
    TYPE,
    LIMIT,
    AFTER,
    {
        "name": "fields",
        "in": "query",
        "description": "Conditions: `field=value`, or `field__ne`, `__lt`, `__le`, `__gt`, `__ge`, `__in` (repeated).",
        "schema": {"type": "object", "additionalProperties": {"type": "string"}},
        "style": "form",
        "explode": True,
    },
]
HISTORY = [
    *ENTITY,
    whole("after", "Begin after this version (with `newest_first`: before it)."),
    LIMIT,
    asked("kind", "array", "Only events of these kinds.", items={"type": "string", "enum": list(What)}),
    asked("newest_first", "boolean", "Backwards."),
]
OUTBOX = [*ENTITY, whole("before", "Sent by versions before this one: `next` of the page before."), LIMIT]
EVENTS = [
    *ENTITY,
    {
        "name": "Last-Event-ID",
        "in": "header",
        "description": "Go on after this event: its id is the entity's version.",
        "schema": {"type": "string", "pattern": r"^[0-9]{1,18}$"},
    },
    whole("after", "The same, for the first request of a browser, which cannot set headers."),
]
NOW = [*ENTITY, asked("limit", "integer", "How many rows of each kind at most.", minimum=1, maximum=ROWS_MAX)]
STATE = [*ENTITY, whole("version", "Which one; none: the present one.")]
DIFF = [*ENTITY, whole("from", "Before.", is_required=True), whole("to", "After.", is_required=True)]
EDIT = [*ENTITY, IDEMPOTENCY]
LETTERS = [
    asked("type", "string", "Of entities of this class."),
    asked("key", "string", "Of this one of them."),
    asked("since", "string", "Given up at this time or later.", format="date-time"),
    LIMIT,
    AFTER,
]
