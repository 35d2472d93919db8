from math import isnan

from campaigns.verdict import Verdict, quantile


def is_passed(verdict: Verdict) -> bool:
    return verdict.is_ok  # not narrowed by an earlier assertion


def test_a_verdict_without_checks_has_not_passed() -> None:
    assert not Verdict("nothing", 1).is_ok


def test_one_violation_fails_it_and_is_shown() -> None:
    verdict = Verdict("some", 1)
    verdict.none_of("nothing lost", [], "3 orders")
    assert is_passed(verdict)
    verdict.none_of("nothing doubled", ["order-7"], "3 orders")
    assert not is_passed(verdict)
    assert "VIOLATED" in verdict.render()
    assert "nothing doubled: order-7" in verdict.render()


def test_quantiles_are_values_that_were_measured() -> None:
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([4.0, 1.0, 2.0, 3.0], 0.5) == 2.0
    assert quantile([1.0, 2.0, 3.0], 0.9) == 3.0
    assert quantile([5.0], 0.5) == 5.0
    assert isnan(quantile([], 0.5))
