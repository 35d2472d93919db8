"""The checkers see what they are there for: each is shown a database that is in order, then one that is not."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from campaigns import orders
from campaigns.audit import audit_chains, audit_leftovers
from campaigns.harness import NAMESPACE, Options, Scene
from campaigns.verdict import Verdict
from perdure.cluster.embedded import EmbeddedPostgres
from perdure.cluster.postgres.migrations import upgrade
from perdure.cluster.settings import ClusterSettings
from tests.scratch import scratch_directory

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("checkers")]

STEP = "Order/o-1/run/r-1/0"


@pytest.fixture(scope="module")
def postgres() -> Iterator[EmbeddedPostgres]:
    with scratch_directory("perdure-checkers-") as directory, EmbeddedPostgres(directory / "postgres") as server:
        upgrade(server.dsn, NAMESPACE, shard_count=4)
        yield server


@pytest.fixture
def scene(postgres: EmbeddedPostgres, tmp_path: Path) -> Scene:
    """One order with three turns: a message that started its run, a result, a message."""
    run(
        postgres,
        "truncate entities, history, journal, inbox, dead_letters, parked",
        "insert into entities values (0, 'Order', 'o-1', 3, '{}', 1, 0, now())",
        history(1, "m-1"),
        journal(0, 1, '{"now_us": 1, "events": [["start"]]}'),
        journal(1, 2, '{"now_us": 2, "events": [["value", 0, "paid"]]}'),
        history(3, "m-2"),
    )
    return Scene(Options(seed=1), 1, tmp_path, postgres, ClusterSettings(), random.Random(1))


def run(postgres: EmbeddedPostgres, *statements: str) -> None:
    with psycopg.connect(postgres.dsn, options=f"-c search_path={NAMESPACE}", autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def history(version: int, message_id: str) -> str:
    return (
        "insert into history (shard, type, key, message_id, version, kind, name, sender, fingerprint, args, ok,"
        f" outcome, recorded_at) values (0, 'Order', 'o-1', '{message_id}', {version}, 'call', 'x', '', '', '{{}}',"
        " true, 'null', now())"
    )


def journal(number: int, version: int, entry: str) -> str:
    return (
        "insert into journal (shard, type, key, workflow, run_id, number, version, entry, recorded_at)"
        f" values (0, 'Order', 'o-1', 'run', 'r-1', {number}, {version}, '{entry}', to_timestamp(1000 + {number}))"
    )


async def chains(scene: Scene) -> list[str]:
    verdict = Verdict("chains", 1)
    await audit_chains(verdict, scene)
    return verdict.violations


async def leftovers(scene: Scene) -> list[str]:
    verdict = Verdict("leftovers", 1)
    await audit_leftovers(verdict, scene)
    return verdict.violations


async def test_a_chain_in_order_passes(scene: Scene) -> None:
    assert await chains(scene) == []
    assert await leftovers(scene) == []


@pytest.mark.parametrize(
    "damage",
    [
        "delete from journal where version = 2",
        "delete from history where version = 3",
        "update entities set version = 4",
        "delete from entities",
        "update history set version = 1",
        history(3, "m-3"),
        history(5, "m-3"),
        journal(2, 2, "{}"),
    ],
)
async def test_a_gap_or_a_double_in_a_chain_is_found(scene: Scene, damage: str) -> None:
    run(scene.postgres, damage)
    assert len(await chains(scene)) == 1


async def test_a_message_that_waits_for_ever_is_found(scene: Scene) -> None:
    run(scene.postgres, "insert into inbox values (0, 'Order', 'o-1', 1, 'm-9', 'send', 'x', '{}', '', '', null)")
    assert len(await leftovers(scene)) == 1


@pytest.mark.parametrize(("at", "found"), [(1000.5, 0), (1001.5, 1)])
async def test_an_attempt_after_the_result_is_found(scene: Scene, at: float, found: int) -> None:
    witness = scene.directory / "witness.jsonl"
    witness.write_text(json.dumps({"event": "start", "at": at, "idempotency_key": STEP}) + "\n")
    verdict = Verdict("witness", 1)
    await orders.check_witness(verdict, scene, witness)
    assert len(verdict.violations) == found


async def test_a_step_without_a_result_is_found(scene: Scene) -> None:
    witness = scene.directory / "witness.jsonl"
    witness.write_text(json.dumps({"event": "start", "at": 1.0, "idempotency_key": "Order/o-2/run/r-2/0"}) + "\n")
    verdict = Verdict("witness", 1)
    await orders.check_witness(verdict, scene, witness)
    assert len(verdict.violations) == 1
