"""The work list over HTTP: decisions of people that workflows wait for.

`GET /worklist` is answered from the database; `POST /worklist/{id}` becomes a message to the entity, applied exactly
once (P1). Who may: a principal with the right `decide` of the group (`Loan.underwriting:decide`, or
`*.underwriting:decide` for every type), or `operate` of the type. A caller sees only what they may decide. A token of
an activity, or the right `call`, does not decide anything.
"""

from collections.abc import Collection
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response
from pydantic import TypeAdapter
from starlette.routing import BaseRoute

from ..entities.archive import ambient_survey
from ..entities.decisions import decision_act, described
from ..entities.errors import OperationSettled
from ..entities.ids import EntityId
from ..entities.store.rows import AttemptRow
from ..entities.store.survey import DECISION, DueCursor, Survey, due_of
from ..entities.tokens import read_token
from . import archive_openapi as openapi
from .activities import send_act
from .answering import answering
from .authorise import Permit, operator_of, permit_any, permit_of
from .cursors import unwrap, wrap
from .openapi import IDEMPOTENCY
from .overview_rows import decision_row
from .overview_schemas import DecideBody, Decided, WorkList
from .parameters import plain_text, read_limit, read_text
from .principal import WHOLE, Asked, Principal, Right
from .problems import Refused
from .repair import read_body
from .requests import read_json, read_wishes
from .settings import Settings

EXAMINE_MAX = 2_000
"""Decisions that one page looks at, if the caller may not take all of them."""
_DECIDING = frozenset({Right.DECIDE, Right.OPERATE, Right.ADMIN})
_ID: dict[str, Any] = openapi.TOKEN | {"name": "id", "description": "Of a decision, as the work list has it."}
_LIST = [
    openapi.asked("group", "string", "Put to this group."),
    openapi.asked("type", "string", "By entities of this class."),
    openapi.LIMIT,
    openapi.AFTER,
]


def worklist_routes(settings: Settings) -> list[BaseRoute]:
    """The routes, for an application that is guarded elsewhere."""
    router = APIRouter(redirect_slashes=False)
    views = _Views(settings)
    body = {"required": True, "content": {"application/json": {"schema": DecideBody.model_json_schema()}}}
    decide = openapi.described([_ID, IDEMPOTENCY])
    decide["openapi_extra"]["requestBody"] = body
    router.add_api_route(
        "/worklist",
        answering(views.list, None, settings),
        methods=["GET"],
        summary="Decisions that workflows wait for",
        tags=["worklist"],
        response_model=WorkList,
        **openapi.described(_LIST),
    )
    router.add_api_route(
        "/worklist/{id}",
        answering(views.decide, None, settings),
        methods=["POST"],
        summary="Take a decision",
        tags=["worklist"],
        response_model=Decided,
        **decide,
    )
    return list(router.routes)


class _Views:
    """One method per route."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def list(self, request: Request, who: Principal) -> WorkList:
        found = permit_of(request, self._settings)
        if found.authoriser is None and not any(grant.rights & _DECIDING for grant in who.grants):
            raise Refused(403, "forbidden", f"{who.name} has no grant to decide anything, such as `*.group:decide`")
        group, type_name = plain_text(request, "group"), plain_text(request, "type")
        listing = [self._settings.namespace, "worklist", f"group={group}", f"type={type_name}"]
        position = unwrap(read_text(request, "after"), listing)
        after = None if position is None else DueCursor(*_positions.validate_json(position))
        limit = read_limit(request)
        survey = ambient_survey()
        groups = [group] if group else await survey.groups()
        shown: list[tuple[EntityId, AttemptRow]] = []
        examined = 0
        while True:
            page, is_end = await _merged(survey, groups, type_name, after, limit + 1)
            for entity, row in page:
                if await _may_decide(found, entity, row.activity.removeprefix(DECISION)):
                    if len(shown) == limit:
                        return _work_list(shown, after, listing)
                    shown.append((entity, row))
                after = DueCursor(due_of(row), *entity, row.operation)
            examined += len(page)
            if is_end:
                return _work_list(shown, None, listing)
            if examined >= EXAMINE_MAX:
                return _work_list(shown, after, listing)

    async def decide(self, request: Request, who: Principal) -> Response:
        found = permit_of(request, self._settings)
        decision_id = request.path_params["id"]
        entity, address = read_token(decision_id)
        row = await ambient_survey().decision(entity, str(address))
        wishes = read_wishes(request, self._settings)
        if row is not None:
            await permit_any(request, found, *_asking(found, entity, row.activity.removeprefix(DECISION)))
        else:
            is_operator = await _permit_late(request, found, entity)
            if not (is_operator and wishes.idempotency_key):  # an operator's repeat gets the first outcome
                raise OperationSettled(
                    f"{entity}.{address.workflow}: the decision is not open: it was taken, is overdue, or its run has"
                    " ended"
                )
        body = read_body(DecideBody, await read_json(request, self._settings))
        value = msgspec.Raw(msgspec.json.encode(body.value))
        act = decision_act(decision_id, value, operator=operator_of(who, body.operator), reason=body.reason)
        answer = {"id": decision_id, "decided": True}
        return await send_act(request, entity, address.workflow, act, wishes, answer)


async def _merged(
    survey: Survey, groups: Collection[str], type_name: str, after: DueCursor | None, limit: int
) -> tuple[list[tuple[EntityId, AttemptRow]], bool]:
    """The next decisions of these groups by due time, and whether these were all."""
    pages = [await survey.decisions(group, type=type_name, after=after, limit=limit) for group in groups]
    rows = sorted((one for page in pages for one in page), key=lambda one: (due_of(one[1]), one[0], one[1].operation))
    return rows[:limit], all(len(page) < limit for page in pages) and len(rows) <= limit


def _asking(found: Permit, entity: EntityId, group: str) -> tuple[Asked, Asked]:
    return (
        Asked(found.namespace, entity.type, group, entity.key, Right.DECIDE),
        Asked(found.namespace, entity.type, WHOLE, entity.key, Right.OPERATE),
    )


async def _may_decide(found: Permit, entity: EntityId, group: str) -> bool:
    as_member, as_operator = _asking(found, entity, group)
    return await found.allows(as_member) or await found.allows(as_operator)


async def _permit_late(request: Request, found: Permit, entity: EntityId) -> bool:
    """It is not known (any more) whom it was put to: whoever decides for this type may learn that it is settled.

    Returns whether it is an operator who asks.
    """
    groups = [grant.member for grant in found.principal.grants if Right.DECIDE in grant.rights]
    as_member, as_operator = _asking(found, entity, WHOLE)
    others = [as_member._replace(member=group) for group in groups]
    await permit_any(request, found, as_operator, *others)
    return await found.allows(as_operator)


_positions = TypeAdapter(tuple[int, str, str, str])


def _work_list(shown: list[tuple[EntityId, AttemptRow]], after: DueCursor | None, listing: list[str]) -> WorkList:
    following = None if after is None else msgspec.json.encode(after).decode()
    rows = [decision_row(described(entity, row)) for entity, row in shown]
    return WorkList(decisions=rows, next=wrap(following, listing))
