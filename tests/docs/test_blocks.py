"""No code block is forgotten: each runs in a test that is named here, or there is a reason, which is printed."""

import ast
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fastapi import FastAPI

from perdure.entities import EncryptionCodec
from perdure.entities.testing import LocalCluster

from .blocks import PAGES, ROOT, python_blocks, split_awaits

HERE = "tests/docs/test_blocks.py"
DOCUMENTATION = "tests/docs/test_documentation.py"
GUIDE = "tests/docs/test_guide.py"
CLIENTS = "tests/docs/test_guide_on_clients.py"
CHANGES = "tests/docs/test_guide_on_changes.py"


class Run(NamedTuple):
    """This test runs it."""

    test: str


class NotRun(NamedTuple):
    """Compiled, and its imports are looked up; but not run."""

    reason: str


LINES = NotRun("single lines on an entity that the reader has; such calls are what tests/engine is made of")
OUTSIDE = NotRun("talks to a bank, a mailbox or tables that are not there")
EXAMPLE = NotRun("lines out of examples/, which tests/stories runs whole")
CLUSTER = NotRun("starts a cluster; tests/cluster and tests/commands do")
TERMINAL = NotRun("for a terminal with a running dev server; tests/dev and tests/acceptance do the like")
BACKUP = NotRun("needs a server's programs and a cluster; tests/store/test_restore.py does it")
TOOLS = NotRun("the targets of make that run the tests, or this very run")

INVENTORY: dict[str, list[Run | NotRun]] = {
    "README.md": [Run(f"{DOCUMENTATION}::test_the_example_of_the_readme_runs"), TOOLS],
    "docs/getting-started.md": [
        TERMINAL,
        Run(f"{DOCUMENTATION}::test_getting_started"),
        TERMINAL,
        Run(f"{DOCUMENTATION}::test_the_http_calls_of_getting_started"),
        Run(f"{DOCUMENTATION}::test_getting_started"),
        Run(f"{DOCUMENTATION}::test_getting_started"),
    ],
    "docs/guide.md": [
        LINES,  # fields
        LINES,  # calls
        NotRun("sleeps for five seconds in a thread, on purpose"),
        LINES,  # runs
        Run(f"{CHANGES}::test_a_subscription_continues_as_new"),
        Run(f"{CHANGES}::test_a_patched_trip"),
        Run(f"{CHANGES}::test_an_upgraded_person"),
        OUTSIDE,  # retries
        OUTSIDE,  # heartbeats
        OUTSIDE,  # tokens
        Run(f"{GUIDE}::test_the_decision_of_the_guide"),
        LINES,  # repair
        Run(f"{HERE}::test_the_transactions_of_the_guide"),
        OUTSIDE,  # sagas
        OUTSIDE,  # transactional steps
        OUTSIDE,  # staged SQL
        Run(f"{GUIDE}::test_the_schedule_of_the_guide"),
        Run(f"{GUIDE}::test_the_events_of_the_guide"),
        LINES,  # search
        LINES,  # history
        LINES,  # edits, dead letters
        Run(f"{CLIENTS}::test_the_fastapi_application_of_the_guide"),
        Run(f"{CLIENTS}::test_the_script_of_the_guide"),
        Run(f"{CLIENTS}::test_the_webhook_of_the_guide"),
        Run(f"{CLIENTS}::test_the_watched_parcel_of_the_guide"),
        LINES,  # a test
    ],
    "docs/console.md": [Run(f"{HERE}::test_applications_are_made")],
    "docs/contributing.md": [TOOLS, Run(f"{HERE}::test_the_test_of_contributing_passes")],
    "docs/deployment.md": [CLUSTER, CLUSTER, BACKUP, BACKUP, BACKUP],
    "docs/encryption.md": [TERMINAL, CLUSTER, Run(f"{HERE}::test_a_codec_of_ones_own")],
    "docs/observability.md": [Run("tests/docs/test_observability.py::test_outside_of_turns_nothing_is_replayed")],
    "docs/operations.md": [CLUSTER, CLUSTER],
    "docs/security.md": [Run(f"{HERE}::test_applications_are_made")],
    "docs/testing.md": [
        Run("tests/kit/test_plugin.py::test_the_page_on_testing_is_true"),
        NotRun("minutes to half an hour of faults on a machine of their own"),
    ],
    "docs/stories/approval.md": [EXAMPLE],
    "docs/stories/food-delivery.md": [EXAMPLE],
    "docs/stories/greeting.md": [EXAMPLE],
    "docs/stories/loan.md": [EXAMPLE],
    "docs/stories/money-transfer.md": [EXAMPLE] * 3,
    "docs/stories/order-processing.md": [EXAMPLE],
    "docs/stories/subscription.md": [EXAMPLE],
    "examples/approval/README.md": [TERMINAL] * 2,
    "examples/food_delivery/README.md": [TERMINAL] * 2,
    "examples/greeting/README.md": [TERMINAL] * 2,
    "examples/loan/README.md": [TERMINAL] * 2,
    "examples/money_transfer/README.md": [TERMINAL] * 5,
    "examples/order_processing/README.md": [TERMINAL] * 2,
    "examples/subscription/README.md": [TERMINAL] * 3,
}
"""The blocks in python and bash of each page, in their order."""
NOT_RUN = [
    pytest.param(how.reason, id=f"{page}:{number}")
    for page, hows in INVENTORY.items()
    for number, how in enumerate(hows, 1)
    if isinstance(how, NotRun)
]


