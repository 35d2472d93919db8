"""Arguments and results: validated strictly at both ends, refused with the field and the reason."""

import contextlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from perdure.entities import DefinitionError, InvalidArguments, PayloadTooLarge
from perdure.entities.errors import ResultNotSerialisable
from perdure.entities.signature import PAYLOAD_BYTES_MAX, Signature, has_nul


class Product(BaseModel):
    id: int
    name: str


async def order(product: Product, count: Annotated[int, Field(ge=1)], when: datetime | None = None) -> Product:
    del count, when
    return product


async def note(text: str) -> str:
    return text


async def nothing() -> None:
    return None


ORDER = Signature(order, "Shop.order", has_self=False)
NOTE = Signature(note, "Shop.note", has_self=False)
NOTHING = Signature(nothing, "Shop.nothing", has_self=False)

PEN = Product(id=1, name="pen")


def test_arguments_round_trip() -> None:
    when = datetime(2030, 1, 2, tzinfo=UTC)
    data = ORDER.dump_arguments((PEN,), {"count": 2, "when": when})
    assert json.loads(data) == {"product": {"id": 1, "name": "pen"}, "count": 2, "when": "2030-01-02T00:00:00Z"}
    assert ORDER.load_arguments(data) == {"product": PEN, "count": 2, "when": when}


def test_defaults_stay_with_the_callee() -> None:
    assert "when" not in ORDER.load_arguments(ORDER.dump_arguments((PEN, 1), {}))
    assert not ORDER.takes_nothing
    assert NOTHING.takes_nothing
    assert NOTHING.load_arguments(NOTHING.dump_arguments((), {})) == {}


@pytest.mark.parametrize(
    ("args", "kwargs", "field"),
    [
        ((PEN,), {}, "count"),
        ((PEN, "2"), {}, "count"),
        ((PEN, 2.0), {}, "count"),
        ((PEN, True), {}, "count"),
        ((PEN, 0), {}, "count"),
        (("pen", 1), {}, "product"),
        ((PEN, 1), {"when": "tomorrow"}, "when"),
        ((PEN, 1), {"colour": "red"}, "colour"),
    ],
)
def test_wrong_arguments_are_refused_at_the_caller_with_the_field(
    args: tuple[Any, ...], kwargs: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidArguments, match=rf"Shop\.order.*{field}") as caught:
        ORDER.dump_arguments(args, kwargs)
    assert [problem["field"].split(".")[0] for problem in caught.value.details["errors"]] == [field]


def test_too_many_and_doubled_arguments() -> None:
    with pytest.raises(InvalidArguments, match="takes 3 arguments but 4 were given"):
        ORDER.dump_arguments((PEN, 1, None, 5), {})
    with pytest.raises(InvalidArguments, match="`product` twice"):
        ORDER.dump_arguments((PEN,), {"product": PEN})
    with pytest.raises(InvalidArguments):
        NOTHING.dump_arguments((1,), {})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe",
        b'{"text": 5}',
        b'{"text": null}',
        b"{}",
        b'{"text": "a", "more": 1}',
        b'{"TEXT": "a"}',
        b'{"text": "\\ud800"}',
        b"[" * 100_000,
    ],
)
def test_wrong_json_is_refused_at_the_host(data: bytes) -> None:
    with pytest.raises(InvalidArguments, match=r"Shop\.note"):
        NOTE.load_arguments(data)


@given(st.binary(max_size=60))
def test_any_bytes_are_arguments_or_invalid(data: bytes) -> None:
    for signature in (NOTE, ORDER, NOTHING):
        with contextlib.suppress(InvalidArguments):
            signature.load_arguments(data)


@given(st.text())
def test_every_text_travels_or_is_refused_at_the_caller(text: str) -> None:
    try:
        data = NOTE.dump_arguments((text,), {})
    except InvalidArguments:
        assert "\x00" in text or any("\ud800" <= char <= "\udfff" for char in text)
        return
    assert NOTE.load_arguments(data) == {"text": text}


@pytest.mark.parametrize("text", ["\ud800", "a\x00b"])
def test_what_postgres_cannot_store_is_refused(text: str) -> None:
    with pytest.raises(InvalidArguments):
        NOTE.dump_arguments((text,), {})
    with pytest.raises(ResultNotSerialisable):
        NOTE.dump_result(text)


@given(st.text(st.sampled_from("\\u0\x00a"), max_size=12))
def test_has_nul_finds_nul_and_nothing_else(text: str) -> None:
    assert has_nul(json.dumps({"a": text, text: 1}).encode()) == ("\x00" in text)


