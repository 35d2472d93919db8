"""The endpoints of operators' routes: permission, the caller of this application, errors as problems, JSON."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import msgspec
from fastapi import Request, Response
from pydantic import BaseModel

from ..entities.client import use
from ..entities.errors import NotConnected, PerdureError
from .authorise import permit, permit_of
from .exchange import caller_of
from .principal import ANY, WHOLE, Principal, Right
from .problems import Refused, problem
from .settings import Settings

_HEADERS = {"Cache-Control": "no-store"}

Work = Callable[[Request, Principal], Awaitable[Any]]
"""What a route does; returns a model, a struct, JSON as bytes, or a whole response."""


def answering(work: Work, right: Right | None, settings: Settings) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint of a route: who asks may do it (of the type and key that the request names), then `work`.

    right: None where `work` decides itself who may.
    """

    async def answer(request: Request) -> Response:
        given = request.path_params if "type" in request.path_params else request.query_params
        try:
            type_name, key = given.get("type", ANY), given.get("key", "")
            if right is None:
                who = permit_of(request, settings).principal
            else:
                who = await permit(request, settings, right, type_name, WHOLE, key)
            with caller_bound(request):
                body = await work(request, who)
        except (PerdureError, Refused) as error:
            return problem(error, request)
        if isinstance(body, Response):
            return body
        if isinstance(body, BaseModel):
            body = body.model_dump_json(by_alias=True).encode()
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        return Response(data, headers=_HEADERS, media_type="application/json")

    answer.__name__ = f"operator_{getattr(work, '__name__', '')}"
    return answer


def caller_bound(request: Request) -> AbstractContextManager[None]:
    """This application's caller, should several live in the process. What is wrong anyway is told without any."""
    try:
        return use(caller_of(request))
    except NotConnected:
        return nullcontext()
