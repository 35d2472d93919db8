"""The end of a gateway as whoever is in front of it sees it.

While it drains it serves as always, and says that it will go: `/readyz` answers 503, so that a balancer sends nothing
new, and every answer carries `Connection: close`, so that no kept connection is left on which a request could meet the
end. HTTP/1.1 has no other way: a server that closes an idle connection cannot know whether a request is on its way.
"""

import asyncio
from collections.abc import Awaitable

from starlette.types import Message, Scope, Send

DRAINING = "draining"
"""Under which the server (serve.py) leaves in `scope["perdure"]` an event that is set once it drains."""
_CLOSE = (b"connection", b"close")


def is_draining(scope: Scope) -> bool:
    """Whether the server that has this request is about to end; False where it does not say (another ASGI server)."""
    event: asyncio.Event | None = scope.get("perdure", {}).get(DRAINING)
    return event is not None and event.is_set()


def closing(send: Send, draining: asyncio.Event) -> Send:
    """`send`, whose answers end their connection if they begin while the server drains."""

    def told(message: Message) -> Awaitable[None]:
        if draining.is_set() and message["type"] == "http.response.start":
            others = [header for header in message.get("headers", ()) if header[0].lower() != b"connection"]
            message = {**message, "headers": [*others, _CLOSE]}
        return send(message)

    return told
