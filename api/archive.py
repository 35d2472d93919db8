"""Looking at entities and mending them over HTTP: search, history, past states, forks, edits, exports, dead letters.

Reading is answered from the database and works while no host runs. Paths below an entity are behind `-`, which no
member of a class can be called.
"""

from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import APIRouter, Request
from starlette.routing import BaseRoute

from ..entities.archive import definition_of
from ..entities.definition import EntityDefinition, Registry
from ..entities.export import export_entity
from ..entities.history import history
from ..entities.ids import EntityId, check_key
from ..entities.maintenance import dead_letters, discard_dead_letter, edit, replay_dead_letter
from ..entities.outbox import outbox
from ..entities.present import ROWS_MAX, present
from ..entities.search import conditions_of, find
from ..entities.timetravel import diff, fork, state_json
from .answering import answering
from .archive_openapi import (
    DIFF,
    EDIT,
    ENTITY,
    EVENTS,
    FIND,
    HISTORY,
    LETTERS,
    NOW,
    OUTBOX,
    STATE,
    described,
    streaming,
)
from .authorise import operator_of, permit
from .cursors import unwrap, wrap
from .openapi import KEY
from .operations import find_type
from .parameters import check_size, read_number, read_text, read_time, wrong
from .principal import WHOLE, Principal, Right
from .requests import read_flag, read_idempotency_key, read_json
from .routes import EntityRoute, path_key
from .settings import Settings
from .streams import Streams

_RESERVED = ("limit", "after")


class EditBody(msgspec.Struct, forbid_unknown_fields=True):
    """New values of fields."""

    fields: Annotated[dict[str, msgspec.Raw], msgspec.Meta(extra_json_schema={"minProperties": 1})]
    expected_version: Annotated[int, msgspec.Meta(extra_json_schema={"minimum": 0})]
    reason: str = ""
    operator: str = ""


class ForkBody(msgspec.Struct, forbid_unknown_fields=True):
    """Which version becomes which entity."""

    new_key: Annotated[str, msgspec.Meta(extra_json_schema=KEY["schema"])]
    version: int | None = None
    reason: str = ""
    operator: str = ""


class LetterBody(msgspec.Struct, forbid_unknown_fields=True):
    """Which dead letter."""

    message_id: str
    reason: str = ""
    operator: str = ""


Body = TypeVar("Body", EditBody, ForkBody, LetterBody)


def archive_routes(registry: Registry, *, prefix: str, settings: Settings) -> list[BaseRoute]:
    """Routes for every class of `registry`; to stand before the generic ones of entities."""
    router = APIRouter(route_class=EntityRoute, redirect_slashes=False)
    views = _Views(registry, settings)
    finding = described(FIND)
    below = prefix + "/{type}/{key:entity_key}/-/"
    for path, method, work, summary, about in (
        (prefix + "/{type}", "GET", views.find, "Entities by fields of their state", finding),
        (below + "now", "GET", views.now, "What is going on at an entity", described(NOW)),
        (below + "outbox", "GET", views.outbox, "What an entity has sent, and what became of it", described(OUTBOX)),
        (below + "history", "GET", views.history, "What happened to an entity", described(HISTORY)),
        (below + "events", "GET", views.events, "An entity's changes, as they come", streaming(EVENTS)),
        (below + "state", "GET", views.state, "The state at a version", described(STATE)),
        (below + "diff", "GET", views.diff, "What changed between two versions", described(DIFF)),
        (below + "export", "GET", views.export, "Everything that is retained of an entity", described(ENTITY)),
        (below + "fork", "POST", views.fork, "A new entity from a version", described(ENTITY, ForkBody)),
        (below + "edit", "POST", views.edit, "New values for fields of the state", described(EDIT, EditBody)),
        (below + "replay", "POST", views.replay, "Send a dead letter again", described(ENTITY, LetterBody)),
        (below + "discard", "POST", views.discard, "Delete a dead letter", described(ENTITY, LetterBody)),
        ("/dead-letters", "GET", views.letters, "Messages that were given up", described(LETTERS)),
    ):
        reading = Right.LIST if about is finding else Right.READ
        endpoint = answering(work, reading if method == "GET" else Right.OPERATE, settings)
        router.add_api_route(path, endpoint, methods=[method], summary=summary, tags=["operations"], **about)
    return list(router.routes)


