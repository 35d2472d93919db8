"""Fakes: refused at once where they do not fit, idempotent by key, and they remember."""

import pytest

from perdure.entities import ApplicationError, WorkflowFailed
from perdure.entities.testing import PerdureTest, WrongFake, fails, fake, in_turn

from .shop import Declined, Order, charge, notify


def test_a_function_with_other_parameters_is_refused() -> None:
    def other(amount: int) -> str:
        return "pay-1"

    with pytest.raises(WrongFake, match=r"fake of charge: .*'amount'.* charge\(cents: int\) -> str"):
        fake(charge, other)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]


@pytest.mark.parametrize("wrong", [7, None, in_turn("pay-1", 8), fails(2, then=9), ["pay-1"]])
def test_a_value_of_another_type_is_refused(wrong: object) -> None:
    with pytest.raises(WrongFake, match="fake of charge: it cannot return"):
        fake(charge, wrong)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]


def test_only_activities_are_faked() -> None:
    with pytest.raises(WrongFake, match="takes an @activity"):
        fake(print, None)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]


async def test_it_remembers_its_calls() -> None:
    charging = fake(charge, lambda cents: f"pay-{cents}")
    async with PerdureTest([Order], activities=[charging, fake(notify)]) as world:
        await Order.ref("o").run.start(5)
        await world.settled()
        assert await Order.ref("o").state() == "paid with pay-5"
        (call,) = charging.calls
        assert (call.arguments, call.attempt, call.at, str(call.entity)) == ({"cents": 5}, 1, world.now(), "Order/o")
        assert charging.results == {call.idempotency_key: "pay-5"}


async def test_an_async_function_may_wait() -> None:
    async def slowly(cents: int) -> str:
        return f"slow-{cents}"

    async with PerdureTest([Order], activities={charge: slowly, notify: None}) as world:
        await Order.ref("o").run.start(5)
        await world.settled()
        assert await Order.ref("o").state() == "paid with slow-5"


@pytest.mark.parametrize("refusal", [Declined, Declined("no funds")])
async def test_a_refusal_ends_the_run_at_once(refusal: Declined | type[Declined]) -> None:
    charging = fake(charge, refusal)
    async with PerdureTest([Order], activities=[charging]):
        with pytest.raises(WorkflowFailed) as failed:
            await Order.ref("o").run(5)
        assert "Declined" in repr(failed.value.__cause__) or isinstance(failed.value.__cause__, ApplicationError)
        assert len(charging.calls) == 1


async def test_too_few_behaviours_are_an_error_not_an_endless_retry() -> None:
    charging = fake(charge, in_turn("only one"))
    async with PerdureTest([Order], activities=[charging, fake(notify)]):
        await Order.ref("a").run.start(1)
        with pytest.raises(WorkflowFailed, match=r"in_turn\(\.\.\.\) has 1 items, this is attempt 2"):
            await Order.ref("b").run(1)


async def test_failures_are_counted_for_each_operation() -> None:
    charging = fake(charge, fails(1, then="pay"))
    async with PerdureTest([Order], activities=[charging, fake(notify)]) as world:
        for key in ("a", "b"):
            await Order.ref(key).run.start(1)
        await world.advance(minutes=1)
        assert [call.attempt for call in charging.calls] == [1, 1, 2, 2]
