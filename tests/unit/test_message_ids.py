"""Message ids, fingerprints and the send clock."""

import time
import uuid
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from perdure.entities.ids import SendClock, fingerprint, keyed_message_id, new_message_id, new_run_id
from perdure.entities.messages import OperationAddress


def test_message_ids_are_version_7_uuids_of_now() -> None:
    before_ms = time.time_ns() // 1_000_000
    ids = [uuid.UUID(new_message_id()) for _ in range(1_000)]
    after_ms = time.time_ns() // 1_000_000
    assert all(one.version == 7 and one.variant == uuid.RFC_4122 for one in ids)
    assert all(before_ms <= one.int >> 80 <= after_ms for one in ids)


def test_message_ids_are_unique_and_sort_by_time() -> None:
    ids = [new_message_id() for _ in range(10_000)]
    assert len(set(ids)) == len(ids)
    assert all(len(one) == 32 and one == one.lower() for one in ids)
    milliseconds = [one[:12] for one in ids]
    assert milliseconds == sorted(milliseconds)


def test_run_ids_sort_by_time_and_cannot_be_guessed() -> None:
    """S24: at least 128 random bits, as they are in tokens. Every bit that is not the time or the version changes."""
    before_ms = time.time_ns() // 1_000_000
    ids = [new_run_id() for _ in range(1_000)]
    assert before_ms <= int(ids[0][:12], 16) <= int(ids[-1][:12], 16) <= time.time_ns() // 1_000_000
    ones = zeros = 0
    for one in ids:
        ones |= int(one[12:], 16)
        zeros |= ~int(one[12:], 16)
    random_bits = ones & zeros & ((1 << 4 * (len(ids[0]) - 12)) - 1)
    assert random_bits.bit_count() == 130


def test_an_idempotency_key_serves_several_handlers() -> None:
    assert keyed_message_id("deposit", "k") != keyed_message_id("withdraw", "k")
    assert keyed_message_id("deposit", "k") == keyed_message_id("deposit", "k")


@given(st.lists(st.binary(max_size=20), max_size=4), st.lists(st.binary(max_size=20), max_size=4))
def test_fingerprints_tell_payloads_apart(one: list[bytes], other: list[bytes]) -> None:
    assert len(fingerprint(*one)) == 16
    assert (fingerprint(*one) == fingerprint(*other)) == (one == other)


@given(st.integers(0, 2**50), st.lists(st.integers(0, 2**50), min_size=1, max_size=50))
def test_the_send_clock_never_stands_still_nor_goes_back(last: int, walls: list[int]) -> None:
    clock = SendClock(last)
    positions = [clock.next(wall) for wall in walls]
    assert positions[0] > last
    assert all(later > earlier for earlier, later in pairwise(positions))
    assert all(position >= wall for position, wall in zip(positions, walls, strict=True))
    assert clock.last == positions[-1]


@given(st.from_regex(r"[a-z_][a-z0-9_]{0,20}", fullmatch=True), st.integers(0, 10**9))
def test_operation_addresses_round_trip(workflow: str, number: int) -> None:
    address = OperationAddress(workflow, new_message_id(), number)
    assert OperationAddress.parse(str(address)) == address
