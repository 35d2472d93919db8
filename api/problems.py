"""Errors as RFC 9457 problems: one table says which error is which status.

Every body has `type` (a page that explains the code), `title`, `status`, `detail`, `instance`, `code` and
`request_id`; where they apply also `entity`, `version`, `retry_after`, `errors`, `limit`, `suggestions`. There is
never a stack, never SQL. The text of an unexpected exception of user code is shown only where the gateway was told to
(`show_errors`): it may hold what was never meant for callers; its class name is always shown.
"""

import http
import logging
import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from ..entities.decisions import DecisionOverdue
from ..entities.engine.loops import CallTooDeep, MessageLoop
from ..entities.errors import (
    ActivityFailed,
    ActivityHostLost,
    ActivityTimeout,
    AlreadyCommitted,
    AlreadyStarted,
    ApplicationError,
    Busy,
    CallCycle,
    CallTimeout,
    Conflict,
    DamagedRow,
    DefinitionError,
    DurableAwaitInHandler,
    EntityExists,
    EntityParked,
    ErrorBody,
    HandlerFailed,
    HandlerTimeout,
    HostKilled,
    IdempotencyMismatch,
    InvalidArguments,
    InvalidKey,
    InvalidReminder,
    InvalidStatement,
    InvalidTransaction,
    JournalTooLong,
    NoSuchEntity,
    NoSuchLetter,
    NoSuchOperation,
    NoSuchRun,
    NotConnected,
    NotDurable,
    NotInWorkflow,
    OperationSettled,
    OutcomeUnknown,
    PayloadTooLarge,
    PayloadUnreadable,
    PerdureError,
    ReadOnlyViolation,
    Rejected,
    ResultNotSerialisable,
    RunEnded,
    RunParked,
    SagaFailed,
    StagedSqlFailed,
    StartRefused,
    StateNotSerialisable,
    TransactionConflict,
    TransactionTimeout,
    Unavailable,
    UnknownHandler,
    UnknownType,
    VersionConflict,
    VersionNotRetained,
    WorkflowCancelled,
    WorkflowFailed,
    WorkflowTerminated,
)
from ..entities.ids import new_message_id
from ..entities.messages import encode_json
from ..entities.schedules import NoSuchSchedule
from ..entities.store.port import HostFenced, StoreUnavailable, WriteConflict

MEDIA_TYPE = "application/problem+json"
DOCS = "/docs/errors"
PROBLEM: dict[str, Any] = {
    "description": "A problem (RFC 9457)",
    "content": {
        MEDIA_TYPE: {
            "schema": {
                "type": "object",
                "required": ["type", "title", "status", "detail", "code", "request_id"],
                "properties": {
                    "type": {"type": "string", "description": "A page that explains the code."},
                    "title": {"type": "string"},
                    "status": {"type": "integer"},
                    "detail": {"type": "string"},
                    "instance": {"type": "string"},
                    "code": {"type": "string"},
                    "request_id": {"type": "string"},
                    "entity": {"type": "string"},
                    "version": {"type": "integer"},
                    "retry_after": {"type": "integer"},
                    "errors": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "properties": {
                                "field": {"type": "string"},
                                "message": {"type": "string"},
                                "pointer": {"type": "string"},
                            },
                        },
                    },
                },
            }
        }
    },
}
"""What OpenAPI says about every error."""
RETRY_AFTER_S = 1
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")

logger = logging.getLogger(__name__)


class Refused(Exception):
    """A request that the gateway itself refuses; it never reached an entity."""

    def __init__(
        self, status: int, code: str, message: str, /, *, headers: Mapping[str, str] | None = None, **details: Any
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})
        self.details = details


class Row(NamedTuple):
    """How one kind of error looks over HTTP."""

    status: int
    title: str
    retry_after_s: int = 0
    """When to try again; 0 = repeating it unchanged does not help."""


