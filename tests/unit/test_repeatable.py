"""What workflow code must not do is told when its class is defined (P7)."""

import asyncio
import datetime as dt
import logging
import os
import random
import secrets
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from random import randint
from time import monotonic as clock
from typing import Any

import pytest

from perdure.entities import DefinitionError, Entity, handler, now, uuid4, workflow
from perdure.entities import random as chance
from perdure.entities.repeatable import warn_of_stale_reads

Body = Callable[[Any], Any]


async def reads_time(self: Any) -> None:
    self.at = time.time()


async def reads_clock(self: Any) -> None:
    self.at = clock()


async def reads_now(self: Any) -> None:
    self.at = dt.datetime.now(dt.UTC).timestamp()


async def reads_utcnow(self: Any) -> None:
    self.at = dt.datetime.utcnow().timestamp()  # type: ignore[deprecated]  # pyright: ignore[reportDeprecated]  # noqa: DTZ003


async def reads_today(self: Any) -> None:
    self.at = date.today().toordinal()  # noqa: DTZ011


async def draws(self: Any) -> None:
    self.at = random.random()


async def draws_imported(self: Any) -> None:
    await asyncio.sleep(randint(1, 3))


async def draws_bytes(self: Any) -> None:
    self.at = len(os.urandom(2))


async def makes_secret(self: Any) -> None:
    self.text = secrets.token_hex(8)


async def makes_uuid(self: Any) -> None:
    self.text = str(uuid.uuid4())


async def sleeps(self: Any) -> None:
    time.sleep(1)


async def imports_itself(self: Any) -> None:
    import time as t
    from random import choice

    self.at = choice([t])


async def imports_module(self: Any) -> None:
    import random as r

    self.at = r.choice([1])


async def nested(self: Any) -> None:
    async def inner() -> None:
        await asyncio.gather(*(asyncio.sleep(time.monotonic()) for _ in range(3)))

    await inner()


async def in_a_lambda(self: Any) -> None:
    self.text = max(["a"], key=lambda _: random.random())


async def through_a_helper(self: Any) -> None:
    self.helper()


async def through_a_nested_helper(self: Any) -> None:
    def inner() -> None:
        self.helper()

    inner()


async def through_a_property(self: Any) -> None:
    self.text = str(self.age)


async def starts_a_thread(self: Any) -> None:
    threading.Thread(target=int).start()


async def makes_a_pool(self: Any) -> None:
    with ThreadPoolExecutor() as pool:
        pool.submit(int)


MISTAKES: list[tuple[Body, str]] = [
    (reads_time, r"time\.time at .*now\(\)"),
    (reads_clock, r"time\.monotonic at"),
    (reads_now, r"datetime\.now at"),
    (reads_utcnow, r"datetime\.utcnow"),
    (reads_today, r"date\.today"),
    (draws, r"random\.random at .*`random\(\)`"),
    (draws_imported, r"random\.randint"),
    (draws_bytes, r"os\.urandom"),
    (makes_secret, r"secrets\.token_hex"),
    (makes_uuid, r"uuid\.uuid4"),
    (sleeps, r"time\.sleep .*asyncio\.sleep"),
    (imports_itself, r"random\.choice"),
    (imports_module, r"random\.choice"),
    (starts_a_thread, r"uses Thread at .*@activity"),
    (makes_a_pool, r"ThreadPoolExecutor"),
    (nested, r"time\.monotonic"),
    (in_a_lambda, r"random\.random"),
    (through_a_helper, r"\(through `helper`\) uses time\.time"),
    (through_a_nested_helper, r"\(through `helper`\) uses time\.time"),
    (through_a_property, r"\(through `age`\) uses time\.time"),
]


@pytest.mark.parametrize(("body", "reason"), MISTAKES, ids=lambda one: getattr(one, "__name__", ""))
def test_clocks_and_chance_in_a_workflow_are_refused_at_definition(body: Body, reason: str) -> None:
    body.__name__ = "run"
    with pytest.raises(DefinitionError, match=rf"class Bad: the workflow `run`.*{reason}") as raised:

        class Bad(Entity):  # pyright: ignore[reportUnusedClass]
            at: float = 0
            text: str = ""
            run = workflow(body)

            def helper(self) -> None:
                self.at = time.time()

            @property
            def age(self) -> float:
                return time.time()

    assert f"{__file__}:" in str(raised.value)


def a_stopwatch() -> float:
    return time.perf_counter()


def test_what_is_repeatable_or_no_workflow_is_left_alone() -> None:
    class Good(Entity):
        at: float = 0
        text: str = ""
        born: dt.datetime = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)

        @workflow
        async def run(self) -> None:
            self.at = now().timestamp() + chance().random() + random.Random(5).random()
            self.text = str(uuid4()) + str(uuid.uuid5(uuid.NAMESPACE_DNS, "x"))
            self.born = dt.datetime.fromtimestamp(0, dt.UTC) + dt.timedelta(1)
            await asyncio.sleep(1)
            started = a_stopwatch()
            logging.getLogger("shop").info("%s", started)
            time = self.at
            self.at = time

        @handler
        async def tell(self) -> float:
            return time.time() + random.random()

    assert Good.entity_type() == "Good"


def test_reads_before_an_await_in_the_same_expression_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    async def f(_: object = None) -> int:
        return 1

    with caplog.at_level(logging.WARNING, "perdure.workflow"):

        class Stale(Entity):
            items: list[int] = []
            total: int = 0
            table: dict[str, list[int]] = {}

            @workflow
            async def run(self) -> None:
                self.items.append(await f())  # 1
                self.total += await f()  # 2
                self.table["x"].append(1 + await f())  # 3
                self.table["y"] = [await f()]
                item = await f()
                self.items.append(item)
                self.items.append(len([(lambda: f)]))
                await f(self.items)
                self.total += 1

    lines = [record.getMessage() for record in caplog.records]
    assert [line.split("`")[3] for line in lines] == ["self.items", "self.total", "self.table"]
    assert all(f"{__file__}:" in line for line in lines)
    assert warn_of_stale_reads(Stale, "x", eval("lambda: 1"), {}) == [], "no source, no warning"


def test_an_inherited_workflow_is_looked_at_with_the_helpers_of_its_heir() -> None:
    class Parent(Entity):
        at: float = 0

        @workflow
        async def run(self) -> None:
            self.stamp()

        def stamp(self) -> None:
            self.at = 1.0

    with pytest.raises(DefinitionError, match=r"class Heir: the workflow `run` \(through `stamp`\) uses time\.time"):

        class Heir(Parent):  # pyright: ignore[reportUnusedClass]
            def stamp(self) -> None:
                self.at = time.time()
