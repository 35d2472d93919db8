"""Damaging bytes the way disks, bugs and people do; from a seed, so that a finding is a number."""

from random import Random

_TOKENS = (
    b"null", b"true", b"NaN", b"-Infinity", b"1e400", b"-0.0", b"1E-400", b"9" * 25, b"9" * 5_000, b"-1", b"2147483648",
    b"9223372036854775808", b'""', b"{}", b"[]", b'"\\ud800"', b"\\u0000", b'\\"', b"\x00", b"\xff", b"\xed\xa0\x80",
    b"\xc3", "ü😀".encode(), b"../", b"%s%n", b"%00", b"'; --", b"\r\n", b"{time:%s}", b"\xdf\xff\xff\xff\xff", b"\xc1",
    b"\xdb\x7f\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"*/0", b"60", b"L", b"#", b"-", b"/", b"&", b"=", b"|",
)  # fmt: skip
_NESTS = ((b"[", b"]"), (b'{"a":', b"}"), (b"\x91", b""), (b"\x81\xa1a", b""), (b'{"cause":', b"}"))
SIZE_MAX = 512 * 1024
"""Nothing larger than a few of these gets past the limits on what is read."""
DEPTHS = (3, 200, 3_000, 60_000)


def mutated(random: Random, examples: tuple[bytes, ...]) -> bytes:
    """One to four damages on one of the examples."""
    data = bytearray(random.choice(examples))
    for _ in range(random.randint(1, 4)):
        data = _damaged(random, data, examples)
    return bytes(data[:SIZE_MAX])


def _damaged(random: Random, data: bytearray, examples: tuple[bytes, ...]) -> bytearray:
    at = random.randint(0, len(data))
    to = min(len(data), at + random.choice((1, 2, 4, 16, len(data))))
    match random.randrange(9):
        case 0 if at < len(data):
            data[at] ^= 1 << random.randrange(8)
        case 1 if at < len(data):
            data[at] = random.randrange(256)
        case 2:
            del data[at:]
        case 3:
            del data[at:to]
        case 4:
            data[at:at] = data[at:to] * random.choice((1, 2, 50))
        case 5:
            data[at:at] = random.choice(_TOKENS)
        case 6:
            data[at:to] = random.choice(_TOKENS)
        case 7:
            other = random.choice(examples)
            data[at:] = other[random.randint(0, len(other)) :]
        case _:
            opening, closing = random.choice(_NESTS)
            depth = random.choice(DEPTHS)
            middle = data[at:to] if random.random() < 0.5 else b"1"
            data[at:to] = opening * depth + bytes(middle) + closing * random.choice((depth, depth, 0))
    return data