TABLE: dict[type[PerdureError], Row] = {
    # The request is wrong
    Rejected: Row(400, "The request is wrong"),
    InvalidKey: Row(400, "The entity key is not usable"),
    UnknownType: Row(404, "There is no such entity type"),
    UnknownHandler: Row(404, "The entity has no such handler"),
    InvalidArguments: Row(422, "The arguments do not fit"),
    PayloadTooLarge: Row(413, "The payload is too large"),
    InvalidReminder: Row(422, "The reminder is not usable"),
    NoSuchOperation: Row(404, "There is no such operation"),
    NoSuchRun: Row(404, "The workflow was never started"),
    InvalidTransaction: Row(400, "The transaction is not possible"),
    InvalidStatement: Row(400, "The staged SQL is not usable"),
    NoSuchSchedule: Row(404, "There is no such schedule"),
    NoSuchEntity: Row(404, "There is no such entity"),
    NoSuchLetter: Row(404, "There is no such dead letter"),
    VersionNotRetained: Row(404, "The state of this version is not kept"),
    # It clashes with what is there
    Conflict: Row(409, "The request clashes with what exists"),
    IdempotencyMismatch: Row(409, "The idempotency key was used for another request"),
    AlreadyStarted: Row(409, "The workflow was started with other input"),
    VersionConflict: Row(409, "The entity is at another version"),
    EntityExists: Row(409, "The address is in use"),
    RunEnded: Row(409, "The run has ended"),
    AlreadyCommitted: Row(409, "The transaction was committed before"),
    TransactionConflict: Row(409, "The transaction conflicts with another change", RETRY_AFTER_S),
    OperationSettled: Row(409, "The operation has its outcome"),
    CallCycle: Row(409, "The call would wait for itself"),
    CallTooDeep: Row(422, "Too many runs would wait for one another"),
    MessageLoop: Row(422, "The entities send to each other without end"),
    RunParked: Row(423, "The run is parked until its code is fixed"),
    EntityParked: Row(423, "The entity is parked until its code is fixed"),
    PayloadUnreadable: Row(423, "The entity is parked until its payloads can be read"),
    DamagedRow: Row(423, "A stored row is damaged"),
    # Nothing was applied; later it may be
    Unavailable: Row(503, "Not available now", RETRY_AFTER_S),
    Busy: Row(429, "Too much is waiting", RETRY_AFTER_S),
    TransactionTimeout: Row(503, "The transaction took too long", RETRY_AFTER_S),
    NotConnected: Row(503, "The gateway is not connected", RETRY_AFTER_S),
    StoreUnavailable: Row(503, "The database is not available now", RETRY_AFTER_S),
    HostFenced: Row(503, "The host is leaving", RETRY_AFTER_S),
    WriteConflict: Row(503, "The entity moved", RETRY_AFTER_S),
    # Nobody knows
    OutcomeUnknown: Row(504, "The outcome is not known"),
    CallTimeout: Row(504, "No answer in time; the outcome is not known"),
    # User code said no, on purpose
    ApplicationError: Row(422, "The application refused"),
    WorkflowFailed: Row(422, "The workflow failed"),
    JournalTooLong: Row(422, "The workflow's journal is too long"),
    WorkflowCancelled: Row(409, "The workflow was cancelled"),
    WorkflowTerminated: Row(409, "The workflow was terminated"),
    # User code is broken
    HandlerFailed: Row(500, "The handler raised an unexpected error"),
    HandlerTimeout: Row(500, "The handler took too long"),
    StagedSqlFailed: Row(500, "The database refused staged SQL"),
    SagaFailed: Row(500, "A saga could not be undone"),
    HostKilled: Row(500, "The message ends every host that runs it"),
    ActivityFailed: Row(502, "An activity failed for good"),
    ActivityHostLost: Row(502, "The host of an activity died"),
    ActivityTimeout: Row(504, "An activity ran out of time"),
    DecisionOverdue: Row(504, "Nobody decided in time"),
    DurableAwaitInHandler: Row(500, "The handler is written wrongly"),
    NotInWorkflow: Row(500, "The handler is written wrongly"),
    NotDurable: Row(500, "The workflow is written wrongly"),
    ReadOnlyViolation: Row(500, "The query tried to change something"),
    StateNotSerialisable: Row(500, "The state cannot be stored"),
    ResultNotSerialisable: Row(500, "The result does not fit its declared type"),
    DefinitionError: Row(500, "A class is written wrongly"),
    StartRefused: Row(503, "Perdure did not start"),
    PerdureError: Row(500, "Something went wrong"),
}

