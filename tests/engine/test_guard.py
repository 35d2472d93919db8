"""What cannot be durable is refused while workflow code runs, and only then (P7)."""

import asyncio
import logging
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from perdure.entities import Entity, NotDurable, activity, handler, workflow
from perdure.entities.testing import LocalCluster

USES: dict[str, Any] = {
    "Popen": lambda: subprocess.run(["true"], check=True),
    "system": lambda: os.system("true"),  # pyright: ignore[reportDeprecated]
    "socket": lambda: socket.socket().close(),
    "create_connection": lambda: socket.create_connection(("127.0.0.1", 1)),
    "getaddrinfo": lambda: socket.getaddrinfo("localhost", 80),
    "sqlite": lambda: sqlite3.connect(":memory:").close(),
}
if sys.version_info >= (3, 13):  # earlier ones make no audit event of these; `repeatable` finds them in the code
    USES |= {"time.sleep": lambda: time.sleep(0), "thread": lambda: threading.Thread(target=print).start()}


@activity
def uses_in_an_activity(what: str) -> str:
    try:
        USES[what]()
    except OSError:
        return "went out"
    return "done"


class Socketed(logging.Handler):
    """A log handler with a socket of its own, as for syslog."""

    lines = 0

    def emit(self, record: logging.LogRecord) -> None:
        socket.socket().close()
        time.sleep(0)
        Socketed.lines += 1


class User(Entity):
    after: int = 0

    @workflow
    async def run(self, what: str) -> str:
        await asyncio.sleep(0)
        USES[what]()
        return "?"

    @workflow
    async def in_an_activity(self, what: str) -> str:
        return await uses_in_an_activity(what)

    @workflow
    async def logs_and_imports(self) -> str:
        logging.getLogger("socketed").warning("hello")
        sys.modules.pop("tests.engine.sleepy", None)
        from . import sleepy

        return sleepy.NAME

    @handler
    async def in_a_handler(self, what: str) -> None:
        uses_in_an_activity.fn(what)


@pytest.mark.parametrize("what", USES)
async def test_it_is_refused_in_a_workflow_and_works_elsewhere(what: str) -> None:
    async with LocalCluster([User]):
        with pytest.raises(Exception, match=r"User/u: workflow code tried to use .*, which cannot survive") as raised:
            await User.ref("u").run(what)
        assert isinstance(raised.value.__cause__, NotDurable)
        assert await User.ref("u").in_an_activity(what) in ("done", "went out")
        await User.ref("u").in_a_handler(what)


async def test_logging_and_imports_go_on_as_ever() -> None:
    logger, log_handler = logging.getLogger("socketed"), Socketed()
    logger.addHandler(log_handler)
    before = Socketed.lines
    try:
        async with LocalCluster([User]):
            assert await User.ref("u").logs_and_imports() == "sleepy"
    finally:
        logger.removeHandler(log_handler)
    assert Socketed.lines == before + 1
