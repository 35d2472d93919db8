from collections import Counter

import pytest

from perdure.entities.shard import shard_of


@pytest.mark.parametrize(
    ("type_name", "key", "count", "shard"),
    [("Order", "order-42", 256, 100), ("A", "b", 256, 192), ("Ä", "ß/😀", 7, 3)],
)
def test_shards_never_change(type_name: str, key: str, count: int, shard: int) -> None:
    """Stored rows carry their shard: a change here would lose every entity."""
    assert shard_of(type_name, key, count) == shard


@pytest.mark.parametrize("count", [1, 7, 16, 256, 1_000])
def test_counters_spread_evenly(count: int) -> None:
    found = Counter(shard_of("Order", f"order-{number}", count) for number in range(count * 100))
    assert set(found) == set(range(count))
    assert max(found.values()) < 170
