"""Routes of entities: `entity_router` for one class, `gateway_router` for all of them.

A key is one segment of the path, percent-encoded: `%2F` reaches the entity as `/` and never as a separator. Servers
decode a path before they route it, which would make `a%2Fb/run` and `a/b/run` one path; `EntityRoute` therefore
routes by the path as it was sent wherever that makes a difference.
"""

import inspect
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from enum import Enum
from typing import Annotated, Any
from urllib.parse import quote, unquote_to_bytes

from fastapi import APIRouter, Body, Request, Response
from fastapi.params import Depends
from fastapi.routing import APIRoute
from pydantic import SkipValidation
from starlette.convertors import Convertor, register_url_convertor
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope

from ..entities.definition import EntityDefinition, Registry
from ..entities.entity import Entity
from ..entities.errors import PerdureError
from ..entities.ids import KEY_BYTES_MAX
from .archive_openapi import TYPE, described
from .authorise import permit, permit_of
from .exchange import answer
from .openapi import KEY, documentation, documented_body
from .operations import Operation, Operations, find_type, right_for
from .principal import Asked
from .problems import Refused, instance, problem
from .settings import Settings

ENTITIES = "/entities"
_ENCODED_SLASH = "\x00"
"""Stands for a `%2F` while a path is routed. A real NUL stands for itself as another control character, which no key
may hold either."""
_MEMBER_PATHS = ("/{key:entity_key}/{member}", "/{key:entity_key}/{member}/{action}")
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]

Endpoint = Callable[..., Awaitable[Any]]


class _KeyConvertor(Convertor[str]):
    """One segment, also an empty one (which then gets its own clear error)."""

    regex = "[^/]*"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return quote(value, safe="")


class _MemberConvertor(_KeyConvertor):
    """A segment that names a member: below `-` there is what the gateway itself knows of an entity (archive.py)."""

    regex = "(?!-/)[^/]+"


register_url_convertor("entity_key", _KeyConvertor())
register_url_convertor("entity_member", _MemberConvertor())


class _BySegments(BaseRoute):
    """Matches the path as it was sent: an encoded slash is part of its segment."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        raw: bytes = scope.get("raw_path") or b""
        if scope["type"] != "http" or b"%" not in raw or (b"%2F" not in raw and b"%2f" not in raw):
            return super().matches(scope)
        match, child = super().matches({**scope, "path": _marked_path(raw)})
        if match is not Match.NONE:
            parameters = child["path_params"]
            child["path_params"] = {
                name: value.replace(_ENCODED_SLASH, "/") if isinstance(value, str) else value
                for name, value in parameters.items()
            }
        return match, child


class DirectRoute(_BySegments, Route):
    """A route without FastAPI's dependencies: half the cost of a request."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child = super().matches(scope)
        child["route"] = self  # as FastAPI's own do, for those who count requests by it
        return match, child


class EntityRoute(_BySegments, APIRoute):
    """A route of FastAPI, with its dependencies and its place in OpenAPI."""


def _member_route(operations: Operations) -> type[EntityRoute]:
    """The class of routes that take whatever `operations` has, and what no other route of the application takes.

    So a request finds its operation by a dictionary, not by trying one route after the other; unknown names get a clear
    error, but never in place of another route below the same prefix. (A class, because FastAPI may rebuild routes.)
    """

    class MemberRoute(EntityRoute):
        def matches(self, scope: Scope) -> tuple[Match, Scope]:
            match, child = super().matches(scope)
            if match is Match.FULL and not operations.has(_operation_path(child["path_params"]), scope["method"]):
                match = Match.PARTIAL
            return match, child

    return MemberRoute


def _operation_path(parameters: dict[str, str]) -> str:
    action = parameters.get("action")
    return parameters["member"] if action is None else f"{parameters['member']}/{action}"


def _marked_path(raw: bytes) -> str:
    segments = raw.split(b"/")
    return "/".join(
        unquote_to_bytes(segment).decode(errors="replace").replace("\x00", "\x01").replace("/", _ENCODED_SLASH)
        for segment in segments
    )


