"""Looking at a whole namespace over HTTP: what needs a person, types, hosts, lists over all types, the audit.

Answered from the database alone, so all of it works while no host, or no Ray, is alive. What it costs does not grow
with the number of entities (see entities/store/survey.py). Whoever asks needs the right `read` of all types, or of the
one that the request names.
"""

import json
from collections.abc import Callable
from typing import Any, TypeVar, get_args

from fastapi import APIRouter, Request
from pydantic import TypeAdapter
from starlette.routing import BaseRoute

from ..cluster.settings import ClusterSettings
from ..cluster.targets import Targets
from ..entities.archive import ambient_survey
from ..entities.definition import EntityDefinition, Registry
from ..entities.mailbox import Mailbox
from ..entities.recurrence import from_us
from ..entities.schedules import Schedule
from ..entities.search import find
from ..entities.store.survey import LATE_US, AuditCursor, Audited, DueCursor, Survey, Tally
from . import overview_rows as rows
from .answering import answering
from .archive_openapi import AFTER, LIMIT, asked, described
from .cursors import unwrap, wrap
from .overview_schemas import (
    Audit,
    AuditRow,
    Entities,
    EntityRow,
    EntityStatus,
    Hosts,
    MemberDescription,
    Overview,
    Reminders,
    Schedules,
    SchemaVersion,
    TypeDescription,
    Types,
)
from .parameters import check_size, plain_text, read_instant, read_limit, read_text, wrong
from .principal import Principal, Right
from .requests import read_flag
from .settings import Settings

ATTENTION_SHOWN = 10
"""Of each kind."""
HOUR_US = 3_600_000_000
AUDIT_EXAMINE_MAX = 1_000
"""Rows of the audit that one page looks at if there are conditions that the database does not know."""
STATUSES = get_args(EntityStatus)

T = TypeVar("T")

_OF_TYPE = asked("type", "string", "Of this class.")
_SINCE = asked("since", "string", "At this time or later.", format="date-time")
_UNTIL = asked("until", "string", "At this time or earlier.", format="date-time")
_ENTITIES = [
    _OF_TYPE,
    asked("prefix", "string", "Whose key begins so."),
    asked("status", "string", "In this status.", enum=list(STATUSES)),
    asked("waiting", "string", "Whose run waits for something of which this text is a part."),
    asked("since", "string", "Changed at this time or later.", format="date-time"),
    LIMIT,
    AFTER,
]
_REMINDERS = [
    asked("late", "boolean", "Only those that are due for more than a minute."),
    _OF_TYPE,
    asked("kind", "string", "Of this kind.", enum=["reminder", "timer", "message"]),
    LIMIT,
    AFTER,
]
_AUDIT = [
    _OF_TYPE,
    asked("key", "string", "Of this one of them."),
    asked("operator", "string", "By this operator."),
    asked("action", "string", "Only this action."),
    _SINCE,
    _UNTIL,
    LIMIT,
    AFTER,
]


def overview_routes(registry: Registry, *, settings: Settings) -> list[BaseRoute]:
    """The routes, for an application that is guarded elsewhere."""
    router = APIRouter(redirect_slashes=False)
    views = _Views(registry, settings)
    for path, work, summary, parameters, model in (
        ("/overview", views.overview, "What needs a person, and how it goes", [], Overview),
        ("/types", views.types, "Classes of entities, and what is stored of each", [], Types),
        ("/hosts", views.hosts, "Hosts and their shards", [], Hosts),
        ("/all-entities", views.entities, "Entities of all types", _ENTITIES, Entities),
        ("/reminders", views.reminders, "What is due", _REMINDERS, Reminders),
        ("/schedules", views.schedules, "What runs by the clock", [LIMIT, AFTER], Schedules),
        ("/audit", views.audit, "What operators did", _AUDIT, Audit),
    ):
        endpoint = answering(work, Right.READ, settings)
        router.add_api_route(
            path, endpoint, methods=["GET"], summary=summary, tags=["overview"], response_model=model,
            **described(parameters),
        )  # fmt: skip
    return list(router.routes)


