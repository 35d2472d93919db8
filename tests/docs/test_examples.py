"""The commands of each example's README, sent by curl from bash to the example's application, over a socket.

Where a README says "stop everything" the host dies, uncommitted work is lost, and another one takes over. Processes,
Ray and Postgres under `perdure dev` are the same for every module: tests/dev and tests/acceptance run them.
"""

import re
import shlex
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer.main

from examples.food_delivery import activities, outside
from examples.food_delivery import app as food_delivery
from examples.food_delivery.entities import Limits
from perdure.api import Settings
from perdure.api.cli import app as perdure
from perdure.api.serve import serving
from perdure.api.target import load_target
from perdure.entities.testing import LocalCluster

from .blocks import ROOT, block, blocks
from .shell import Said, bash

RESTART = "/-restart"
SECONDS_MAX = 60
UNTIL = "{ until curl localhost:8000%s | grep -q '%s'; do command sleep 0.2; done; }"
"""In place of `sleep`: until there is what the README sleeps for."""
SLEEPS = {
    "loan": UNTIL % ("/loans/l-1", "Waiting for a person"),
    "money_transfer": UNTIL % ("/stuck", "t-1"),
}
EXAMPLES = ["approval", "greeting", "loan", "money_transfer", "order_processing", "subscription"]
"""Food delivery has services of its own beside it, and a test of its own below."""


def curl_home(folder: Path, **ports: str) -> dict[str, str]:
    """Environment in which curl finds `localhost:PORT` elsewhere, and ends its output with the status of the answer."""
    lines = [f'connect-to = "localhost:{port.removeprefix("p")}:{address}"' for port, address in ports.items()]
    lines += ["silent", "show-error", f"max-time = {SECONDS_MAX}", 'write-out = "\\n%{http_code}"']
    (folder / ".curlrc").write_text("\n".join(lines) + "\n")
    return {"CURL_HOME": str(folder), "no_proxy": "*"}


def answer(said: Said) -> tuple[int, Said]:
    """(status, what was said without it)."""
    body, _, status = said.output.rpartition("\n")
    return int(status), said._replace(output=body)


def check(said: list[Said]) -> None:
    """Every request was answered as its comment says."""
    for one in said:
        if "curl" not in one.command:
            continue
        status, body = answer(one)
        if (problem := re.match(r"a problem: (.*)", one.comment)) is not None:
            assert (status >= 400, problem[1] in body.output) == (True, True), one
        else:
            assert status < 300, one
            body.check()


def module_of(command: str) -> str:
    """What a `perdure dev` is to serve, by the command's own parser."""
    program, *words = shlex.split(command, comments=True)
    main: Any = typer.main.get_command(perdure)
    assert program == "perdure"
    name, dev, rest = main.resolve_command(main.make_context(program, words, resilient_parsing=True), words)
    assert name == "dev"
    return str(dev.make_context(name, rest).params["module"])


class Restartable:
    """The application, and one request more: everything in memory is lost."""

    def __init__(self, app: Any, cluster: LocalCluster) -> None:
        self.app = app
        self.cluster = cluster

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":  # the cluster is there already
            for answer in ("lifespan.startup.complete", "lifespan.shutdown.complete"):
                await receive()
                await send({"type": answer})
        elif scope["path"] == RESTART:
            await self.cluster.crash()
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        else:
            await self.app(scope | {"state": {"perdure": self.cluster}}, receive, send)


@asynccontextmanager
async def served(module: str) -> AsyncGenerator[str]:
    """The address of what `perdure dev MODULE` would serve."""
    target = load_target(module)
    entities = [definition.cls for definition in target.registry]
    async with (
        LocalCluster(entities) as cluster,
        serving(Restartable(target.app, cluster), Settings(port=0)) as url,
    ):
        yield url.removeprefix("http://")


@pytest.mark.parametrize("example", EXAMPLES)
async def test_the_commands_of_the_readme(example: str, tmp_path: Path) -> None:
    start, *texts = [text for _, text in blocks(f"examples/{example}/README.md", "bash")]
    texts = [text for text in texts if not text.startswith("python -m")]
    story = re.sub(r"(?m)^# stop .*", f"curl -X POST localhost:8000{RESTART}", "".join(texts))
    sleep = f"sleep() {SLEEPS[example]}" if example in SLEEPS else ""
    async with served(module_of(start)) as address:
        said = await bash(story, folder=tmp_path, environment=curl_home(tmp_path, p8000=address), before=sleep)
    check(said)


async def test_the_commands_of_food_delivery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its minutes and its bad weather are shortened; tests/acceptance has both, under `perdure dev`."""
    monkeypatch.setattr(food_delivery, "LIMITS", Limits(rating_s=0.1))
    monkeypatch.setattr(outside.weather, "failure_rate", 0.0)
    monkeypatch.setattr(outside, "BOOKS", tmp_path / "books")
    with outside.books() as books:
        books.executescript(outside.TABLES)
    state = "curl localhost:8000/orders/my-1/state"
    text = block("examples/food_delivery/README.md", state)
    story = text.replace(state, f"until {state} | grep '\"Paid\"'; do command sleep 0.1; done")
    assert story != text
    async with (
        served("examples.food_delivery.app") as address,
        serving(outside.app, Settings(port=0)) as services,
    ):
        with httpx.Client(base_url=services) as client:
            monkeypatch.setattr(activities, "outside", client)
            ports = {"p8000": address, "p8400": services.removeprefix("http://")}
            said = await bash(story, folder=tmp_path, environment=curl_home(tmp_path, **ports))
    check([one for one in said if not one.command.startswith("until")])
    *_, account, charges = [answer(one)[1].json for one in said if not one.command.startswith("until")]
    assert (account["meals"], len(charges)) == (1, 1)


def test_every_example_is_here() -> None:
    folders = {page.parent.name for page in (ROOT / "examples").glob("*/README.md")}
    assert folders == {*EXAMPLES, "food_delivery"}