def path_key(request: Request, name: str = "key") -> str:
    """The key of the path. Raises Refused if it is not UTF-8: different bytes must not become one key."""
    key: str = request.path_params[name]
    if "\N{REPLACEMENT CHARACTER}" in key:
        raw: bytes = request.scope.get("raw_path") or b""
        try:
            unquote_to_bytes(raw).decode()
        except UnicodeDecodeError:
            raise Refused(400, "bad_encoding", "the path is not UTF-8 after percent-decoding") from None
    return key


def entity_router(
    cls: type[Entity],
    *,
    prefix: str = "",
    only: Collection[str] | None = None,
    tags: Sequence[str | Enum] | None = None,
    dependencies: Sequence[Depends] | None = None,
    settings: Settings | None = None,
    include_in_schema: bool = True,
) -> APIRouter:
    """A router with one route for everything that `cls` can do, described in OpenAPI with its own schemas.

    `only`: names of the members that it serves; none: all but the private ones. Raises UnknownHandler, DefinitionError.

    `app.include_router(entity_router(Order), prefix="/orders")`. Requests take one route whatever the number of
    handlers; the others are there to be described. Errors are answered as problems, whether or not
    `install(app)` was called. A name that the class does not have gets a problem that lists what it has, unless some
    other route of the application takes the path.
    """
    operations = Operations(EntityDefinition(cls), only)
    limits = settings or Settings()
    router = _router(prefix, [operations.definition.name] if tags is None else tags, dependencies)
    route_class = _member_route(operations)
    for path in _MEMBER_PATHS:
        route = route_class(
            router.prefix + path,
            _find_in(operations, limits),
            methods=_METHODS,
            include_in_schema=False,
            dependencies=router.dependencies,
        )
        router.routes.append(route)
    for operation in operations:
        router.add_api_route(
            "/{key:entity_key}/" + operation.path,
            _described(operation),
            methods=[operation.method],
            include_in_schema=include_in_schema,
            **documentation(operation),
        )
    return router


def gateway_router(
    entities: Registry | Iterable[type[Entity]],
    *,
    prefix: str = ENTITIES,
    dependencies: Sequence[Depends] | None = None,
    settings: Settings | None = None,
) -> APIRouter:
    """The same routes for every class, below `/entities/{type}`, and a description of each.

    Requests take one generic route, whatever the number of classes; the others are there to be described.
    """
    registry = entities if isinstance(entities, Registry) else Registry(entities)
    limits = settings or Settings()
    by_type = _operations(registry)
    router = _router(prefix, None, dependencies)
    dispatch = _dispatch(registry, by_type, limits)
    for path in _MEMBER_PATHS:
        router.add_api_route("/{type}" + path, dispatch, methods=_METHODS, include_in_schema=False)
    router.add_api_route(
        "",
        _describe_all(registry, by_type, limits),
        methods=["GET"],
        summary="Entity types",
        tags=["entities"],
        **described([]),
    )
    router.add_api_route(
        "/{type}/{key:entity_key}",
        _describe_one(registry, by_type, limits),
        methods=["GET"],
        summary="What an entity can do",
        tags=["entities"],
        **described([TYPE, KEY]),
    )
    for definition in registry:
        documented = entity_router(definition.cls, tags=[definition.name], settings=limits)
        router.include_router(documented, prefix=f"/{definition.name}")
    return router


def direct_routes(entities: Registry, *, prefix: str, settings: Settings) -> list[DirectRoute]:
    """The generic routes of `gateway_router` without FastAPI in between (that of members, that of their actions), to
    stand before all others in an application whose access is guarded elsewhere: most requests are for them, and each
    route that is tried first costs. Most of these requests do not even get here: shortcut.py.
    """
    dispatch = _dispatch(entities, _operations(entities), settings)
    paths = (path.replace("{member}", "{member:entity_member}") for path in _MEMBER_PATHS)
    return [DirectRoute(f"{prefix}/{{type}}{path}", dispatch, methods=_METHODS) for path in paths]


def _operations(registry: Registry) -> dict[str, Operations]:
    """Of every type, the built-in ones (schedules, events) included."""
    return {definition.name: Operations(definition) for definition in (*registry, *registry.built_in())}