def fences(page: Path) -> list[str]:
    """The languages of all blocks of a page, in their order."""
    return re.findall(r"^ *```(\w*)[^\n]*\n.*?^ *```$", page.read_text(), flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_is_in_the_inventory(page: Path) -> None:
    found = fences(page)
    assert set(found) <= {"python", "bash", "text"}, "a block in a language that nobody runs"
    runnable = [language for language in found if language != "text"]
    assert len(runnable) == len(INVENTORY.get(str(page.relative_to(ROOT)), [])), "say who runs it, or why nobody does"


def test_every_test_of_the_inventory_is_there() -> None:
    for how in (how for hows in INVENTORY.values() for how in hows):
        if isinstance(how, Run):
            file, _, name = how.test.partition("::")
            assert re.search(rf"def {name}\(", (ROOT / file).read_text()), how.test


@pytest.mark.parametrize("reason", NOT_RUN)
def test_what_is_not_run_has_a_reason(reason: str) -> None:
    assert reason
    pytest.skip(reason)


def names_of(page: str, part: str) -> dict[str, Any]:
    """What the block of a page that holds `part` defines."""
    [block] = [text for text in python_blocks(ROOT / page) if part in text]
    names: dict[str, Any] = {"__name__": "shown"}
    exec(compile(split_awaits(block)[0], page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    return names


async def test_the_transactions_of_the_guide() -> None:
    names = names_of("docs/guide.md", "from perdure.entities import Entity, atomic, handler, transaction")
    account = names["Account"]
    async with LocalCluster([account]) as cluster:
        await names["route"]()
        await cluster.drained()
        found = [(await names["transfer"](account.ref(key), account.ref("c"), 1)) for key in ("a", "b")]
    assert found == [119, 79], "two transfers of 10 from a to b, the balances swapped, then 1 from each"


@pytest.mark.parametrize(
    ("page", "part"), [("docs/console.md", "Console(app"), ("docs/security.md", "app = create_app(")]
)
def test_applications_are_made(page: str, part: str) -> None:
    assert isinstance(names_of(page, part)["app"], FastAPI)


def test_a_codec_of_ones_own() -> None:
    assert isinstance(names_of("docs/encryption.md", "def my_codec()")["my_codec"](), EncryptionCodec)


async def test_the_test_of_contributing_passes() -> None:
    await names_of("docs/contributing.md", "LocalCluster")["test_a_repeat_after_a_crash_gets_the_first_outcome"]()
