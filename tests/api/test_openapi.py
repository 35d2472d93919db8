"""The description of the HTTP interface is valid, complete, and made of the classes' own types."""

from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from fastapi import FastAPI
from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from perdure.api import Settings, create_app, entity_router
from perdure.entities import Entity, InvalidKey, handler
from perdure.entities.ids import check_key

from .shop import Order


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    app = FastAPI()
    app.include_router(entity_router(Order), prefix="/orders")
    return app.openapi()


def walk(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for child in node.values():
            yield from walk(child)
    elif isinstance(node, list):
        for child in node:
            yield from walk(child)


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def resolve(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        target: Any = document
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        schema = target
    return schema


def body_of(document: dict[str, Any], path: str) -> dict[str, Any]:
    return resolve(document, document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"])


def result_of(document: dict[str, Any], path: str, method: str = "post", status: str = "200") -> dict[str, Any]:
    content = document["paths"][path][method]["responses"][status]["content"]
    return resolve(document, content["application/json"]["schema"])


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    references = [node for node in walk(document) if isinstance(node.get("$ref"), str)]
    assert references
    for reference in references:
        resolve(document, reference)


def test_every_schema_is_json_schema(document: dict[str, Any]) -> None:
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    for node in walk(document["paths"]):
        if isinstance(node.get("schema"), dict):
            jsonschema.Draft202012Validator.check_schema(node["schema"])


def test_operation_ids_are_unique_and_path_parameters_declared(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(ids) == len(set(ids))
    for path, _, operation in operations(document):
        declared = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
        assert declared == {"key"}, path
        assert "convertor" not in path
        names = [(p["in"], p["name"]) for p in operation["parameters"]]
        assert len(names) == len(set(names))
        assert "application/problem+json" in operation["responses"]["default"]["content"]


def test_every_member_has_its_routes(document: dict[str, Any]) -> None:
    found = {(method, path.removeprefix("/orders/{key}/")) for path, method, _ in operations(document)}
    assert found == {
        ("post", "pick_up"),
        ("post", "add"),
        ("get", "state"),
        ("post", "state"),
        ("get", "find"),
        ("post", "find"),
        ("get", "wait_for"),
        ("post", "wait_for"),
        ("post", "like"),
        ("post", "run/start"),
        ("get", "run/result"),
        ("post", "run/cancel"),
        ("post", "run/terminate"),
        ("get", "run/operations"),
        ("post", "run/pause"),
        ("post", "run/resume"),
        ("post", "run/retry"),
        ("post", "run/complete"),
        ("post", "run/fail"),
        ("post", "run/restart"),
        ("post", "run/rerun"),
        ("post", "decision"),
        ("post", "note"),
    }


def test_arguments_are_described_with_their_types_and_defaults(document: dict[str, Any]) -> None:
    body = body_of(document, "/orders/{key}/add")
    assert body["required"] == ["item"]
    assert body["additionalProperties"] is False
    assert body["properties"]["times"] == {"type": "integer", "default": 1, "title": "Times"}
    item = resolve(document, body["properties"]["item"])
    assert item["properties"]["name"]["type"] == "string"
    assert item["required"] == ["name"]
    validator = jsonschema.Draft202012Validator(document | body)
    assert validator.is_valid({"item": {"name": "x", "parts": [{"name": "y"}]}, "times": 2})
    assert not validator.is_valid({"item": {"name": 5}})
    assert not validator.is_valid({"item": {"name": "x"}, "extra": 1})


def test_results_are_described_with_their_types(document: dict[str, Any]) -> None:
    assert set(result_of(document, "/orders/{key}/add")["properties"]) == {"total", "items"}
    assert result_of(document, "/orders/{key}/pick_up")["type"] == "null"
    assert result_of(document, "/orders/{key}/state", "get")["type"] == "string"
    assert result_of(document, "/orders/{key}/run/result", "get")["type"] == "string"
    assert set(result_of(document, "/orders/{key}/run/start", status="202")["properties"]) == {"run_id"}


def test_arguments_of_queries_are_parameters(document: dict[str, Any]) -> None:
    operation = document["paths"]["/orders/{key}/find"]["get"]
    assert "requestBody" not in operation
    parameters = {p["name"]: p for p in operation["parameters"] if p["in"] == "query"}
    assert parameters["size"]["required"] is True
    assert parameters["size"]["schema"]["enum"] == ["small", "large"]
    assert parameters["since"]["required"] is False
    assert "timeout" in parameters


def test_handlers_without_parameters_need_no_body(document: dict[str, Any]) -> None:
    assert "requestBody" not in document["paths"]["/orders/{key}/pick_up"]["post"]
    assert "requestBody" not in document["paths"]["/orders/{key}/run/cancel"]["post"]
    assert document["paths"]["/orders/{key}/run/start"]["post"]["requestBody"]["required"] is True
    assert document["paths"]["/orders/{key}/run/terminate"]["post"]["requestBody"].get("required", False) is False


def test_docstrings_and_tags_are_there(document: dict[str, Any]) -> None:
    operation = document["paths"]["/orders/{key}/pick_up"]["post"]
    assert (operation["description"], operation["tags"]) == ("Take it.", ["Order"])


class Odd:
    """Validates, but cannot be described."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            lambda value: value, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )


class Strange(Entity):
    @handler
    async def take(self, odd: Odd) -> Odd:
        return odd


def test_a_type_that_cannot_be_described_does_not_break_the_document() -> None:
    app = FastAPI()
    app.include_router(entity_router(Strange))
    assert app.openapi()["paths"]["/{key}/take"]["post"]["requestBody"]


def test_the_gateway_describes_each_type(app: FastAPI) -> None:
    paths = app.openapi()["paths"]
    assert {"/entities/Order/{key}/add", "/entities/Customer/{key}/ordered", "/livez", "/readyz"} <= paths.keys()
    assert not any("{type}/{key}/{member}" in path for path in paths)


def test_the_gateway_says_where_a_key_is_needed() -> None:
    settings = Settings(api_keys="a-key-of-sixteen-or-more")  # type: ignore[arg-type]
    document = create_app([Order], settings=settings).openapi()
    assert document["security"] == [{"ApiKey": []}]
    assert document["components"]["securitySchemes"]["ApiKey"]["scheme"] == "bearer"
    is_open = {path for path, _, operation in operations(document) if operation.get("security") == []}
    assert is_open == {"/livez", "/readyz"}


def test_without_keys_it_says_nothing_of_them(app: FastAPI) -> None:
    assert "security" not in app.openapi()


@pytest.mark.parametrize("key", ["a", " a", "a/b", ".a", "a b ", "☃", "é" * 256])
def test_the_pattern_of_keys_allows_what_the_gateway_does(document: dict[str, Any], key: str) -> None:
    assert jsonschema.Draft202012Validator(key_schema(document)).is_valid(key)
    assert check_key("Order", key) == key


@pytest.mark.parametrize("key", ["", " ", "\u2003", "a\nb", "\x00", "\x7f", "\x85", "x" * 513])
def test_the_pattern_of_keys_refuses_what_the_gateway_does(document: dict[str, Any], key: str) -> None:
    assert not jsonschema.Draft202012Validator(key_schema(document)).is_valid(key)
    with pytest.raises(InvalidKey):
        check_key("Order", key)


def key_schema(document: dict[str, Any]) -> dict[str, Any]:
    (key,) = (p for p in document["paths"]["/orders/{key}/pick_up"]["post"]["parameters"] if p["name"] == "key")
    schema: dict[str, Any] = key["schema"]
    return schema
