"""A caller that remembers what it was given and answers what it is told."""

import asyncio
from collections.abc import Callable, MutableMapping
from typing import Any
from urllib.parse import unquote

from perdure.entities.errors import PerdureError, error_body
from perdure.entities.messages import Envelope, Kind, Reply, Status, encode_json


class FakeCaller:
    session = "client-fake"
    default_timeout_s = 30.0

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []
        self.timeouts_s: list[float] = []
        self.answer: Callable[[Envelope], Reply] = self.success
        self.body = b"null"
        self.version = 7
        self.hangs = False

    @property
    def envelope(self) -> Envelope:
        (only,) = self.envelopes
        return only

    async def request(self, envelope: Envelope, *, timeout_s: float) -> Reply:
        self.envelopes.append(envelope)
        self.timeouts_s.append(timeout_s)
        if self.hangs:
            await asyncio.Event().wait()
        return self.answer(envelope)

    def success(self, envelope: Envelope) -> Reply:
        match envelope.kind:
            case Kind.SEND | Kind.SIGNAL | Kind.CANCEL | Kind.TERMINATE:
                return Reply(envelope.id, Status.ACCEPTED, b"null", self.version)
            case Kind.START:
                return Reply(envelope.id, Status.OK, b'"run-1"', self.version)
            case _:
                return Reply(envelope.id, Status.OK, self.body, self.version)

    def fail(self, error: Exception, *, status: Status = Status.ERROR) -> None:
        """Answer with this error from now on."""
        body = encode_json(error_body(error))
        self.answer = lambda envelope: Reply(envelope.id, status, body, self.version)

    def refuse(self, error: PerdureError) -> None:
        """Raise this error from now on, as a router does."""

        def answer(_: Envelope) -> Reply:
            raise error

        self.answer = answer


async def asgi(app: Any, method: str, raw_path: str) -> int:
    """The status of a request whose path reaches the application exactly so."""
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope = {
        "type": "http",
        "method": method,
        "path": unquote(raw_path),
        "raw_path": raw_path.encode(),
        "root_path": "",
        "scheme": "http",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1")],
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 1),
        "http_version": "1.1",
    }
    await app(scope, receive, send)
    return statuses[0]