class _Views:
    """One method per route."""

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self._registry = registry
        self._settings = settings

    async def overview(self, request: Request, who: Principal) -> Overview:
        survey = ambient_survey()
        found = await survey.troubles(limit=ATTENTION_SHOWN)
        hosts = await survey.hosts()
        minutes = await survey.minutes(since_us=found.at_us - HOUR_US)
        names = await self._type_names(survey)
        tallies = await survey.tally(names)
        attention, counts = rows.attention_of(found)
        return Overview(
            namespace=self._settings.namespace,
            at=from_us(found.at_us),
            attention=attention,
            attention_counts=counts,
            types=[rows.type_counts(name, tallies[name], is_served=self._is_served(name)) for name in names],
            decisions_open=rows.count_of(found.decisions),
            hosts=rows.host_counts(hosts),
            last_hour=rows.throughput_of(minutes),
        )

    def _is_served(self, name: str) -> bool:
        return self._registry.find(name) is not None

    async def _type_names(self, survey: Survey) -> list[str]:
        return sorted({*await survey.types(), *(definition.name for definition in self._registry)})

    async def types(self, request: Request, who: Principal) -> Types:
        survey = ambient_survey()
        names = sorted({*await self._type_names(survey), *(one.name for one in self._registry.built_in())})
        views, versions = await survey.views(), await survey.versions(names)
        return Types(types=[self._type(name, versions[name], views.get(name)) for name in names])

    def _type(self, name: str, versions: dict[int, Tally], view: str | None) -> TypeDescription:
        definition = self._registry.find(name)
        old = [tally for version, tally in versions.items() if definition is None or version < definition.version]
        return TypeDescription(
            type=name,
            is_served=definition is not None,
            is_built_in=any(one.name == name for one in self._registry.built_in()),
            description=_doc_of(definition.cls) if definition is not None else None,
            version=definition.version if definition is not None else None,
            entities=rows.count_of(_sum(list(versions.values()))),
            versions=[SchemaVersion(version=version, entities=rows.count_of(n)) for version, n in versions.items()],
            pending_upgrades=rows.count_of(_sum(old if definition is not None else [])),
            indexed=list(definition.index) if definition is not None else [],
            view=view,
            members=_members_of(definition) if definition is not None else [],
            state=definition.cls.model_json_schema(mode="serialization") if definition is not None else None,
        )

    async def hosts(self, request: Request, who: Principal) -> Hosts:
        found = await ambient_survey().hosts()
        targets = Targets.from_json(found.targets)
        lease_s = (targets.settings if targets is not None else ClusterSettings()).lease_s
        shown = [rows.host_of(one, found.at_us, lease_s=lease_s) for one in found.hosts]
        shown.sort(key=lambda host: (host.gone_at is not None, host.id))
        counts = rows.host_counts(found)
        return Hosts(
            at=from_us(found.at_us),
            hosts=shown,
            hosts_wanted=targets.hosts if targets is not None else None,
            shards=counts.shards,
            shards_without_host=counts.shards_without_host,
        )

    async def entities(self, request: Request, who: Principal) -> Entities:
        check_size(request)
        conditions = {name: plain_text(request, name) for name in ("type", "prefix", "status", "waiting", "since")}
        if conditions["status"] not in ("", *STATUSES):
            raise wrong("status", f"status is one of {', '.join(STATUSES)}, not {conditions['status'][:40]!r}")
        since_us = read_instant(request, "since")
        limit = read_limit(request)
        listing = self._listing("entities", conditions)
        cursor = _position(request, listing, tuple[str, str])
        survey = ambient_survey()
        names = [conditions["type"]] if conditions["type"] else await survey.types()
        after_type, after_key = cursor or ("", "")
        found: list[EntityRow] = []
        following: list[str] | None = None
        examined = 0
        for name in names:
            if name < after_type:
                continue
            page = await survey.entities(
                name,
                prefix=conditions["prefix"],
                status=conditions["status"],
                waiting=conditions["waiting"],
                since_us=since_us,
                after=after_key if name == after_type and after_key else None,
                limit=limit - len(found),
            )
            found += map(rows.entity_row, page.rows)
            examined += page.examined
            if page.next is not None:
                following = [name, page.next]
                break
            if len(found) >= limit:
                later = [other for other in names if other > name]
                following = [later[0], ""] if later else None
                break
        return Entities(entities=found, next=_wrapped(following, listing), examined=examined)

    async def reminders(self, request: Request, who: Principal) -> Reminders:
        is_late = read_flag(request, "late")
        conditions = {name: plain_text(request, name) for name in ("type", "kind")}
        if conditions["kind"] not in ("", "reminder", "timer", "message"):
            raise wrong("kind", f"kind is reminder, timer or message, not {conditions['kind'][:40]!r}")
        listing = self._listing("reminders", conditions | {"late": str(is_late)})
        cursor = _position(request, listing, tuple[int, str, str, str])
        survey = ambient_survey()
        until_us = (await survey.hosts()).at_us - LATE_US if is_late else 0
        page = await survey.due(
            until_us=until_us,
            type=conditions["type"],
            kind=conditions["kind"],
            after=DueCursor(*cursor) if cursor else None,
            limit=read_limit(request),
        )
        return Reminders(
            at=from_us(page.at_us),
            reminders=[rows.reminder_row(row, page.at_us) for row in page.rows],
            next=_wrapped(page.next, listing),
        )

    async def schedules(self, request: Request, who: Principal) -> Schedules:
        listing = self._listing("schedules", {})
        after = unwrap(read_text(request, "after"), listing)
        found = await find(Schedule, limit=read_limit(request), after=after)
        now_us = (await ambient_survey().hosts()).at_us
        shown = [rows.schedule_row(match, now_us) for match in found.matches]
        return Schedules(schedules=[row for row in shown if row is not None], next=wrap(found.next, listing))

    async def audit(self, request: Request, who: Principal) -> Audit:
        check_size(request)
        names = ("type", "key", "operator", "action", "since", "until")
        conditions = {name: plain_text(request, name) for name in names}
        if conditions["key"] and not conditions["type"]:
            raise wrong("key", "`key` needs a `type`")
        listing = self._listing("audit", conditions)
        cursor = _position(request, listing, tuple[int, str, str, str])
        after = AuditCursor(*cursor) if cursor else None
        since_us, until_us, limit = read_instant(request, "since"), read_instant(request, "until"), read_limit(request)
        actions: list[AuditRow] = []
        examined = 0
        while True:
            wanted = AUDIT_EXAMINE_MAX if conditions["operator"] or conditions["action"] else limit + 1
            page = await ambient_survey().audit(
                type=conditions["type"],
                key=conditions["key"],
                since_us=since_us,
                until_us=until_us,
                after=after,
                limit=wanted,
            )
            for one in page:
                row = rows.audit_row(one)
                if conditions["operator"] in ("", row.operator) and conditions["action"] in ("", row.action):
                    if len(actions) == limit:
                        return Audit(actions=actions, next=_wrapped(after, listing))
                    actions.append(row)
                after = _place_of(one)
            examined += len(page)
            if len(page) < wanted:
                return Audit(actions=actions, next=None)
            if examined >= AUDIT_EXAMINE_MAX:
                return Audit(actions=actions, next=_wrapped(after, listing))

    def _listing(self, name: str, conditions: dict[str, str]) -> list[str]:
        given = (f"{condition}={value}" for condition, value in conditions.items())
        return [self._settings.namespace, name, *given]


