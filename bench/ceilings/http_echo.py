"""Bare asyncio HTTP: FastAPI on uvicorn, echoing what it is sent: `python -m bench.ceilings.http_echo PORT_FILE`."""

import socket
import sys
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request, Response

app = FastAPI()


@app.post("/echo")
async def echo(request: Request) -> Response:
    return Response(await request.body(), media_type="application/json")


def main() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(2_048)
        Path(sys.argv[1]).write_text(f"{listener.getsockname()[1]}\n")
        # uvicorn as it comes: uvloop and httptools if they are installed
        uvicorn.Server(uvicorn.Config(app, access_log=False, log_level="error")).run(sockets=[listener])


if __name__ == "__main__":
    main()
