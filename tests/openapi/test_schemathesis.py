"""The gateway's OpenAPI is true: Schemathesis finds nothing that is not explained.

Bounded; `make schemathesis` is the long examination.

The seed is fixed here, so that a finding stays; the long examination takes a new one each time and prints it.
"""

import pytest

from .examine import Findings, examine
from .explained import EXPLAINED
from .worlds import delivery, gateway

SEED = 4
EVERY_KIND = (
    "^/(entities$|livez|dead-letters|overview|types|hosts|all-entities|reminders|schedules|audit|worklist.*|activities/.*/complete|entities/[{]type[}]($|/[{]key[}]($|/-/history))"
    "|entities/Bench/[{]key[}]/(among|fall|run/result|outside/(complete|cancel)))"
)
"""Boundary cases of one path of every kind; the others of its kind differ by name only."""


def assert_clean(findings: Findings) -> None:
    assert not findings.unexplained, f"seed {SEED}\n{findings.render()}"


@pytest.mark.timeout(300)
def test_the_gateway_is_as_described() -> None:
    with gateway() as world:
        boundaries = examine(world, seed=SEED, examples=1, only=EVERY_KIND)
        everything = examine(world, seed=SEED, examples=1, coverage=False)
    assert_clean(boundaries)
    assert boundaries.statuses[401] > 10, "it was asked without a key as well"
    assert {200, 202, 400, 404, 405, 409, 415, 422} <= boundaries.statuses.keys()
    assert_clean(everything)
    assert len(everything.operations) > 50


@pytest.mark.timeout(300)
def test_an_application_with_entity_routers_is_as_described() -> None:
    with delivery() as world:
        findings = examine(world, seed=SEED, examples=1, coverage=False)
    assert_clean(findings)
    assert len(findings.operations) >= 20, findings.operations
    assert {200, 202, 422} <= findings.statuses.keys()


def test_every_exception_says_why() -> None:
    assert len({explained.name for explained in EXPLAINED}) == len(EXPLAINED)
    for explained in EXPLAINED:
        assert len(explained.reason) > 5, explained
