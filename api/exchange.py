"""From a request to an envelope, and from the reply to a response. No routing, no FastAPI models on the way."""

import time
from typing import Any

from fastapi import Request, Response

from ..entities.calls import deliver
from ..entities.client import Caller, ambient
from ..entities.descriptors import Method
from ..entities.errors import Busy, CallTimeout, OutcomeUnknown, PerdureError, Unavailable, error_from_body
from ..entities.ids import EntityId, SendClock, check_key, keyed_message_id, new_message_id
from ..entities.mailbox import Mailbox
from ..entities.messages import Envelope, Kind, Reply, Status, decode_error, encode_json
from ..entities.signature import Signature
from ..entities.tracing import current_traceparent
from .authorise import operator_of, permit_of
from .operations import Action, Operation
from .presence import CallerGoneError, while_present
from .problems import RETRY_AFTER_S, TABLE, Refused, is_private, problem, row_of
from .query_string import arguments_of, takes_timeout
from .repair import act_from
from .requests import Wishes, read_delay_us, read_flag, read_json, read_wishes
from .settings import Settings

ENTITY_VERSION = "Perdure-Version"
STATE = "perdure"
"""Under which the lifespan puts the client into the state of requests."""
_JSON = "application/json"

REASON_CHARS_MAX = 1_000
CALLER_GONE = 499
"""Nobody reads it; it is what proxies write into their logs."""


async def _terminate(reason: str = "") -> None: ...


TERMINATION = Signature(_terminate, "terminate", has_self=False)

_clock = SendClock()
"""Positions of everything that this gateway sends: requests of one process in the order of their arrival."""


async def answer(request: Request, operation: Operation, key: str, settings: Settings) -> Response:
    """Do what the request asks; every error of Perdure becomes a problem."""
    entity = f"{operation.definition.name}/{key}"
    try:
        return await _Exchange(request, operation, check_entity_key(operation, key), settings).run()
    except (PerdureError, Refused) as error:
        return problem(error, request, show_errors=settings.show_errors, entity=entity[:600])


def check_entity_key(operation: Operation, key: str) -> EntityId:
    """The address. Raises InvalidKey, Refused."""
    type_name = operation.definition.name
    if key in (".", ".."):
        raise Refused(
            400, "bad_key", f"{type_name}: the key {key!r} cannot travel in a path: clients and proxies remove it"
        )
    return EntityId(type_name, check_key(type_name, key))


