"""Food delivery's outside services with a witness in front: every request is written down as it arrives and as it is
answered, in an append-only file that neither Perdure nor Postgres nor Ray knows of.

    CAMPAIGN_WITNESS=attempts.jsonl python -m campaigns.outside
"""

import json
import os
import time
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from examples.food_delivery import outside

WITNESS = "CAMPAIGN_WITNESS"


class Log:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, path: Path) -> None:
        self._app = app
        self._file = path.open("a", buffering=1, encoding="utf-8")
        self._number = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        at = time.time()
        self._number += 1
        number = self._number
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        request = json.loads(body)
        self._write(number=number, event="start", at=at, path=scope["path"], **request)

        async def replay() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._write(number=number, event="end", at=time.time(), status=message["status"])
            await send(message)

        await self._app(scope, replay, answer)

    def _write(self, **event: Any) -> None:
        self._file.write(json.dumps(event) + "\n")


def main() -> None:
    outside.app.add_middleware(Log, path=Path(os.environ[WITNESS]))
    outside.main()


if __name__ == "__main__":
    main()
