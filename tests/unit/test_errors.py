"""Every error survives storage (body, JSON) and a process boundary (pickle) with class, message and details."""

import json
import pickle

import msgspec
import pytest

from perdure.entities import ApplicationError, InvalidArguments, PerdureError, WorkflowFailed
from perdure.entities.engine import effects
from perdure.entities.engine.deliveries import failure_body, workflow_error
from perdure.entities.errors import ERRORS, ErrorBody, Stop, error_body, error_from_body, user_error
from perdure.entities.messages import decode_error, encode_json
from perdure.entities.store import port

__all__ = ["effects", "port"]  # imported so that their error classes are in the tree


class CardDeclined(Exception):
    """A user's own."""


class Fraud(ApplicationError):
    """A user's own, of our kind."""


def classes() -> list[type[PerdureError]]:
    found: list[type[PerdureError]] = [PerdureError]
    for cls in found:
        found.extend(sub for sub in cls.__subclasses__() if sub not in found)
    return [cls for cls in found if cls.__module__.startswith("perdure.")]


every_error = pytest.mark.parametrize("cls", classes(), ids=lambda cls: cls.__name__)


@every_error
def test_round_trip_through_body_and_json(cls: type[PerdureError]) -> None:
    error = cls("Order/o-1: something happened; do this", limit=3, chain=["a", "b"])
    stored = encode_json(error.body())
    assert isinstance(json.loads(stored), dict)
    back = error_from_body(decode_error(stored))
    assert type(back) is cls
    assert back.message == str(back) == "Order/o-1: something happened; do this"
    assert back.details == {"limit": 3, "chain": ["a", "b"]}
    assert back.body() == error.body()


@every_error
def test_round_trip_through_pickle(cls: type[PerdureError]) -> None:
    error = cls("message", limit=3)
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is cls
    assert (back.message, back.details) == ("message", {"limit": 3})


@every_error
def test_every_error_explains_itself_and_has_a_code_of_its_own(cls: type[PerdureError]) -> None:
    assert cls.__doc__
    assert cls().message == cls.__doc__.split("\n")[0]
    if cls is not PerdureError:
        assert "code" in vars(cls), "a class without a code of its own comes back as its parent"
        assert ERRORS[cls.code] is cls


def test_an_application_error_keeps_type_and_retryability() -> None:
    error = ApplicationError("no funds", type="Funds", non_retryable=True, missing=12)
    for back in (error_from_body(error.body()), pickle.loads(pickle.dumps(error))):
        assert isinstance(back, ApplicationError)
        assert (back.type, back.non_retryable, back.details) == ("Funds", True, {"missing": 12})


def test_causes_travel_along() -> None:
    try:
        try:
            raise CardDeclined("code 51")
        except CardDeclined as declined:
            raise ApplicationError("card declined") from declined
    except ApplicationError as error:
        back = error_from_body(decode_error(encode_json(error.body())))
    assert isinstance(back.__cause__, ApplicationError)
    assert (back.__cause__.type, str(back.__cause__)) == ("CardDeclined", "code 51")


def test_an_unknown_code_is_still_an_error_of_ours() -> None:
    back = error_from_body(ErrorBody("from_the_future", "hello", details={"x": 1}))
    assert type(back) is PerdureError
    assert back.details == {"x": 1}


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text for you")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (CardDeclined("plain"), "plain"),
        (CardDeclined("nul \x00 inside"), "nul \N{REPLACEMENT CHARACTER} inside"),
        (CardDeclined("lone \ud800 surrogate"), "lone ? surrogate"),
        (Unprintable(), "<the exception's __str__ raised>"),
        (CardDeclined("x" * 100_000), "x" * 8_000),
        (KeyError("k"), "'k'"),
    ],
)
def test_any_exception_of_a_user_can_be_stored(error: Exception, text: str) -> None:
    body = error_body(error)
    assert body.code == "user_error"
    assert body.type == type(error).__name__
    assert body.message == text
    decode_error(encode_json(body))


def test_a_users_class_is_found_by_name_where_the_code_can_see_it() -> None:
    back = user_error(error_body(CardDeclined("51")), [globals()])
    assert type(back) is CardDeclined
    assert back.args == ("51",)
    assert user_error(error_body(CardDeclined("51")), [{}]) is None
    builtin = user_error(error_body(LookupError("x")), [{}])
    assert type(builtin) is LookupError


def test_a_users_application_error_subclass_comes_back_with_its_details() -> None:
    back = user_error(error_body(Fraud("stop", score=9)), [globals()])
    assert type(back) is Fraud
    assert (back.message, back.details, back.type) == ("stop", {"score": 9}, "Fraud")


@pytest.mark.parametrize("name", ["print", "SystemExit", "BaseException", "classes", "int"])
def test_only_exception_classes_are_looked_up(name: str) -> None:
    assert user_error(ErrorBody("user_error", "x", type=name), [globals()]) is None


def test_a_caller_sees_its_own_errors_as_they_are_and_others_wrapped() -> None:
    own = failure_body("Order/o-1.pay", InvalidArguments("bad", errors=[]))
    assert own.code == "invalid_argument"
    wrapped = error_from_body(failure_body("Order/o-1.pay", CardDeclined("51")))
    assert wrapped.message == "Order/o-1.pay raised CardDeclined: 51"
    assert wrapped.details["error_type"] == "CardDeclined"
    failed = error_from_body(workflow_error("Order/o-1.run", CardDeclined("51"), is_cancelled=False))
    assert isinstance(failed, WorkflowFailed)
    assert failed.error_type == "CardDeclined"


def test_stop_cannot_be_swallowed_by_except_exception() -> None:
    assert issubclass(Stop, BaseException)
    assert not issubclass(Stop, Exception)


def test_garbage_is_no_error_body() -> None:
    for garbage in (b"", b"null", b"{}", b"[1]", b'{"code": 1, "message": "x"}', b"\xff"):
        with pytest.raises(msgspec.DecodeError):
            decode_error(garbage)