class _Exchange:
    """One request on its way."""

    __slots__ = ("_entity", "_operation", "_request", "_settings", "_wishes")

    def __init__(self, request: Request, operation: Operation, entity: EntityId, settings: Settings) -> None:
        self._request = request
        self._operation = operation
        self._entity = entity
        self._settings = settings
        own_timeout = not (operation.action is Action.QUERY and operation.method == "GET" and takes_timeout(operation))
        self._wishes: Wishes = read_wishes(request, settings, own_timeout=own_timeout)

    async def run(self) -> Response:
        operation, wishes = self._operation, self._wishes
        is_async = wishes.is_async and operation.action is Action.CALL
        kind = Kind.SEND if is_async else operation.action.kind
        delay_us = read_delay_us(self._request)
        if delay_us and not is_async:
            raise Refused(
                400, "bad_preference", "`delay` is for messages without an answer: add `Prefer: respond-async`"
            )
        args = await self._arguments()
        key = wishes.idempotency_key or new_message_id()
        caller = caller_of(self._request)
        envelope = Envelope(
            id=keyed_message_id(operation.name, key),
            type=self._entity.type,
            key=self._entity.key,
            kind=kind,
            name=operation.name,
            args=args,
            sender=caller.session,
            position=_clock.next(time.time_ns() // 1_000),
            is_retry=bool(wishes.idempotency_key),
            delay_us=delay_us,
            trace=current_traceparent() or wishes.trace,
            timeout_us=round(wishes.wait_s * 1e6),
            options="restart" if operation.action is Action.START and read_flag(self._request, "restart") else "",
        )
        try:
            delivery = deliver(caller, envelope, timeout_s=wishes.wait_s)
            is_long = operation.action is Action.RESULT or wishes.wait_s > self._settings.call_wait_s
            reply = await (while_present(self._request, delivery) if is_long else delivery)
        except CallTimeout as error:
            return self._no_answer(error, key)
        except CallerGoneError:
            return Response(status_code=CALLER_GONE)
        return self._response(reply, key)

    async def _arguments(self) -> bytes:
        """Checked, and written exactly as a Python caller's would be: equal input is equal whoever sends it."""
        operation = self._operation
        match operation.action:
            case Action.RESULT | Action.OPERATIONS:
                return b"{}"
            case Action.CANCEL:
                operator = self._operator("")
                return encode_json({"operator": operator}) if operator else b"{}"
            case action if action.is_repair:
                assert isinstance(operation.member, Method)
                body = await read_json(self._request, self._settings, default=b"{}")
                return act_from(action, operation.member, body, self._operator)
            case Action.QUERY if operation.method == "GET":
                return arguments_of(operation, self._request)
            case Action.TERMINATE:
                return await self._reason()
            case Action.SIGNAL:
                assert isinstance(operation.member, Mailbox)
                mailbox = operation.member
                return mailbox.dump(mailbox.load(await read_json(self._request, self._settings)))
            case _:
                assert not isinstance(operation.member, Mailbox)
                signature = operation.member.signature
                body = await read_json(self._request, self._settings, default=b"{}")
                return signature.dump_arguments((), signature.load_arguments(body, is_foreign=True))

    async def _reason(self) -> bytes:
        body = await read_json(self._request, self._settings, default=b"{}")
        words = {"reason": TERMINATION.load_arguments(body).get("reason", "")[:REASON_CHARS_MAX]}
        operator = self._operator("")
        return encode_json(words | {"operator": operator} if operator else words)

    def _operator(self, said: str) -> str:
        return operator_of(permit_of(self._request, self._settings).principal, said)

    def _response(self, reply: Reply, key: str) -> Response:
        match reply.status:
            case Status.OK | Status.ACCEPTED:
                return self._success(reply, key)
            case Status.ERROR:
                body = decode_error(reply.body)
                failure = error_from_body(body)
                is_unknown = row_of(failure) is TABLE[OutcomeUnknown] and self._operation.action is not Action.QUERY
                more = {"idempotency_key": key} if is_unknown else {}
                return self._problem(failure, version=reply.version, is_private=is_private(body), **more)
            case Status.BUSY:
                error = error_from_body(decode_error(reply.body))
                return self._problem(error if isinstance(error, Busy) else Busy(f"{self._entity}: {error}"))
            case Status.NOT_OWNER:
                return self._problem(
                    Unavailable(f"{self._entity}: no host owns it now; nothing was applied, try again")
                )

    def _success(self, reply: Reply, key: str) -> Response:
        headers: dict[str, str] = {"Cache-Control": "no-store"}
        if reply.version or reply.status is Status.OK:
            headers[ENTITY_VERSION] = str(reply.version)
            headers["ETag"] = f'"v{reply.version}"'
        match self._operation.action:
            case Action.CALL if reply.status is not Status.ACCEPTED:
                return Response(reply.body, headers=headers, media_type=_JSON)
            case Action.QUERY | Action.RESULT | Action.OPERATIONS:
                return Response(reply.body, headers=headers, media_type=_JSON)
            case Action.START | Action.RESTART | Action.RERUN:
                run_id = reply.body.decode().strip('"')
                headers["Location"] = self._sibling("result")
                return Response(encode_json({"run_id": run_id}), 202, headers, _JSON)
            case action if action.is_repair:
                return Response(encode_json({"applied": True, "idempotency_key": key}), 200, headers, _JSON)
            case _:
                if self._wishes.is_async:
                    headers["Preference-Applied"] = "respond-async"
                return Response(encode_json({"accepted": True, "idempotency_key": key}), 202, headers, _JSON)

    def _no_answer(self, error: CallTimeout, key: str) -> Response:
        wait = f"{self._wishes.wait_s:g} s"
        match self._operation.action:
            case Action.RESULT:
                headers = {"Cache-Control": "no-store", "Retry-After": str(RETRY_AFTER_S)}
                return Response(
                    encode_json({"status": "running", "waited_s": self._wishes.wait_s}), 202, headers, _JSON
                )
            case Action.QUERY | Action.OPERATIONS:
                return self._problem(
                    CallTimeout(
                        f"{self._entity}.{self._operation.name}: no answer within {wait}; "
                        "a query changes nothing, ask again"
                    ),
                    retry_after=RETRY_AFTER_S,
                )
            case _:
                message = (
                    f"{self._entity}.{self._operation.name}: no answer within {wait}; it may or may not have been "
                    "applied. Repeat the request with the same body and this `Idempotency-Key` to learn its outcome; "
                    "it is applied at most once"
                )
                return self._problem(CallTimeout(message, **error.details), idempotency_key=key)

    def _problem(self, error: PerdureError, *, version: int = 0, is_private: bool = False, **more: Any) -> Response:
        return problem(
            error,
            self._request,
            show_errors=self._settings.show_errors,
            entity=str(self._entity),
            version=version,
            is_private=is_private,
            **more,
        )

    def _sibling(self, action: str) -> str:
        """The path of another action on the same workflow, percent-encoded as the caller wrote it."""
        raw: bytes = self._request.scope.get("raw_path") or self._request.scope["path"].encode()
        return raw.decode("ascii", "replace").rpartition("/")[0] + f"/{action}"


def caller_of(request: Request) -> Caller:
    """The client that the lifespan of this application opened, else the ambient one. Raises NotConnected."""
    state = request.scope.get("state")
    caller: Caller | None = state.get(STATE) if state else None
    return caller if caller is not None else ambient()
