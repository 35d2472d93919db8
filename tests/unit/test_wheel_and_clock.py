"""The timer wheel and the estimate of the database's clock."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from perdure.entities import EntityId
from perdure.entities.engine.clock import DatabaseClock
from perdure.entities.engine.left import LeftAlone
from perdure.entities.engine.wheel import Wheel
from perdure.entities.recurrence import following
from perdure.entities.store.rows import ReminderKind, ReminderRow

ORDER = EntityId("Order", "o-1")
HORIZON = 1_000
NOW = 5


def row(name: str, due_us: int, *, generation: int = 1, entity: EntityId = ORDER, every_us: int = 0) -> ReminderRow:
    return ReminderRow(entity, name, ReminderKind.REMINDER, generation, due_us, every_us, handler="ask")


def read(wheel: Wheel, *rows: ReminderRow) -> None:
    wheel.begin_read(HORIZON)
    wheel.loaded(rows, NOW, HORIZON)


def names(rows: list[ReminderRow]) -> list[str]:
    return [one.name for one in rows]


def test_what_is_due_comes_out_earliest_first_and_never_early() -> None:
    wheel = Wheel()
    read(wheel, row("c", 30), row("a", 10), row("b", 20))
    assert wheel.next_due_us() == 10
    assert names(wheel.pop_due(9, 10)) == []
    assert names(wheel.pop_due(20, 10)) == ["a", "b"]
    assert names(wheel.pop_due(1_000, 10)) == ["c"]
    assert wheel.next_due_us() is None


def test_at_most_limit_come_out_at_once() -> None:
    wheel = Wheel()
    read(wheel, *(row(f"r{n}", n) for n in range(10)))
    assert names(wheel.pop_due(100, 3)) == ["r0", "r1", "r2"]
    assert wheel.handed_out == 3
    assert names(wheel.pop_due(100, 0)) == []


def test_a_handed_out_occurrence_is_not_read_again_until_it_is_over() -> None:
    wheel = Wheel()
    one = row("a", 10)
    read(wheel, one)
    assert wheel.pop_due(10, 9) == [one]
    read(wheel, one)
    assert wheel.pop_due(10, 9) == []
    wheel.drop_stale(one)
    assert wheel.handed_out == 0
    read(wheel, one)
    assert wheel.pop_due(10, 9) == [one]


def test_a_lost_turn_makes_it_come_again() -> None:
    wheel = Wheel()
    one = row("a", 10)
    read(wheel, one)
    wheel.pop_due(10, 9)
    wheel.forget(lambda entity: entity == ORDER)
    assert wheel.handed_out == 0
    read(wheel, one)
    assert wheel.pop_due(10, 9) == [one]


def test_what_is_left_alone_is_not_handed_out_until_its_time_is_over() -> None:
    wheel = Wheel()
    one = row("a", 10)
    read(wheel, one)
    wheel.pop_due(10, 9)
    wheel.leave_alone(one, NOW + 1)
    assert (wheel.handed_out, wheel.left_alone) == (0, 1)
    read(wheel, one, row("b", 10))
    assert names(wheel.pop_due(10, 9)) == ["b"]
    wheel.begin_read()
    assert wheel.loaded([one], NOW + 1) == 1
    assert names(wheel.pop_due(10, 9)) == ["a"]
    assert wheel.left_alone == 0


def test_what_is_left_alone_while_the_store_is_read_is_not_handed_out_by_its_answer() -> None:
    wheel = Wheel()
    one = row("a", 10)
    read(wheel, one)
    wheel.pop_due(10, 9)
    wheel.begin_read()
    wheel.leave_alone(one, NOW)
    assert wheel.loaded([one], NOW) == 0


def test_a_change_ends_that_it_is_left_alone() -> None:
    wheel = Wheel()
    one, other = row("a", 10), row("a", 10, entity=EntityId("Order", "o-2"))
    changes: list[Callable[[], None]] = [
        lambda: wheel.take_up(ORDER),
        lambda: wheel.forget_entity(ORDER),
        lambda: wheel.forget(lambda entity: entity == ORDER),
        lambda: wheel.drop(ORDER, "a"),
    ]
    for again in changes:
        read(wheel, one, other)
        wheel.pop_due(10, 9)
        wheel.leave_alone(one, 1_000)
        wheel.leave_alone(other, 1_000)
        again()
        read(wheel, one, other)
        assert wheel.pop_due(10, 9) == [one]
        wheel.drop_stale(one)
    wheel.leave_alone(one, 1_000)
    read(wheel, repaired := one._replace(cron="0 0 1 1 * UTC"))
    assert wheel.pop_due(10, 9) == [repaired]
    wheel.leave_alone(one, 1_000)
    wheel.put(one._replace(generation=2))
    assert [due.generation for due in wheel.pop_due(10, 9)] == [2]


def test_only_so_many_are_known_to_be_left_alone() -> None:
    left = LeftAlone(2)
    rows = [row(name, 10, entity=EntityId("Order", name)) for name in "abc"]
    for one in rows:
        left.add(one, 100)
        left.add(one, 100)
    assert len(left) == 2
    assert [left.holds(one, 50) for one in rows] == [False, True, True]
    assert not left.holds(rows[2], 100)


def test_what_is_set_aside_is_not_read_again_and_leaves_its_room_to_others() -> None:
    wheel = Wheel()
    one = row("a", 10)
    read(wheel, one)
    wheel.pop_due(10, 9)
    wheel.set_aside(one)
    assert wheel.handed_out == 0
    read(wheel, one)
    assert wheel.pop_due(10, 9) == []
    wheel.drop_stale(one)
    read(wheel, one)
    assert wheel.pop_due(10, 9) == [one]


def test_a_second_look_does_not_move_the_horizon() -> None:
    wheel = Wheel()
    read(wheel)
    wheel.begin_read()
    wheel.loaded([row("a", 10)], NOW)
    assert wheel.horizon_us == HORIZON


def test_replacing_withdraws_the_earlier_time() -> None:
    wheel = Wheel()
    read(wheel, row("a", 10))
    wheel.put(row("a", 500, generation=2))
    assert wheel.next_due_us() == 500
    assert wheel.pop_due(499, 9) == []
    assert [one.generation for one in wheel.pop_due(500, 9)] == [2]


def test_a_cancelled_one_never_comes_out() -> None:
    wheel = Wheel()
    read(wheel, row("a", 10), row("b", 20))
    wheel.drop(ORDER, "a")
    assert names(wheel.pop_due(100, 9)) == ["b"]


def test_what_is_beyond_the_horizon_waits_in_the_store() -> None:
    wheel = Wheel()
    read(wheel)
    wheel.put(row("far", HORIZON + 1))
    assert len(wheel) == 0
    wheel.put(row("near", HORIZON))
    assert len(wheel) == 1


def test_moving_one_beyond_the_horizon_withdraws_the_near_time() -> None:
    wheel = Wheel()
    read(wheel, row("a", 10))
    wheel.put(row("a", HORIZON + 5, generation=2))
    assert wheel.pop_due(HORIZON, 9) == []


def test_what_is_set_while_the_store_is_read_is_not_lost() -> None:
    """The answer may be from before that commit."""
    wheel = Wheel()
    wheel.begin_read(HORIZON)
    wheel.put(row("new", 50))
    wheel.loaded([], NOW, HORIZON)
    assert names(wheel.pop_due(50, 9)) == ["new"]


def test_what_is_changed_while_the_store_is_read_wins_over_the_answer() -> None:
    wheel = Wheel()
    read(wheel, row("replaced", 10), row("cancelled", 10), row("fired", 10))
    fired = next(one for one in wheel.pop_due(10, 9) if one.name == "fired")
    wheel.forget(lambda _: True)
    wheel.begin_read(HORIZON)
    wheel.put(row("replaced", 700, generation=2))
    wheel.drop(ORDER, "cancelled")
    wheel.drop_stale(fired)
    wheel.loaded([row("replaced", 10), row("cancelled", 10), row("fired", 10)], NOW, HORIZON)
    assert wheel.pop_due(699, 9) == []
    assert [(one.name, one.generation) for one in wheel.pop_due(700, 9)] == [("replaced", 2)]


def test_a_replaced_one_is_not_replaced_back_by_its_stale_firing() -> None:
    wheel = Wheel()
    old = row("a", 10)
    read(wheel, old)
    wheel.pop_due(10, 9)
    wheel.put(row("a", 20, generation=2))
    wheel.drop_stale(old)
    assert [one.generation for one in wheel.pop_due(20, 9)] == [2]


@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "drop", "pop"]), st.sampled_from("abcd"), st.integers(0, 100)), max_size=60
    )
)
def test_the_wheel_agrees_with_a_dictionary(steps: list[tuple[str, str, int]]) -> None:
    wheel = Wheel()
    read(wheel)
    model: dict[str, int] = {}
    for what, name, number in steps:
        if what == "put":
            wheel.put(row(name, number))
            model[name] = number
        elif what == "drop":
            wheel.drop(ORDER, name)
            model.pop(name, None)
        else:
            due = wheel.pop_due(number, 100)
            assert sorted(names(due)) == sorted(one for one, at in model.items() if at <= number)
            assert [one.due_us for one in due] == sorted(one.due_us for one in due)
            for one in due:
                wheel.drop_stale(one)
                del model[one.name]
        assert wheel.next_due_us() == min(model.values(), default=None)
        assert len(wheel) == len(model)


# --- The clock -------------------------------------------------------------------------------------------------------


@given(st.integers(0, 10**15), st.lists(st.tuples(st.floats(0.001, 100), st.integers(0, 50_000)), max_size=30))
def test_the_estimate_never_runs_ahead_of_the_database(start_us: int, answers: list[tuple[float, int]]) -> None:
    """The database's clock runs steadily; each answer is received some microseconds after it was made, and is asked
    for as long before that: however slow, none makes the estimate worse."""
    monotonic = 0.0
    lag_us = 60_000
    clock = DatabaseClock(start_us - lag_us, monotonic)
    for pause_s, on_its_way_us in answers:
        monotonic += pause_s
        true_us = start_us + monotonic * 1e6
        sent = monotonic - 2 * on_its_way_us / 1e6
        clock.observe(round(true_us - on_its_way_us), sent=sent, received=monotonic)
        assert clock.now_us(monotonic) <= true_us + 2  # rounding of floats
        lag_us = min(lag_us, on_its_way_us)
        assert true_us - clock.now_us(monotonic) <= lag_us + 4


def test_a_better_answer_improves_the_estimate() -> None:
    clock = DatabaseClock(1_000_000 - 40_000, 1.0)  # that answer took 40 ms
    clock.observe(2_000_000 - 500, sent=1.999, received=2.0)
    assert clock.now_us(2.0) == 2_000_000 - 500
    clock.observe(3_000_000 - 300_000, sent=2.6, received=3.0)
    assert clock.now_us(3.0) == 3_000_000 - 500, "however slow an answer is: sleeps are counted from the estimate"


def test_a_database_clock_that_was_set_back_is_believed() -> None:
    clock = DatabaseClock(10_000_000, 0.0)
    clock.observe(11_000_000 - 20_000, sent=0.99, received=1.0)
    assert clock.now_us(1.0) == 11_000_000 - 20_000


# --- Recurring reminders ---------------------------------------------------------------------------------------------


@given(st.integers(0, 10**12), st.integers(1, 10**9), st.integers(0, 10**13))
def test_the_next_occurrence_keeps_the_grid_and_skips_what_was_missed(due_us: int, every_us: int, late_us: int) -> None:
    now_us = due_us + late_us
    missed, next_us = following(due_us, now_us, every_us=every_us, cron="", catch_up_all=False)
    assert next_us is not None
    assert next_us > now_us
    assert next_us == due_us + (missed + 1) * every_us
    assert next_us - now_us <= every_us


@given(st.integers(0, 10**12), st.integers(1, 10**9), st.integers(0, 10**13))
def test_with_catch_up_all_no_occurrence_is_skipped(due_us: int, every_us: int, late_us: int) -> None:
    expected = (0, due_us + every_us)
    assert following(due_us, due_us + late_us, every_us=every_us, cron="", catch_up_all=True) == expected
