"""What clients wrote down, and what is made of it: outcomes, recovery times, the order of faults."""

import json
import math
from collections.abc import Iterable
from pathlib import Path

import pytest

from campaigns.safes import EACH
from campaigns.verdict import Verdict
from chaos.checks import is_money_right
from chaos.faults import FAULTS, Injury, draw, usable
from chaos.load import SAFES
from chaos.ops import FAILED, OK, UNKNOWN, Op, OpLog, read_ops
from chaos.table import measure, tabulate
from perdure.entities.shard import shard_of


def op(*attempts: tuple[float, float, str, str], key: str = "k") -> Op:
    made = Op("add", "Ledger", key, "u", "client", attempts[0][0])
    made.attempts += attempts
    made.came = OK if any(attempt[2] == OK for attempt in attempts) else UNKNOWN
    return made


@pytest.mark.parametrize(
    ("attempts", "came"),
    [
        ([OK], OK),
        ([FAILED], FAILED),
        ([UNKNOWN], UNKNOWN),
        ([FAILED, UNKNOWN], UNKNOWN),
        ([UNKNOWN, OK], OK),
        ([], UNKNOWN),
    ],
)
def test_an_operation_has_failed_only_if_each_attempt_has(tmp_path: Path, attempts: Iterable[str], came: str) -> None:
    log = OpLog(tmp_path / "ops")
    number = log.began("add", "Ledger", "k", "u")
    for attempt in attempts:
        log.tried(number, "client", 1.0, attempt)
    log.close()
    [found], said = read_ops([tmp_path / "ops"])
    assert (found.came, said) == (came, [])


def test_the_torn_last_line_of_a_killed_client_is_ignored(tmp_path: Path) -> None:
    log = OpLog(tmp_path / "ops")
    log.began("add", "Ledger", "k", "u")
    log.close()
    with (tmp_path / "ops").open("a") as file:
        file.write(json.dumps({"n": 0, "via": "client", "came": OK})[:-4])
    [found], _ = read_ops([tmp_path / "ops"])
    assert found.came == UNKNOWN


def test_recovery_ends_with_the_first_success_that_began_after_the_fault_and_needed_what_was_broken() -> None:
    injury = Injury("host kill", at=10.0, healed_at=20.0, shards=frozenset([shard_of("Ledger", "hurt", 256)]))
    ops = [
        op((9.0, 11.0, OK, "client"), key="hurt"),  # began before
        op((10.5, 10.6, OK, "client"), key="elsewhere"),
        op((10.5, 12.0, UNKNOWN, "client"), (12.1, 13.5, OK, "client"), key="hurt"),
        op((13.0, 14.0, OK, "client"), key="hurt"),
    ]
    assert measure([injury], ops) == {id(injury): 3.5}


def test_a_fault_that_nothing_recovered_from_fails_the_verdict() -> None:
    injury = Injury("gateway kill", at=10.0, healed_at=20.0, via="http:1", evidence=["pid 1 gone"])
    ops = [op((11.0, 11.1, OK, "client")), op((1.0, 1.1, OK, "client"))]
    assert math.isnan(measure([injury], ops)[id(injury)])
    verdict = Verdict("chaos", 1)
    tabulate(verdict, [injury], ops, {})
    assert [check.name for check in verdict.checks if not check.is_ok] == ["fault: gateway kill"]


def test_a_fault_without_evidence_fails_the_verdict() -> None:
    injury = Injury("network cut", at=10.0, healed_at=20.0, evidence=[""])
    verdict = Verdict("chaos", 1)
    tabulate(verdict, [injury], [op((11.0, 11.1, OK, "client")), op((1.0, 1.1, OK, "client"))], {})
    assert [check.name for check in verdict.checks if not check.is_ok] == ["fault: network cut"]


def test_too_few_successes_outside_faults_fail_the_verdict() -> None:
    verdict = Verdict("chaos", 1)
    tabulate(verdict, [], [op((1.0, 2.0, UNKNOWN, "client")), op((1.0, 2.0, UNKNOWN, "client"))], {})
    assert not verdict.is_ok


def test_a_seed_draws_the_same_faults_each_kind_once_before_any_comes_twice() -> None:
    faults = usable(list(FAULTS), {})
    first, second = draw(7, faults), draw(7, faults)
    drawn = [next(first).kind for _ in range(200)]
    assert drawn == [next(second).kind for _ in range(200)]
    assert sorted(drawn[: len(faults)]) == sorted(fault.kind for fault in faults)


def test_a_fault_that_cannot_be_done_is_skipped_with_its_reason() -> None:
    skipped = {"postgres disk full": "no loop mount here"}
    assert "postgres disk full" not in [fault.kind for fault in usable(list(FAULTS), skipped)]
    assert skipped["postgres disk full"] == "no loop mount here"


def test_a_safe_that_is_gone_with_its_money_is_noticed() -> None:
    """Although the others are right: what is compared with is what was put in, not what is found."""
    whole = {"safes": SAFES, "vaults": SAFES * EACH, "tills": SAFES * EACH, "lowest": 0}
    assert is_money_right(whole, at_rest=True)
    fewer = whole | {"safes": SAFES - 1, "vaults": (SAFES - 1) * EACH, "tills": (SAFES - 1) * EACH}
    assert not is_money_right(fewer, at_rest=True)
    assert not is_money_right(whole | {"safes": SAFES - 1}, at_rest=True)
    assert not is_money_right(whole | {"tills": SAFES * EACH - 1}, at_rest=True)
    assert is_money_right(whole | {"tills": SAFES * EACH - 1}, at_rest=False)
