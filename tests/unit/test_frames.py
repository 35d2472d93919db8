"""Frames and stored values: whatever bytes come, the only error is a decode error."""

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.cluster.wire import Answer, Offer, decode_answer, decode_offer, encode
from perdure.entities.engine.journal import (
    Entry,
    Event,
    EventKind,
    OperationKind,
    Scheduled,
    decode_entry,
    encode_entry,
)
from perdure.entities.errors import ErrorBody
from perdure.entities.messages import (
    Envelope,
    Kind,
    Outcome,
    Reply,
    Status,
    decode_error,
    decode_outcome,
    encode_json,
)

DECODERS = (decode_offer, decode_answer, decode_outcome, decode_error, decode_entry)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.integers(0, 2**62)
envelopes: st.SearchStrategy[Envelope] = st.builds(
    Envelope,
    id=texts,
    type=texts,
    key=texts,
    kind=st.sampled_from(Kind),
    name=texts,
    args=st.binary(max_size=30),
    sender=texts,
    position=numbers,
    is_retry=st.booleans(),
    reply_to=texts,
    delay_us=numbers,
    chain=st.lists(texts, max_size=3).map(tuple),
)
replies: st.SearchStrategy[Reply] = st.builds(
    Reply, id=texts, status=st.sampled_from(Status), body=st.binary(max_size=30), version=numbers
)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False)
    | texts
    | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=16) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


def offer(frames: list[Envelope]) -> Offer:
    return Offer("link", 1, 2, frames, 3)


@given(st.lists(envelopes, max_size=5))
def test_offers_round_trip(frames: list[Envelope]) -> None:
    assert decode_offer(encode(offer(frames))) == offer(frames)


@given(st.lists(replies, max_size=5))
def test_answers_round_trip(frames: list[Reply]) -> None:
    answer = Answer([5] * len(frames), frames, 7)
    assert decode_answer(encode(answer)) == answer


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_fail_with_a_decode_error(data: bytes) -> None:
    for decode in DECODERS:
        with contextlib.suppress(msgspec.DecodeError):
            decode(data)


@given(values)
def test_any_well_formed_value_decodes_or_fails_with_a_decode_error(value: object) -> None:
    for write in (msgspec.msgpack.encode, msgspec.json.encode):
        try:
            data = write(value)
        except (OverflowError, msgspec.EncodeError):
            continue
        for decode in DECODERS:
            with contextlib.suppress(msgspec.DecodeError):
                decode(data)


@given(st.lists(envelopes, min_size=1, max_size=3), st.data())
def test_damaged_frames_are_noticed_or_still_frames(frames: list[Envelope], data: st.DataObject) -> None:
    encoded = bytearray(encode(offer(frames)))
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] ^= data.draw(st.integers(1, 255))
    try:
        decoded = decode_offer(bytes(encoded))
    except msgspec.DecodeError:
        return
    assert all(isinstance(one, Envelope) for one in decoded.envelopes)


@given(st.lists(envelopes, min_size=1, max_size=3), st.data())
def test_truncated_frames_are_refused(frames: list[Envelope], data: st.DataObject) -> None:
    encoded = encode(offer(frames))
    with pytest.raises(msgspec.DecodeError):
        decode_offer(encoded[: data.draw(st.integers(0, len(encoded) - 1))])


def test_deep_nesting_is_a_decode_error() -> None:
    for data in (b"\x91" * 100_000 + b"\xc0", b"[" * 100_000, b'{"details":' * 50_000, b'{"value":' + b"[" * 100_000):
        for decode in DECODERS:
            with pytest.raises(msgspec.DecodeError):
                decode(data)


def test_outcomes_and_entries_round_trip() -> None:
    good = Outcome(ok=True, value=msgspec.Raw(b'{"a": [1]}'))
    back = decode_outcome(encode_json(good))
    assert (back.ok, bytes(back.value)) == (True, b'{"a": [1]}')
    bad = decode_outcome(encode_json(Outcome(ok=False, error=ErrorBody("busy", "later"))))
    assert bad.error == ErrorBody("busy", "later")
    entry = Entry(
        now_us=5,
        events=[Event(EventKind.VALUE, 3, msgspec.Raw(b'"x"')), Event(EventKind.CANCEL)],
        operations=[Scheduled(4, OperationKind.TIMER, "")],
        detached=True,
        state=msgspec.Raw(b'{"n": 1}'),
    )
    again = decode_entry(encode_entry(entry))
    assert (again.now_us, again.operations, again.detached, bytes(again.state)) == (
        5,
        entry.operations,
        True,
        b'{"n": 1}',
    )
    assert [(e.kind, e.operation, bytes(e.value)) for e in again.events] == [
        ("value", 3, b'"x"'),
        ("cancel", -1, b"null"),
    ]