OWN_CODES: dict[str, str] = {
    "bad_json": "The body is not JSON, or ends too early; `position` is the byte.",
    "bad_encoding": "The body or the path is not UTF-8.",
    "bad_number": "NaN, Infinity, or a number too large for a float.",
    "number_too_long": "An integer of thousands of digits.",
    "duplicate_key": "An object holds a key twice.",
    "nul_not_allowed": "A string holds the character NUL, which Postgres cannot store.",
    "bad_unicode": "A string holds half of a character (a lone surrogate).",
    "too_deep": "The JSON is nested too deeply.",
    "unsupported_media_type": "The body is not declared as `application/json`, or is compressed.",
    "payload_too_large": "The body is larger than the limit.",
    "body_timeout": "The body did not arrive in time.",
    "bad_idempotency_key": "The header `Idempotency-Key` is empty, too long, not ASCII, or given twice.",
    "headers_too_large": "The path, the query string and the headers are together larger than 32 kB.",
    "head_timeout": "The head of the request did not arrive in time; the connection is closed.",
    "too_many_requests": "The gateway has as many requests under way as it may; nothing was accepted, try again.",
    "bad_request": "The request can be read in two ways (the length of its body is told twice).",
    "bad_cursor": "`after` is no cursor of this list, or one of a search with other conditions; begin anew.",
    "precondition_unsupported": "`If-Match` and its kin are not evaluated; the request was not applied.",
    "bad_preference": "The header `Prefer` cannot be applied here.",
    "bad_signature": "A webhook is not signed, or not by a secret that is known here.",
    "stale_signature": "A webhook was signed too long ago, or in the future; it may be a replay.",
    "bad_webhook": "A webhook is signed but does not say which event it is.",
    "unauthorized": "A valid credential is missing: `Authorization: Bearer <API key or token>`.",
    "forbidden": "The credential has no grant for this, or is for another namespace.",
    "forbidden_host": "A gateway without credentials answers only callers on the same machine.",
    "keys_unavailable": "The keys of the identity provider could not be fetched, so no token can be checked now.",
    "no_such_host": "No host of this id is alive: it has left, was declared dead, or never was.",
    "not_found": "There is nothing at this path.",
    "method_not_allowed": "The path exists, the method does not; the header `Allow` lists those that do.",
    "http_error": "Any other HTTP error.",
    "internal_error": "A bug in the application or in the gateway; its log has the details under `request_id`.",
}
"""Codes that the gateway gives itself, beside those of the error classes."""


def row_of(error: PerdureError) -> Row:
    """The row of the error's class, or of its nearest base that has one."""
    if isinstance(error, StoreUnavailable) and error.details.get("maybe_applied"):
        return TABLE[OutcomeUnknown]
    return next(TABLE[cls] for cls in type(error).__mro__ if cls in TABLE)


def problem(
    error: Exception,
    request: Request,
    *,
    show_errors: bool = False,
    is_private: bool = False,
    entity: str = "",
    version: int = 0,
    **more: Any,
) -> Response:
    """The response for an error. `more` becomes members of the problem; is_private: see `is_private()`."""
    headers: dict[str, str] = {}
    error_type = ""
    details: dict[str, Any] = {}
    match error:
        case Refused():
            status, title, code, detail = error.status, _reason(error.status), error.code, error.message
            more |= error.details
            headers |= error.headers
        case PerdureError():
            row = row_of(error)
            status, title, code, detail = row.status, row.title, error.code, error.message
            details = dict(error.details)
            error_type = error.type if isinstance(error, ApplicationError) else str(details.pop("error_type", ""))
            if not isinstance(error, ApplicationError):
                more |= _members(details)
            if row.retry_after_s:
                more["retry_after"] = row.retry_after_s
                headers["Retry-After"] = str(row.retry_after_s)
            is_private = is_private or _is_unexpected(error)
            if is_private and not show_errors:
                detail, details = f"{entity or 'the entity'}: its code raised {error_type or 'an error'}", {}
            elif isinstance(error, WorkflowFailed | ActivityFailed) and isinstance(error.__cause__, ApplicationError):
                more["cause"] = {"error_type": error.__cause__.type, "message": error.__cause__.message}
        case _:
            status, title, code = 500, "Something went wrong", "internal_error"
            detail = "an unexpected error; the gateway's log has it under this request_id"
    body: dict[str, Any] = {
        "type": f"{DOCS}#{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "instance": instance(request),
        "code": code,
        "request_id": request_id(request),
    }
    optional = {"entity": entity, "version": version, "error_type": error_type, **more, "details": details}
    body |= {name: value for name, value in optional.items() if value}
    headers["X-Request-Id"] = body["request_id"]
    if version:
        headers["Perdure-Version"] = str(version)
    return Response(_encode(body), status_code=status, headers=headers, media_type=MEDIA_TYPE)


