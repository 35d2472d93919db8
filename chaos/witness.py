"""The outside world: writes down each attempt of a step as it arrives, in a file of its own, and answers.

    python -m chaos.witness PORT FILE

Neither Perdure nor Postgres nor Ray knows of the file, and no fault is done to this process.
"""

import asyncio
import json
import random
import sys
import time
from pathlib import Path

ANSWER_S = 0.5


async def witness(port: int, path: Path) -> None:
    """Serve for ever."""
    with path.open("ab", buffering=0) as file:

        async def attend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while line := await reader.readline():
                event = {"event": "start", "at": time.time(), **json.loads(line)}
                file.write(json.dumps(event).encode() + b"\n")
                await asyncio.sleep(random.uniform(0, ANSWER_S))  # hosts die between the effect and its answer
                writer.write(b"noted\n")
                await writer.drain()
            writer.close()

        async with await asyncio.start_server(attend, "127.0.0.1", port) as server:
            await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(witness(int(sys.argv[1]), Path(sys.argv[2])))