def _dispatch(registry: Registry, by_type: dict[str, Operations], settings: Settings) -> Endpoint:
    async def dispatch(request: Request) -> Response:
        try:
            parameters = request.path_params
            await _permit(request, settings, parameters["type"], by_type.get(parameters["type"]))
            definition = find_type(registry, parameters["type"])
            operation = by_type[definition.name].find(_operation_path(parameters), request.method)
            key = path_key(request)
        except (PerdureError, Refused) as error:
            return problem(error, request)
        return await answer(request, operation, key, settings)

    return dispatch


async def _permit(request: Request, settings: Settings, type_name: str, operations: Operations | None) -> None:
    """Before anything is looked up: who may not, does not learn what there is. Raises Refused."""
    path, method = _operation_path(request.path_params), request.method
    right = right_for(path, method) if operations is None else operations.right_for(path, method)
    await permit(request, settings, right, type_name, path.partition("/")[0], request.path_params["key"])


def _router(prefix: str, tags: Sequence[str | Enum] | None, dependencies: Sequence[Depends] | None) -> APIRouter:
    return APIRouter(
        prefix=prefix,
        route_class=EntityRoute,
        tags=None if tags is None else list(tags),
        dependencies=None if dependencies is None else list(dependencies),
        redirect_slashes=False,
    )


def _described(operation: Operation) -> Endpoint:
    """A function whose signature is what OpenAPI is to say. It is never called: the route of all members is first."""

    async def described(request: Request, arguments: object = None) -> Response:
        raise AssertionError(f"{request.url.path} was not taken by the route of all members ({arguments!r})")

    parameters = [inspect.Parameter("request", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Request)]
    body: Any = documented_body(operation)
    if body is not None:
        annotation: Any = Annotated[body, SkipValidation, Body()]
        parameters.append(
            inspect.Parameter("arguments", inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=None)
        )
    described.__signature__ = inspect.Signature(parameters, return_annotation=Response)  # type: ignore[attr-defined]
    described.__name__ = f"{operation.definition.name}_{operation.path.replace('/', '_')}"
    return described


def _find_in(operations: Operations, settings: Settings) -> Endpoint:
    async def dispatch(request: Request) -> Response:
        try:
            await _permit(request, settings, operations.definition.name, operations)
            operation = operations.find(_operation_path(request.path_params), request.method)
            key = path_key(request)
        except (PerdureError, Refused) as error:
            return problem(error, request)
        return await answer(request, operation, key, settings)

    return dispatch


def _describe_all(registry: Registry, by_type: dict[str, Operations], settings: Settings) -> Endpoint:
    async def describe(request: Request) -> Any:
        try:
            found = permit_of(request, settings)
        except Refused as error:
            return problem(error, request)
        seen = [one for one in registry if found.principal.may_see(found.namespace, one.name)]
        return {"types": [_summary(definition, by_type[definition.name]) for definition in seen]}

    return describe


def _describe_one(registry: Registry, by_type: dict[str, Operations], settings: Settings) -> Endpoint:
    async def describe(request: Request) -> Any:
        type_name = request.path_params["type"]
        try:
            found = permit_of(request, settings)
            if not found.principal.may_see(found.namespace, type_name):
                raise Refused(403, "forbidden", f"{found.principal.name} has no grant for {type_name[:80]}")
            definition = find_type(registry, type_name)
            key = path_key(request)
        except (PerdureError, Refused) as error:
            return problem(error, request)
        here = instance(request).rpartition("/")[0] + "/" + quote(key, safe="")
        operations = [
            {
                "name": operation.name,
                "action": operation.action,
                "method": operation.method,
                "path": f"{here}/{operation.path}",
            }
            for operation in by_type[definition.name]
            if await found.allows(Asked(found.namespace, type_name, operation.name, key, operation.right))
        ]
        return _summary(definition, by_type[definition.name]) | {
            "key": key,
            "key_bytes_max": KEY_BYTES_MAX,
            "operations": operations,
        }

    return describe


def _summary(definition: EntityDefinition, operations: Operations) -> dict[str, Any]:
    served = operations.names
    return {
        "type": definition.name,
        "description": inspect.getdoc(definition.cls) if definition.cls.__doc__ else None,
        "handlers": [name for name in definition.handlers if name in served],
        "queries": [name for name in definition.queries if name in served],
        "workflows": [name for name in definition.workflows if name in served],
        "mailboxes": [name for name in definition.mailboxes if name in served],
        "state": definition.cls.model_json_schema(mode="serialization"),
    }