def _is_unexpected(error: PerdureError) -> bool:
    """Whether the message is the text of an exception that nobody raised on purpose."""
    return isinstance(error, HandlerFailed) and not isinstance(error, HandlerTimeout)


def is_private(body: ErrorBody) -> bool:
    """Whether an error as received carries the text of an exception that is not an ApplicationError."""
    cause = body.cause
    while cause is not None and cause.cause is not None and cause.code != "user_error":
        cause = cause.cause
    return cause is not None and cause.code == "user_error" and body.code != ApplicationError.code


def _members(details: dict[str, Any]) -> dict[str, Any]:
    """Takes out of `details` what has a place of its own in a problem."""
    names = ("errors", "limit", "got", "suggestions", "chain")
    members: dict[str, Any] = {name: details.pop(name) for name in names if name in details}
    if isinstance(members.get("errors"), list):
        members["errors"] = [_field_error(found) for found in members["errors"]]
    return members


def _encode(body: dict[str, Any]) -> bytes:
    try:
        return encode_json(body)
    except (TypeError, ValueError, UnicodeError):  # details of user code may be anything
        return encode_json({name: value for name, value in body.items() if name not in ("details", "errors", "cause")})


def _field_error(found: Any) -> Any:
    if not isinstance(found, dict) or "field" not in found:
        return found
    pointer = "".join(
        "/" + part.replace("~", "~0").replace("/", "~1") for part in str(found["field"]).split(".") if part
    )
    return found | {"pointer": f"#{pointer}"}


def _reason(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def instance(request: Request) -> str:
    """The path as it was asked for, percent-encoded."""
    raw: bytes = request.scope.get("raw_path") or quote(request.scope["path"]).encode()
    return raw.decode("ascii", "replace")[:1_000]


def request_id(request: Request) -> str:
    """The caller's `X-Request-Id` if it is usable, else one of ours; the same for all of a request."""
    state = request.scope.setdefault("perdure", {})
    if "request_id" not in state:
        given = request.headers.get("x-request-id", "")
        state["request_id"] = given if _REQUEST_ID.fullmatch(given) else new_message_id()
    return str(state["request_id"])


def install(app: FastAPI, *, show_errors: bool = False, every_error: bool = False) -> None:
    """Answer Perdure's errors with problems in every route of `app`, those of the user included.

    show_errors: see the module. every_error: also errors that are not Perdure's (unknown paths, FastAPI's validation,
    HTTPException, unexpected exceptions), so that the application has one shape of error.
    """

    async def on_error(request: Request, error: Exception) -> Response:
        return problem(error, request, show_errors=show_errors)

    app.add_exception_handler(PerdureError, on_error)
    app.add_exception_handler(Refused, on_error)
    if every_error:
        app.router.responses.setdefault("default", PROBLEM)  # of routes that are declared from now on
        app.add_exception_handler(HTTPException, _on_http_error)
        app.add_exception_handler(RequestValidationError, _on_validation_error)
        app.add_exception_handler(Exception, _on_bug)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    codes = {404: "not_found", 405: "method_not_allowed", 401: "unauthorized", 415: "unsupported_media_type"}
    detail = error.detail if error.detail != _reason(error.status_code) else ""
    if error.status_code == 404 and not detail:
        detail = "there is nothing at this path; a slash inside an entity key is written %2F"
    code = codes.get(error.status_code, "http_error")
    refused = Refused(error.status_code, code, str(detail or _reason(error.status_code)), headers=error.headers)
    return problem(refused, request)


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = [{"field": ".".join(map(str, found["loc"])), "message": found["msg"]} for found in error.errors()[:20]]
    text = "; ".join(f"{found['field']}: {found['message']}" for found in errors)
    return problem(
        Refused(
            422,
            "invalid_argument",
            f"the request does not fit: {text}",
            errors=[_field_error(found) for found in errors],
        ),
        request,
    )


async def _on_bug(request: Request, error: Exception) -> Response:
    logger.error("request %s to %s failed", request_id(request), instance(request), exc_info=error)
    return problem(error, request)