class _Views:
    """One method per route."""

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self._registry = registry
        self._settings = settings
        self._streams = Streams(settings)

    def _entity(self, request: Request) -> tuple[EntityDefinition, EntityId]:
        definition = find_type(self._registry, request.path_params["type"])
        return definition, EntityId(definition.name, check_key(definition.name, path_key(request)))

    async def find(self, request: Request, who: Principal) -> Any:
        definition = find_type(self._registry, request.path_params["type"])
        check_size(request)
        given = [pair for pair in request.query_params.multi_items() if pair[0] not in _RESERVED]
        listing = [self._settings.namespace, definition.name, *(f"{name}={value}" for name, value in given)]
        found = await find(
            definition.cls,
            conditions_of(definition, given),
            limit=read_number(request, "limit", 50),
            after=unwrap(read_text(request, "after"), listing),
        )
        own = definition_of(definition.cls)
        return {
            "type": definition.name,
            "matches": [
                {
                    "key": match.key,
                    "version": match.version,
                    "updated_at": match.updated_at,
                    "state": msgspec.Raw(own.dump(match.state)),
                }
                for match in found.matches
            ],
            "next": wrap(found.next, listing),
            "examined": found.examined,
            "indexed": found.is_indexed,
            "unreadable": found.unreadable,
        }

    async def now(self, request: Request, who: Principal) -> Any:
        _, entity = self._entity(request)
        return await present(entity, limit=read_number(request, "limit", ROWS_MAX))

    async def outbox(self, request: Request, who: Principal) -> Any:
        _, entity = self._entity(request)
        return await outbox(entity, before=read_number(request, "before", 0), limit=read_number(request, "limit", 100))

    async def history(self, request: Request, who: Principal) -> Any:
        _, entity = self._entity(request)
        return await history(
            entity,
            after=read_number(request, "after", 0),
            limit=read_number(request, "limit", 100),
            kinds=request.query_params.getlist("kind"),
            newest_first=read_flag(request, "newest_first"),
        )

    async def events(self, request: Request, who: Principal) -> Any:
        _, entity = self._entity(request)
        return await self._streams.begin(request, entity)

    async def state(self, request: Request, who: Principal) -> Any:
        _, entity = self._entity(request)
        version = read_number(request, "version", -1)
        return await state_json(entity, None if version < 0 else version)

    async def diff(self, request: Request, who: Principal) -> Any:
        _, entity = self._entity(request)
        return {"changes": await diff(entity, read_number(request, "from"), read_number(request, "to"))}

    async def export(self, request: Request, who: Principal) -> Any:
        _, entity = self._entity(request)
        return await export_entity(entity)

    async def fork(self, request: Request, who: Principal) -> Any:
        definition, entity = self._entity(request)
        body = await self._body(request, ForkBody)
        await permit(request, self._settings, Right.OPERATE, definition.name, WHOLE, body.new_key)
        origin = definition.cls.ref(entity.key)
        await fork(origin, body.version, body.new_key, reason=body.reason, operator=operator_of(who, body.operator))
        return {"type": definition.name, "key": body.new_key}

    async def edit(self, request: Request, who: Principal) -> Any:
        _, entity = self._entity(request)
        body = await self._body(request, EditBody)
        version = await edit(
            entity,
            {name: msgspec.json.decode(value) for name, value in body.fields.items()},
            expected_version=body.expected_version,
            reason=body.reason,
            operator=operator_of(who, body.operator),
            idempotency_key=read_idempotency_key(request),
        )
        return {"version": version}

    async def replay(self, request: Request, who: Principal) -> Any:
        _, entity = self._entity(request)
        body = await self._body(request, LetterBody)
        message_id = await replay_dead_letter(
            entity, body.message_id, reason=body.reason, operator=operator_of(who, body.operator)
        )
        return {"message_id": message_id}

    async def discard(self, request: Request, who: Principal) -> Any:
        _, entity = self._entity(request)
        body = await self._body(request, LetterBody)
        await discard_dead_letter(entity, body.message_id, reason=body.reason, operator=operator_of(who, body.operator))
        return {"discarded": body.message_id}

    async def letters(self, request: Request, who: Principal) -> Any:
        type_name, key, since = (read_text(request, name) for name in ("type", "key", "since"))
        if key is not None and type_name is None:
            raise wrong("key", "`key` needs a `type`")
        namespace = self._settings.namespace
        listing = [namespace, "dead letters", f"type={type_name}", f"key={key}", f"since={since}"]
        page = await dead_letters(
            EntityId(type_name, key) if type_name is not None and key is not None else None,
            type=type_name,
            since=None if since is None else read_time("since", since),
            after=unwrap(read_text(request, "after"), listing),
            limit=read_number(request, "limit", 100),
        )
        return {"letters": page.letters, "next": wrap(page.next, listing)}

    async def _body(self, request: Request, shape: type[Body]) -> Body:
        data = await read_json(request, self._settings)
        try:
            return msgspec.json.decode(data, type=shape)
        except msgspec.DecodeError as error:
            raise wrong("body", str(error)[:300]) from None