def _place_of(one: Audited) -> AuditCursor:
    return AuditCursor(one.at_us, *one.entity, one.row.message_id)


def _sum(tallies: list[Tally]) -> Tally:
    return Tally(sum(tally.value for tally in tallies), all(tally.is_exact for tally in tallies))


# --- Parameters -------------------------------------------------------------------------------------------------------


def _position(request: Request, listing: list[str], shape: type[T]) -> T | None:
    position = unwrap(read_text(request, "after"), listing)
    return None if position is None else TypeAdapter(shape).validate_json(position)


def _wrapped(position: object, listing: list[str]) -> str | None:
    return None if position is None else wrap(json.dumps(position), listing)


# --- Types ------------------------------------------------------------------------------------------------------------


def _doc_of(cls: type) -> str | None:
    return cls.__doc__.strip() if cls.__doc__ else None


def _members_of(definition: EntityDefinition) -> list[MemberDescription]:
    kinds: tuple[tuple[Any, dict[str, Any]], ...] = (
        ("handler", definition.handlers),
        ("query", definition.queries),
        ("workflow", definition.workflows),
        ("mailbox", definition.mailboxes),
    )
    return [_member_of(name, kind, member) for kind, members in kinds for name, member in sorted(members.items())]


def _member_of(name: str, kind: Any, member: Any) -> MemberDescription:
    if isinstance(member, Mailbox):
        arguments, result = _schema(member.adapter.json_schema), None
        description = None
    else:
        both = _schema(member.signature.json_schema)
        arguments, result = both if both is not None else (None, None)
        description = _doc_of(member.fn)
    return MemberDescription(
        name=name, kind=kind, description=description, is_private=member.is_private, arguments=arguments, result=result
    )


def _schema(make: Callable[[], T]) -> T | None:
    try:
        return make()
    except Exception:  # noqa: BLE001 - some custom types only validate
        return None
