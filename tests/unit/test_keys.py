"""Entity keys: what addresses an entity, and what is refused with the reason before anything is stored."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.entities import Entity, EntityId, InvalidKey
from perdure.entities.ids import KEY_BYTES_MAX, check_key
from perdure.entities.shard import shard_of


class Parcel(Entity):
    weight: int = 0


GOOD = [
    "a",
    "order-42",
    "a/b/c",
    "/",
    "..",
    "with space",
    "é",
    "鍵",
    "\N{PACKAGE}",
    "%2F?#&=",
    "'; drop table entities; --",
    "k" * KEY_BYTES_MAX,
    "é" * (KEY_BYTES_MAX // 2),
]

BAD = [
    ("", "empty"),
    ("   ", "empty"),
    ("\t\n", "empty"),
    ("a\x00b", "control"),
    ("a\nb", "control"),
    ("a\x7fb", "control"),
    ("é\u0085", "control"),
    ("\ud800", "surrogate"),
    ("ok\udfff", "surrogate"),
    ("k" * (KEY_BYTES_MAX + 1), f"limit is {KEY_BYTES_MAX}"),
    ("é" * (KEY_BYTES_MAX // 2 + 1), f"limit is {KEY_BYTES_MAX}"),
    ("k" * 10_240, f"limit is {KEY_BYTES_MAX}"),
    (42, "str(42)"),
    (None, "NoneType"),
    (b"bytes", "bytes"),
]


@pytest.mark.parametrize("key", GOOD)
def test_a_good_key_is_taken_as_it_is(key: str) -> None:
    assert check_key("Parcel", key) == key
    assert Parcel.ref(key).key == key
    assert EntityId.parse(f"Parcel/{key}") == EntityId("Parcel", key)


@pytest.mark.parametrize(("key", "reason"), BAD)
def test_a_bad_key_is_refused_with_type_and_reason(key: str, reason: str) -> None:
    with pytest.raises(InvalidKey, match=r"^Parcel: ") as caught:
        Parcel.ref(key)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 300, "the message must not repeat a huge key"


@pytest.mark.parametrize("text", ["", "Parcel", "/key", "Parcel/", "Parcel/ "])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidKey):
        EntityId.parse(text)


@given(st.text(max_size=300))
def test_every_text_is_accepted_or_refused_as_invalid_key(key: str) -> None:
    try:
        accepted = check_key("Parcel", key)
    except InvalidKey:
        return
    assert accepted == key
    assert str(EntityId.parse(f"Parcel/{key}")) == f"Parcel/{key}"
    assert 0 <= shard_of("Parcel", key, 7) < 7


def test_equal_looking_keys_are_different_entities() -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    assert Parcel.ref(composed) != Parcel.ref(decomposed)
    assert Parcel.ref("A") != Parcel.ref("a")


def test_refs_are_equal_and_hash_by_address() -> None:
    assert Parcel.ref("k") == Parcel.ref("k")
    assert len({hash(Parcel.ref("k")), hash(Parcel.ref("k")), hash(Parcel.ref("l"))}) == 2
    assert repr(Parcel.ref("k")) == "<ref Parcel/k>"


def test_shards_are_frozen_for_ever() -> None:
    """Stored rows carry these numbers in their keys."""
    assert [shard_of("Order", f"order-{n}", 256) for n in range(4)] == [244, 13, 194, 108]
    assert shard_of("Ordör", "schlüssel/鍵", 256) == 2


def test_keys_that_count_spread_over_shards() -> None:
    counts = [0] * 16
    for number in range(16_000):
        counts[shard_of("Order", f"order-{number}", 16)] += 1
    assert min(counts) > 850
    assert max(counts) < 1_150


def test_state_cannot_be_read_from_a_ref() -> None:
    with pytest.raises(AttributeError, match="read it through a @query"):
        _ = Parcel.ref("k").weight
    with pytest.raises(AttributeError, match="no handler, query, workflow or mailbox `colour`"):
        _ = Parcel.ref("k").colour  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
