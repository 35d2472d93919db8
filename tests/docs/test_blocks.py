"""No code block is forgotten: it runs in a test that is named here, or is held to what runs; else why not is told."""

import ast
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fastapi import FastAPI

from perdure.entities import EncryptionCodec
from perdure.entities.testing import LocalCluster

from .blocks import PAGES, ROOT, blocks, python_blocks, split_awaits

HERE = "tests/docs/test_blocks.py"
DOCUMENTATION = "tests/docs/test_documentation.py"
GUIDE = "tests/docs/test_guide.py"
CALLS = "tests/docs/test_guide_on_calls.py"
ACTIVITIES = "tests/docs/test_guide_on_activities.py"
TABLES = "tests/docs/test_guide_on_tables.py"
CLIENTS = "tests/docs/test_guide_on_clients.py"
CHANGES = "tests/docs/test_guide_on_changes.py"
SETTINGS = "tests/docs/test_settings.py"
EXAMPLES = "tests/docs/test_examples.py"
PROGRAMS = "tests/docs/test_programs.py"
DATABASES = "tests/docs/test_databases.py"


class Run(NamedTuple):
    """This test runs it."""

    test: str


class Held(NamedTuple):
    """This test holds it to something that is executed, printed or taken by its program; for the reason."""

    test: str
    reason: str


class NotRun(NamedTuple):
    """Compiled, and its imports are looked up; but not run."""

    reason: str


STORY = Held(
    "tests/docs/test_stories.py::test_the_lines_of_a_story_are_those_of_its_example",
    "lines of examples/, statement by statement; tests/stories runs the examples whole",
)
PARSED = Held(
    f"{PROGRAMS}::test_the_programs_take_their_words",
    "takes minutes, or is this very run: make says what it would do, and each program's parser takes its words",
)
PIP = Held(
    f"{SETTINGS}::test_what_pip_is_told_to_install_is_declared_and_here",
    "needs the network: the extra is declared, and what it asks for is installed here in versions that suit",
)
DEPLOYED = Held(
    f"{DATABASES}::test_the_page_on_deployment",
    "the commands of the database and of Postgres run; `up`, `serve`, `doctor`, `ray start` want several machines: "
    "their parsers take the words; tests/cluster and tests/store have what they do",
)
README = f"{EXAMPLES}::test_the_commands_of_the_readme"
REQUESTS = Run(README)
STARTED = Held(
    README,
    "its parser takes the command, and its module is loaded as the command does and served, on a store in memory; the "
    "command with Ray and Postgres runs in tests/dev and tests/acceptance",
)
CLUSTER = NotRun("starts Ray: tests/cluster and tests/dev start it in the same way, from words of their own")

