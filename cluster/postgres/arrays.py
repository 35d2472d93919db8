"""Arrays in Postgres' binary format, made in one go.

A group commit sends thousands of values; psycopg's list dumper handles them one by one (about 1 µs each). These
functions make the bytes of a whole array with C-level loops, and JSON passes through without being decoded.
Layout: number of dimensions, has-null flag, element type, length, lower bound, then (length, bytes) per element.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from struct import Struct
from typing import Any, NamedTuple

from psycopg import postgres

_HEADER = Struct("!iiIii")
_EMPTY = Struct("!iiI")
_LENGTH = Struct("!i").pack
_JSON_LENGTH = Struct("!iB").pack
_JSONB_VERSION = 1
_INT4 = Struct("!i").pack
_INT8 = Struct("!q").pack
_FOUR_BYTES, _EIGHT_BYTES = _LENGTH(4), _LENGTH(8)
_BOOL = (_LENGTH(1) + b"\x00", _LENGTH(1) + b"\x01")

POSTGRES_EPOCH_US = 946_684_800_000_000
"""2000-01-01, where timestamptz counts from, in microseconds since the Unix epoch."""


class Array(NamedTuple):
    """A finished array: its type and its bytes."""

    oid: int
    data: bytes


def _oids(element: str) -> tuple[int, int]:
    info = postgres.types[element]
    return info.array_oid, info.oid


_INT4S, _INT8S, _TEXTS, _JSONS = _oids("int4"), _oids("int8"), _oids("text"), _oids("jsonb")
_BYTEAS, _BOOLS, _TIMES = _oids("bytea"), _oids("bool"), _oids("timestamptz")


def int4s(values: Sequence[int]) -> Array:
    """integer[]"""
    return _fixed(_INT4S, _FOUR_BYTES, map(_INT4, values), len(values))


def int8s(values: Sequence[int]) -> Array:
    """bigint[]"""
    return _fixed(_INT8S, _EIGHT_BYTES, map(_INT8, values), len(values))


def times(values: Sequence[int]) -> Array:
    """timestamptz[] of microseconds since the Unix epoch."""
    return _fixed(_TIMES, _EIGHT_BYTES, [_INT8(value - POSTGRES_EPOCH_US) for value in values], len(values))


def texts(values: Sequence[str]) -> Array:
    """text[]"""
    return _varying(_TEXTS, list(map(str.encode, values)))


def byteas(values: Sequence[bytes]) -> Array:
    """bytea[]"""
    return _varying(_BYTEAS, values)


def jsons(values: Sequence[bytes]) -> Array:
    """jsonb[] of UTF-8 JSON texts."""
    framed = chain.from_iterable([(_JSON_LENGTH(len(value) + 1, _JSONB_VERSION), value) for value in values])
    return _array(_JSONS, len(values), b"".join(framed))


def bools(values: Sequence[bool]) -> Array:
    """boolean[]"""
    return _array(_BOOLS, len(values), b"".join([_BOOL[value] for value in values]))


def _array(oids: tuple[int, int], count: int, elements: bytes) -> Array:
    array_oid, element_oid = oids
    if count == 0:
        return Array(array_oid, _EMPTY.pack(0, 0, element_oid))
    return Array(array_oid, _HEADER.pack(1, 0, element_oid, count, 1) + elements)


def _fixed(oids: tuple[int, int], length: bytes, packed: Iterable[bytes], count: int) -> Array:
    return _array(oids, count, length + length.join(packed))


def _varying(oids: tuple[int, int], values: Sequence[bytes]) -> Array:
    framed = chain.from_iterable(zip(map(_LENGTH, map(len, values)), values, strict=True))
    return _array(oids, len(values), b"".join(framed))


Encoder = Callable[[Sequence[Any]], Array]
"""Makes an array of one column's values."""
