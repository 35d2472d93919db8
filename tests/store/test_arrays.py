"""Arrays that we write are arrays that Postgres reads."""

from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.cluster.embedded import EmbeddedPostgres
from perdure.cluster.postgres import arrays
from perdure.cluster.postgres.exchange import Session

INT4, INT8 = st.integers(-(2**31), 2**31 - 1), st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))


async def round_trip(server: EmbeddedPostgres, array: arrays.Array, element: str) -> list[Any]:
    session = Session(await psycopg.AsyncConnection.connect(server.dsn, autocommit=True))
    try:
        (rows,) = await session.transact([(f"select * from unnest($1::{element}[])", (array,))])
    finally:
        await session.close()
    return [value for (value,) in rows]


@pytest.mark.parametrize(
    ("encode", "element", "values"),
    [
        (arrays.int4s, "int4", [0, -1, 2**31 - 1, -(2**31)]),
        (arrays.int8s, "int8", [0, -1, 2**63 - 1, -(2**63)]),
        (arrays.texts, "text", ["", "ü", "😀", "a" * 70_000, "NULL", "{"]),
        (arrays.byteas, "bytea", [b"", b"\x00\xff", b"x" * 70_000]),
        (arrays.bools, "bool", [True, False, True]),
        (arrays.times, "timestamptz", [0, 1, 946_684_800_000_000, 1_700_000_000_123_456, -1]),
        (arrays.jsons, "jsonb", [b"{}", b'{"a": [1, null]}', b'"x"', b"null"]),
    ],
)
async def test_values_survive(server: EmbeddedPostgres, encode: Any, element: str, values: list[Any]) -> None:
    assert await round_trip(server, encode(values), element) == values
    assert await round_trip(server, encode([]), element) == []
    assert await round_trip(server, encode(values[:1]), element) == values[:1]


@given(st.lists(INT4), st.lists(INT8), st.lists(TEXT), st.lists(st.binary()), st.lists(st.booleans()))
def test_bytes_are_those_of_psycopg(
    int4: list[int], int8: list[int], text: list[str], binary: list[bytes], flags: list[bool]
) -> None:
    columns: list[tuple[arrays.Encoder, list[Any], str]] = [
        (arrays.int4s, int4, "int4"),
        (arrays.int8s, int8, "int8"),
        (arrays.texts, text, "text"),
        (arrays.byteas, binary, "bytea"),
        (arrays.bools, flags, "bool"),
    ]
    for encode, values, kind in columns:
        array = encode(values)
        info = psycopg.postgres.types[kind]
        loader = psycopg.postgres.adapters.get_loader(info.array_oid, psycopg.pq.Format.BINARY)
        assert loader is not None
        assert array.oid == info.array_oid
        assert loader(info.array_oid).load(array.data) == values