INVENTORY: dict[str, list[Run | Held | NotRun]] = {
    "README.md": [Run(f"{DOCUMENTATION}::test_the_example_of_the_readme_runs"), PARSED],
    "docs/api.md": [Run(f"{SETTINGS}::test_a_stream_looks_as_shown")],
    "docs/benchmarks.md": [PARSED] * 2,
    "docs/getting-started.md": [
        PIP,
        Run(f"{DOCUMENTATION}::test_getting_started"),
        CLUSTER,
        Run(f"{DOCUMENTATION}::test_the_http_calls_of_getting_started"),
        Run(f"{DOCUMENTATION}::test_getting_started"),
        Run(f"{DOCUMENTATION}::test_getting_started"),
    ],
    "docs/guide.md": [
        Run(f"{CALLS}::test_calls"),  # fields
        Run(f"{CALLS}::test_calls"),
        Run(f"{ACTIVITIES}::test_a_thread_may_block"),
        Run(f"{CALLS}::test_runs"),
        Run(f"{CHANGES}::test_a_subscription_continues_as_new"),
        Run(f"{CHANGES}::test_a_patched_trip"),
        Run(f"{CHANGES}::test_an_upgraded_person"),
        Run(f"{ACTIVITIES}::test_retries"),
        Run(f"{ACTIVITIES}::test_heartbeats"),
        Run(f"{ACTIVITIES}::test_completed_from_outside"),
        Run(f"{GUIDE}::test_the_decision_of_the_guide"),
        Run(f"{CALLS}::test_repair"),
        Run(f"{HERE}::test_the_transactions_of_the_guide"),
        Run(f"{ACTIVITIES}::test_saga"),
        Run(f"{TABLES}::test_a_transactional_step"),
        Run(f"{TABLES}::test_a_staged_statement"),
        Run(f"{GUIDE}::test_the_schedule_of_the_guide"),
        Run(f"{GUIDE}::test_the_events_of_the_guide"),
        Run(f"{CALLS}::test_search"),
        Run(f"{CALLS}::test_history_and_mending"),
        Run(f"{CALLS}::test_history_and_mending"),
        Run(f"{CLIENTS}::test_the_fastapi_application_of_the_guide"),
        Run(f"{CLIENTS}::test_the_script_of_the_guide"),
        Run(f"{CLIENTS}::test_the_webhook_of_the_guide"),
        Run(f"{CLIENTS}::test_the_watched_parcel_of_the_guide"),
        Run(f"{ACTIVITIES}::test_the_test_of_the_guide"),
    ],
    "docs/console.md": [Run(f"{HERE}::test_applications_are_made")],
    "docs/contributing.md": [
        Held(
            f"{PROGRAMS}::test_contributing_starts_from_a_clone",
            "this very run: it is cloned, and make says what it would do there",
        ),
        Run(f"{HERE}::test_the_test_of_contributing_passes"),
    ],
    "docs/deployment.md": [
        DEPLOYED,
        DEPLOYED,
        Run(f"{SETTINGS}::test_pgbouncer_takes_its_settings"),
        *[DEPLOYED] * 3,
    ],
    "docs/encryption.md": [
        Run(f"{SETTINGS}::test_keys_of_encryption"),
        CLUSTER,
        Run(f"{HERE}::test_a_codec_of_ones_own"),
    ],
    "docs/observability.md": [
        Held(
            f"{SETTINGS}::test_prometheus_scrapes_what_there_is",
            "there is no Prometheus here: each job is asked of a gateway as Prometheus would",
        ),
        Run("tests/docs/test_observability.py::test_outside_of_turns_nothing_is_replayed"),
    ],
    "docs/operations.md": [
        CLUSTER,
        Run("tests/commands/test_drain.py::test_the_lines_of_the_page_on_operations"),
        Run(f"{DATABASES}::test_the_commands_of_the_database"),
    ],
    "docs/security.md": [Run(f"{HERE}::test_applications_are_made")],
    "docs/testing.md": [
        Run("tests/kit/test_plugin.py::test_the_page_on_testing_is_true"),
        Run(f"{SETTINGS}::test_stuck_says_what_waits"),
        PARSED,
    ],
    "docs/stories/approval.md": [STORY],
    "docs/stories/food-delivery.md": [STORY],
    "docs/stories/greeting.md": [STORY],
    "docs/stories/loan.md": [STORY],
    "docs/stories/money-transfer.md": [STORY] * 3,
    "docs/stories/order-processing.md": [STORY],
    "docs/stories/subscription.md": [STORY],
    "examples/approval/README.md": [STARTED, REQUESTS],
    "examples/food_delivery/README.md": [PARSED, Run(f"{EXAMPLES}::test_the_commands_of_food_delivery")],
    "examples/greeting/README.md": [STARTED, REQUESTS],
    "examples/loan/README.md": [STARTED, REQUESTS],
    "examples/money_transfer/README.md": [STARTED, *[REQUESTS] * 4],
    "examples/order_processing/README.md": [STARTED, REQUESTS],
    "examples/subscription/README.md": [STARTED, REQUESTS, PARSED],
}
"""All blocks of each page, in their order."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_is_in_the_inventory(page: Path) -> None:
    found = blocks(page)
    assert {block.language for block in found} <= {"python", "bash", "ini", "yaml", "text"}, "nobody runs this language"
    assert len(found) == len(INVENTORY.get(str(page.relative_to(ROOT)), [])), "say who runs it"


def test_every_fence_is_a_block() -> None:
    for page in PAGES:
        fences = re.findall(r"(?m)^\s*(?:```|~~~)", page.read_text())
        assert len(fences) == 2 * len(blocks(page)), page


def test_every_test_of_the_inventory_is_there() -> None:
    for how in (how for hows in INVENTORY.values() for how in hows):
        if not isinstance(how, NotRun):
            file, _, name = how.test.partition("::")
            assert re.search(rf"def {name}\(", (ROOT / file).read_text()), how.test


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
