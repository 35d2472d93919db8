"""Arguments of a query from the query string: text is read as the type that the signature declares."""

from typing import Any

from fastapi import Request
from pydantic import ValidationError

from ..entities.descriptors import Query
from ..entities.errors import InvalidArguments
from ..entities.signature import Signature, validation_problems
from .operations import Operation
from .schemas import from_strings, parameters

RESERVED = "timeout"
"""Not an argument, unless the query has one of that name itself."""


def takes_timeout(operation: Operation) -> bool:
    """Whether `timeout` is an argument of the query's own."""
    assert isinstance(operation.member, Query)
    return any(parameter.name == RESERVED for parameter in parameters(operation.member))


def arguments_of(operation: Operation, request: Request) -> bytes:
    """The arguments as a JSON object. Raises InvalidArguments."""
    query = operation.member
    assert isinstance(query, Query)
    signature: Signature = query.signature
    given = request.query_params
    if not given:
        return signature.dump_arguments((), {})
    values: dict[str, Any] = {}
    for name, value in given.multi_items():
        if name == RESERVED and not takes_timeout(operation):
            continue
        if name in values:
            raise InvalidArguments(f"{signature.label}: {name} is given twice", errors=[_twice(name)])
        values[name] = value
    try:
        arguments = from_strings(query).validate_strings(values)
    except ValidationError as error:
        problems = validation_problems(error)
        text = "; ".join(f"{problem['field']}: {problem['message']}" for problem in problems)
        raise InvalidArguments(f"{signature.label} was called with wrong arguments: {text}", errors=problems) from None
    return signature.dump_arguments((), arguments)


def _twice(name: str) -> dict[str, str]:
    return {"field": name, "message": "given twice"}
