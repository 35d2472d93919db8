"""Which shard an entity belongs to. Pure, and frozen for ever: stored rows carry its results in their keys.

BLAKE2b rather than CRC: keys that differ in a counter spread evenly over any number of shards, not only powers of two.
"""

from hashlib import blake2b


def shard_of(type_name: str, key: str, count: int) -> int:
    """Shard of an entity, from 0 to `count` - 1.

    The first eight bytes of BLAKE2b (digest size 8) of the UTF-8 text `Type/key`, as a big-endian number, modulo
    `count`. A type's name holds no slash, so no two entities share a text.
    """
    return int.from_bytes(blake2b(f"{type_name}/{key}".encode(), digest_size=8).digest()) % count