def test_oversized_payloads_are_refused_with_the_limit() -> None:
    with pytest.raises(PayloadTooLarge, match=str(PAYLOAD_BYTES_MAX)) as caught:
        NOTE.dump_arguments(("x" * PAYLOAD_BYTES_MAX,), {})
    assert caught.value.details["limit"] == PAYLOAD_BYTES_MAX
    with pytest.raises(PayloadTooLarge):
        NOTE.load_arguments(b'{"text": "' + b"x" * PAYLOAD_BYTES_MAX + b'"}')
    with pytest.raises(ResultNotSerialisable, match=str(PAYLOAD_BYTES_MAX)):
        NOTE.dump_result("x" * PAYLOAD_BYTES_MAX)


@pytest.mark.parametrize("value", [5, None, b"\xff\xfe", object(), iter([5]), nothing])
def test_a_result_that_does_not_fit_is_refused(value: Any) -> None:
    with pytest.raises(ResultNotSerialisable, match=r"Shop\.note"):
        NOTE.dump_result(value)


def test_a_stored_result_that_does_not_fit_is_refused() -> None:
    assert NOTE.load_result(b'"x"') == "x"
    for data in (b"5", b"", b"{", b"null"):
        with pytest.raises(ResultNotSerialisable):
            NOTE.load_result(data)


async def ratio(value: float) -> float:
    return value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_json_does_not_have_are_refused(value: float) -> None:
    signature = Signature(ratio, "Shop.ratio", has_self=False)
    with pytest.raises(InvalidArguments):
        signature.load_arguments(signature.dump_arguments((value,), {}))
    with pytest.raises(ResultNotSerialisable):
        signature.dump_result(value)


async def star(*parts: int) -> None: ...
async def double_star(**parts: int) -> None: ...
async def bare(part) -> None: ...  # type: ignore[no-untyped-def]  # noqa: ANN001 # pyright: ignore[reportMissingParameterType]
async def positional(part: int, /) -> None: ...


@pytest.mark.parametrize(
    ("fn", "reason"),
    [
        (star, r"\*parts"),
        (double_star, r"\*parts"),
        (bare, "`part` has no type annotation"),
        (positional, "`part` is positional-only"),
    ],
)
def test_parameters_that_cannot_travel_are_refused_with_file_and_line(fn: Callable[..., Any], reason: str) -> None:
    with pytest.raises(DefinitionError, match=reason) as caught:
        Signature(fn, "Shop.order", has_self=False)
    assert f"{__file__}:{fn.__code__.co_firstlineno}" in str(caught.value)


def no_self() -> None: ...


def test_a_method_needs_self() -> None:
    with pytest.raises(DefinitionError, match="self"):
        Signature(no_self, "Shop.no_self", has_self=True)


async def unknown(x: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821 # pyright: ignore[reportUndefinedVariable]
async def generator(x: Callable[[], int]) -> None: ...
async def opaque(x: object.__class__) -> "Signature": ...  # type: ignore[valid-type,empty-body]


@pytest.mark.parametrize("fn", [unknown, opaque])
def test_annotations_that_cannot_be_validated_are_refused_with_file_and_line(fn: Callable[..., Any]) -> None:
    signature = Signature(fn, "Shop.order", has_self=False)
    with pytest.raises(DefinitionError, match="annotations cannot be validated") as caught:
        signature.compile()
    assert f"{__file__}:{fn.__code__.co_firstlineno}" in str(caught.value)


async def choose(size: Literal["s", "m"]) -> dict[str, int]:
    return {size: 1}


def test_schemas_for_people() -> None:
    arguments, result = Signature(choose, "Shop.choose", has_self=False).json_schema()
    assert arguments["properties"]["size"]["enum"] == ["s", "m"]
    assert arguments["required"] == ["size"]
    assert arguments["additionalProperties"] is False
    assert result["additionalProperties"] == {"type": "integer"}


def test_a_value_that_does_not_fit_is_not_repeated_in_the_error() -> None:
    """It may be secret: what callers are told names the place and the reason."""

    def total() -> dict[str, int]:
        raise NotImplementedError

    signature = Signature(total, "Till.total", has_self=False)
    for attempt in (lambda: signature.load_result(b'{"a":"hunter2"}'), lambda: signature.dump_result({"a": "hunter2"})):
        with pytest.raises(ResultNotSerialisable) as caught:
            attempt()
        assert "hunter2" not in str(caught.value)
