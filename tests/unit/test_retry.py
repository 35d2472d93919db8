"""Retry policies: arithmetic only."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.entities import ApplicationError, DefinitionError, RetryPolicy

policies: st.SearchStrategy[RetryPolicy] = st.builds(
    lambda initial, extra, factor, attempts: RetryPolicy(
        initial=timedelta(seconds=initial),
        maximum=timedelta(seconds=initial + extra),
        factor=factor,
        attempts=attempts,
    ),
    st.floats(0, 1_000),
    st.floats(0, 10_000),
    st.floats(1, 1_000),
    st.none() | st.integers(1, 1_000),
)


class CardDeclined(Exception):
    pass


class StolenCard(CardDeclined):
    pass


@given(policies, st.integers(1, 10**9))
def test_waits_lie_between_initial_and_maximum_and_never_shrink(policy: RetryPolicy, attempt: int) -> None:
    wait_s = policy.delay_s(attempt)
    assert policy.initial.total_seconds() <= wait_s <= policy.maximum.total_seconds()
    assert policy.delay_s(attempt + 1) >= wait_s


def test_the_wait_grows_by_the_factor_up_to_the_maximum() -> None:
    policy = RetryPolicy(initial=timedelta(seconds=1), factor=2.0, maximum=timedelta(seconds=10))
    assert [policy.delay_s(n) for n in range(1, 7)] == [1, 2, 4, 8, 10, 10]


def test_no_initial_wait_means_no_wait_at_all() -> None:
    assert RetryPolicy(initial=timedelta(0)).delay_s(50) == 0.0


@given(policies, st.integers(1, 2_000))
def test_the_last_attempt_is_final(policy: RetryPolicy, attempt: int) -> None:
    is_last = policy.attempts is not None and attempt >= policy.attempts
    assert policy.is_final(ValueError(), attempt) == is_last


@pytest.mark.parametrize("rule", [CardDeclined, "CardDeclined", "StolenCard", Exception], ids=repr)
def test_non_retryable_classes_count_by_class_name_and_inheritance(rule: type[BaseException] | str) -> None:
    policy = RetryPolicy(non_retryable=[rule])
    assert policy.is_final(StolenCard(), 1)


def test_other_errors_are_retried() -> None:
    policy = RetryPolicy(non_retryable=[StolenCard, "Nonsense"])
    assert not policy.is_final(CardDeclined(), 10**6)


def test_an_application_error_decides_for_itself_and_has_its_own_type_name() -> None:
    assert RetryPolicy().is_final(ApplicationError("no", non_retryable=True), 1)
    assert not RetryPolicy().is_final(ApplicationError("no"), 1)
    assert RetryPolicy(non_retryable=["Fraud"]).is_final(ApplicationError("no", type="Fraud"), 1)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"attempts": 0}, "at least 1"),
        ({"attempts": -3}, "at least 1"),
        ({"initial": timedelta(seconds=-1)}, "negative"),
        ({"factor": 0.5}, "at least 1.0"),
        ({"factor": float("nan")}, "at least 1.0"),
        ({"initial": timedelta(seconds=10), "maximum": timedelta(seconds=1)}, "shorter than initial"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(arguments: dict[str, object], reason: str) -> None:
    with pytest.raises(DefinitionError, match=reason):
        RetryPolicy(**arguments)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
