"""What is stored of where an exception came from: places only, bounded whatever it is."""

from collections.abc import Callable

import pytest

from perdure.entities.errors import error_body, error_from_body
from perdure.entities.traces import FRAMES_MAX, TRACE_BYTES_MAX, trace_of

SECRET = "pin-1234"


def raised_by(work: Callable[[], object]) -> BaseException:
    try:
        work()
    except Exception as error:
        return error
    raise AssertionError


def charge(pin: str) -> None:
    raise ValueError(f"{pin} is wrong")


def pay() -> None:
    pin = SECRET
    try:
        charge(pin)
    except ValueError as error:
        raise RuntimeError("no payment") from error


def test_it_names_places_of_the_error_and_of_its_causes_and_no_values() -> None:
    text = trace_of(raised_by(pay))
    error, cause = text.split("\nbecause of ")
    assert error.startswith("RuntimeError, raised in")
    assert f'File "{__file__}", line {pay.__code__.co_firstlineno + 5}, in pay' in error
    assert cause.startswith("ValueError, raised in")
    assert cause.endswith(f'File "{__file__}", line {charge.__code__.co_firstlineno + 1}, in charge')
    assert SECRET not in text
    assert "is wrong" not in text


def test_only_the_innermost_frames_are_kept() -> None:
    def deeper(levels: int) -> None:
        if levels == 0:
            charge("x")
        deeper(levels - 1)

    text = trace_of(raised_by(lambda: deeper(300)))
    assert text.count("File ") == FRAMES_MAX
    assert text.endswith("in charge")


def test_frames_below_user_code_are_left_out() -> None:
    assert trace_of(KeyError("never raised")) == ""
    called = raised_by(lambda: error_from_body(None))  # type: ignore[arg-type]
    own = called.__traceback__
    while own is not None and own.tb_next is not None:
        own = own.tb_next
    assert trace_of(AttributeError().with_traceback(own)) == "", "perdure's own alone"
    assert trace_of(called).endswith("in error_from_body"), "what user code called is told"


@pytest.mark.parametrize("name", ["x" * 100_000, "ü" * 5_000, "\N{PILE OF POO}" * 5_000, "\udcff"])
def test_it_is_bounded_and_can_be_stored_whatever_files_are_called(name: str) -> None:
    code = compile("def dive(n): return dive(n - 1) if n else 1 / 0", "f.py", "exec").replace(co_filename=name)
    places: dict[str, Callable[[int], object]] = {}
    exec(code, places)
    dive = places["dive"]
    dive.__code__ = dive.__code__.replace(co_filename=name, co_qualname=name)
    error = raised_by(lambda: dive(50))
    for _ in range(50):
        outer = RuntimeError("again").with_traceback(error.__traceback__)
        outer.__cause__ = error
        error = outer
    data = trace_of(error).encode()
    assert 0 < len(data) <= TRACE_BYTES_MAX


def test_a_nul_in_a_name_cannot_reach_the_database() -> None:
    def broken() -> None:
        raise ValueError

    broken.__code__ = broken.__code__.replace(co_filename="a\x00b")
    assert "\x00" not in trace_of(raised_by(broken))


def test_an_error_that_is_its_own_cause_has_an_end() -> None:
    error = raised_by(pay)
    error.__cause__ = error
    assert trace_of(error).count("RuntimeError, raised in") == 5


def test_errors_that_travel_carry_none() -> None:
    assert error_body(raised_by(pay)).traceback == ""
