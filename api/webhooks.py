"""Webhooks in: checked, and delivered to an entity once, however often the provider sends them while it is remembered.

The provider's id of the event is the idempotency key of the message, so a redelivery is the same message (promise P1)
for as long as outcomes are kept (24 h by default, `history_retention_s`); one that comes later is applied again. And
and the answer is given only once the message is durable: a provider that got none sends again. A failure to deliver
(no host, a full mailbox) is answered with its problem, which providers take as "later".
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response
from fastapi.params import Depends

from ..entities.descriptors import BoundHandler, BoundWorkflow
from ..entities.errors import IdempotencyMismatch, PerdureError
from ..entities.mailbox import BoundMailbox
from ..entities.messages import encode_json
from .answering import caller_bound
from .problems import PROBLEM, Refused, problem
from .requests import read_body
from .settings import Settings
from .strict_json import check_json
from .webhook_signatures import WebhookScheme

logger = logging.getLogger(__name__)

Recipient = BoundHandler[..., Any] | BoundWorkflow[..., Any] | BoundMailbox[Any]
"""What takes an event: a handler, a workflow that it starts, or a mailbox, of one entity."""


@dataclass(frozen=True, kw_only=True)
class WebhookEvent:
    """An event whose signature is right."""

    id: str
    """The provider's: the same at each redelivery. Pass it as idempotency key."""
    body: bytes = field(repr=False)
    """As it came, and as it was signed."""
    headers: Mapping[str, str] = field(repr=False)

    def json(self) -> Any:
        """The body as JSON. Raises Refused (400) if it is none, or none that can be stored."""
        check_json(self.body)
        return msgspec.json.decode(self.body)


def webhook(scheme: WebhookScheme, *, settings: Settings | None = None) -> Callable[[Request], Awaitable[WebhookEvent]]:
    """A FastAPI dependency: the event, if its signature is right.

    ```python
    stripe = webhook(StripeSignature(secrets))

    @app.post("/webhooks/stripe")
    async def paid(event: Annotated[WebhookEvent, Depends(stripe)]) -> None:
        await Order.ref(...).paid.options(idempotency_key=event.id).send(...)
    ```

    settings: limits of size and time of the body. Needs `perdure.api.install(app)`, which answers what it raises:
    Refused (400, 401, 408, 413). The route must have no body parameter of its own.
    """
    limits = settings or Settings()

    async def receive(request: Request) -> WebhookEvent:
        body = await read_body(request, limits)
        return WebhookEvent(id=scheme.verify(request.headers, body), body=body, headers=request.headers)

    return receive


def webhook_router(
    path: str,
    scheme: WebhookScheme,
    to: Callable[[WebhookEvent], Recipient | None],
    *,
    payload: Callable[[WebhookEvent], Any] = WebhookEvent.json,
    settings: Settings | None = None,
    tags: Sequence[str | Enum] | None = None,
    dependencies: Sequence[Depends] | None = None,
    include_in_schema: bool = True,
) -> APIRouter:
    """A router with one route, `POST path`, that delivers each event to an entity, once while it is remembered.

    to: who gets it, such as `lambda event: Order.ref(event.json()["order"]).paid`; None: nobody (answered 200, so that
    the provider does not send it again). payload: the argument that the handler or workflow gets, or the item for the
    mailbox; the whole JSON by default. Repeats are known by the event's id for as long as outcomes are kept (24 h by
    default); a workflow of an entity whose key is the event's id is remembered as long as the entity.

    Answers 202 once the message is durable; errors are problems, whether or not `install(app)` was called.
    """
    receive = webhook(scheme, settings=settings)
    router = APIRouter(
        tags=None if tags is None else list(tags), dependencies=None if dependencies is None else list(dependencies)
    )

    async def deliver(request: Request) -> Response:
        try:
            event = await receive(request)
            recipient = to(event)
            if recipient is None:
                return _told(200, event, accepted=False)
            with caller_bound(request):
                is_new = await _send(recipient, payload(event), event.id)
        except (PerdureError, Refused) as error:
            return problem(error, request)
        return _told(202 if is_new else 200, event, accepted=True)

    router.add_api_route(
        path,
        deliver,
        methods=["POST"],
        summary="Webhook",
        include_in_schema=include_in_schema,
        responses={202: {"description": "The event is durable."}, "default": PROBLEM},
        openapi_extra={
            "requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}
        },
    )
    return router


async def _send(recipient: Recipient, payload: Any, key: str) -> bool:
    """Whether it was sent; False: an event of this id was, with another payload, and that one counts.

    It is signed and names an event that is known: providers change counters in what they send again.
    """
    options = replace(recipient.options_, idempotency_key=key)
    try:
        match recipient:
            case BoundHandler():
                await BoundHandler(recipient.method, recipient.target, options).send(payload)
            case BoundWorkflow():
                await BoundWorkflow(recipient.method, recipient.target, options).start(payload)
            case _:
                await BoundMailbox(recipient.mailbox, recipient.target, options).send(payload)
    except IdempotencyMismatch as mismatch:
        logger.info("a webhook came again with another body: %s", mismatch)
        return False
    return True


def _told(status: int, event: WebhookEvent, *, accepted: bool) -> Response:
    return Response(encode_json({"accepted": accepted, "id": event.id}), status, media_type="application/json")
