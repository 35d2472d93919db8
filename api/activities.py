"""Routes for the outside world, which knows an activity by its token only: complete it, fail it, say that it is alive.

A token that means nothing is 404 (`no_such_operation`), in the same words whatever is missing: who knows only tokens
learns nothing of types, entities and runs. One whose activity has its outcome is 409 (`operation_settled`). A caller
needs the right `call` of the workflow as well: a token alone opens nothing.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response
from fastapi.params import Depends

from ..entities.calls import check_reply, deliver
from ..entities.errors import (
    CallTimeout,
    InvalidKey,
    NoSuchOperation,
    NoSuchRun,
    PerdureError,
    UnknownHandler,
    UnknownType,
)
from ..entities.heartbeat import DETAILS_BYTES_MAX
from ..entities.ids import EntityId, SendClock, keyed_message_id, new_message_id
from ..entities.messages import Envelope, Kind, encode_json
from ..entities.operate import Act, Action, act_on, outside_error
from ..entities.signature import PAYLOAD_BYTES_MAX
from ..entities.tokens import read_token
from .archive_openapi import TOKEN
from .authorise import permit
from .exchange import caller_of
from .principal import Right
from .problems import PROBLEM, Refused, problem
from .repair import Applied, FailedAttempt, read_body
from .requests import Wishes, read_json, read_wishes
from .settings import Settings

ACTIVITIES = "/activities"
_NOTHING_THERE = (InvalidKey, NoSuchOperation, NoSuchRun, UnknownHandler, UnknownType)

_clock = SendClock()


def activity_router(
    *, prefix: str = ACTIVITIES, dependencies: Sequence[Depends] | None = None, settings: Settings | None = None
) -> APIRouter:
    """`POST {prefix}/{token}/complete` (body: the result), `…/fail` (body: `{"message": …}`), `…/heartbeat` (body:
    details). For applications of your own; `create_app` has it.
    """
    limits = settings or Settings()
    router = APIRouter(prefix=prefix, tags=["activities"], dependencies=list(dependencies or ()))
    for action, summary, body in (
        (Action.COMPLETE, "Complete an activity", {}),
        (Action.FAIL_ATTEMPT, "Fail an activity's attempt", FailedAttempt.model_json_schema()),
        (Action.HEARTBEAT, "An activity's heartbeat", {}),
    ):
        router.add_api_route(
            f"/{{token}}/{'fail' if action is Action.FAIL_ATTEMPT else action}",
            _endpoint(action, limits),
            methods=["POST"],
            summary=summary,
            response_model=Applied,
            responses={"default": PROBLEM},
            openapi_extra={
                "parameters": [TOKEN],
                "requestBody": {
                    "required": action is Action.FAIL_ATTEMPT,
                    "content": {"application/json": {"schema": body}},
                },
            },
        )
    return router


def _endpoint(action: Action, settings: Settings) -> Callable[..., Awaitable[Any]]:
    async def act(request: Request) -> Response:
        try:
            return await _act(request, action, settings)
        except _NOTHING_THERE:
            unknown = NoSuchOperation(
                "no activity has this token (any more); pass on `activity_info().token` unchanged"
            )
            return problem(unknown, request)
        except (PerdureError, Refused) as error:
            return problem(error, request, show_errors=settings.show_errors)

    return act


async def _act(request: Request, action: Action, settings: Settings) -> Response:
    about, address = read_token(request.path_params["token"])
    await permit(request, settings, Right.CALL, about.type, address.workflow, about.key)
    wishes = read_wishes(request, settings)
    more: dict[str, Any] = {}
    if action is Action.FAIL_ATTEMPT:
        failure = read_body(FailedAttempt, await read_json(request, settings))
        more = {"error": outside_error(failure.error())}
    else:
        value = await read_json(request, settings, default=b"null")
        limit = DETAILS_BYTES_MAX if action is Action.HEARTBEAT else PAYLOAD_BYTES_MAX
        if len(value) > limit:
            raise Refused(
                413, "payload_too_large", f"the body is {len(value)} bytes; the limit is {limit}", limit=limit
            )
        more = {"value": msgspec.Raw(value)}
    entity, workflow, act = act_on(request.path_params["token"], action, **more)
    return await send_act(request, entity, workflow, act, wishes, answer={"applied": True})


async def send_act(  # noqa: PLR0917 - one message
    request: Request, entity: EntityId, workflow: str, act: Act, wishes: Wishes, answer: dict[str, Any]
) -> Response:
    """Have the owner of the entity apply it, and answer with `answer`. Raises what the owner refuses it with."""
    caller = caller_of(request)
    key = wishes.idempotency_key or new_message_id()
    envelope = Envelope(
        id=keyed_message_id(workflow, key),
        type=entity.type,
        key=entity.key,
        kind=Kind.OPERATE,
        name=workflow,
        args=encode_json(act),
        sender=caller.session,
        position=_clock.next(time.time_ns() // 1_000),
        is_retry=bool(wishes.idempotency_key),
        trace=wishes.trace,
        timeout_us=round(wishes.wait_s * 1e6),
    )
    try:
        check_reply(await deliver(caller, envelope, timeout_s=wishes.wait_s), envelope)
    except CallTimeout as error:
        return problem(error, request, idempotency_key=key)
    body = encode_json(answer | {"idempotency_key": key})
    return Response(body, headers={"Cache-Control": "no-store"}, media_type="application/json")
