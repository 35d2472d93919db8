"""An application that lives on an event loop of its own, for callers on other loops (Schemathesis brings one)."""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Generator, MutableMapping
from typing import Any, TypeVar

from starlette.types import ASGIApp, Receive, Scope, Send

T = TypeVar("T")
Message = MutableMapping[str, Any]


@contextlib.contextmanager
def loop_in_a_thread() -> Generator[asyncio.AbstractEventLoop]:
    """A running event loop, ended and closed at the end."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def on(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T], *, timeout_s: float = 30.0) -> T:
    """The result of a coroutine that runs on `loop`."""
    return asyncio.run_coroutine_threadsafe(work, loop).result(timeout_s)


class Bridge:
    """The application without its lifespan: whoever tests it has opened its world."""

    def __init__(self, app: ASGIApp, loop: asyncio.AbstractEventLoop) -> None:
        self._app = app
        self._loop = loop
        self.requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])  # before any message: ASGI's word for "I have no lifespan"
        self.requests += 1
        body = bytearray()
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        there = asyncio.run_coroutine_threadsafe(self._ask(scope, bytes(body)), self._loop)
        for answer in await asyncio.wrap_future(there):
            await send(answer)

    async def _ask(self, scope: Scope, body: bytes) -> list[Message]:
        incoming: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        answers: list[Message] = []

        async def receive() -> Message:
            if not incoming:
                await asyncio.Event().wait()
            return incoming.pop()

        async def send(message: Message) -> None:
            answers.append(message)

        with contextlib.suppress(Exception):  # the application has answered 500 and tells the server why
            await self._app(scope, receive, send)
        return answers or [
            {"type": "http.response.start", "status": 599, "headers": []},
            {"type": "http.response.body"},
        ]
