"""The SQL view of a type: typed columns, equal to committed states, following the class, never failing over a row."""

import asyncio
import json
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Literal

import psycopg
import pytest
from psycopg.rows import dict_row

from perdure.api.database import make_views
from perdure.cluster.postgres.views import view_name
from perdure.entities import Entity, EntityId
from perdure.entities.definition import EntityDefinition
from perdure.entities.errors import PerdureError

from .conftest import World


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Order(Entity):
    status: Literal["new", "paid"] = "new"
    amount: int = 7
    rate: float | None = None
    price: Decimal = Decimal("1.50")
    is_open: bool = True
    colour: Colour | None = Colour.RED
    paid_at: datetime | None = None
    day: date | None = None
    lines: list[str] = []
    mixed: int | str = "it's"


class Fewer(Entity, name="Order"):
    status: str = "new"
    amount: str = "none"


class More(Entity, name="Fewer"):
    status: str = "new"
    added: int = 3


class Less(Entity, name="Fewer"):
    status: str = "new"


ORDER = EntityDefinition(Order)


def rows(world: World, view: str = "order_view") -> list[dict[str, Any]]:
    with psycopg.connect(world.dsn) as connection, connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(f"select * from {world.namespace}.{view} order by key".encode())
        return cursor.fetchall()


async def store(world: World, key: str, state: bytes, version: int = 1) -> None:
    await world.commit(world.write(EntityId("Order", key), state=state, schema_version=version))


async def test_columns_have_the_types_and_values_of_the_fields(postgres: World) -> None:
    assert await postgres.store.survey().make_views([ORDER]) == ["order_view"]
    full = Order(
        key="o-1", status="paid", amount=2**70, rate=0.25, price=Decimal("12.3400"), is_open=False, colour=Colour.BLUE,
        paid_at=datetime(2026, 11, 21, 9, 30, tzinfo=UTC), day=date(2026, 11, 20), lines=["a", "b"], mixed=5,
    )  # fmt: skip
    await store(postgres, "o-1", ORDER.dump(full), 4)
    await store(postgres, "o-2", ORDER.dump(Order(key="o-2")))
    await postgres.commit(postgres.write(EntityId("Other", "o-3")))
    one, two = rows(postgres)
    assert one.pop("perdure_updated_at") > datetime(2026, 1, 1, tzinfo=UTC)
    assert one == {
        "key": "o-1", "perdure_version": 1, "perdure_schema": 4, "status": "paid", "amount": 2**70,
        "rate": Decimal("0.25"), "price": Decimal("12.3400"), "is_open": False, "colour": "blue",
        "paid_at": datetime(2026, 11, 21, 9, 30, tzinfo=UTC), "day": date(2026, 11, 20), "lines": ["a", "b"],
        "mixed": 5,
    }  # fmt: skip
    assert (two["rate"], two["paid_at"], two["day"], two["colour"], two["mixed"]) == (None, None, None, "red", "it's")


async def test_states_of_an_older_class_show_defaults_and_fail_no_query(postgres: World) -> None:
    await postgres.store.survey().make_views([ORDER])
    odd = {"key": "o-1", "amount": "many", "price": "dear", "is_open": 1, "paid_at": "yesterday", "day": "2026-99-99"}
    await store(postgres, "o-1", json.dumps(odd).encode())
    (row,) = rows(postgres)
    assert (row["status"], row["colour"], row["mixed"], row["lines"]) == ("new", "red", "it's", [])
    names = ("amount", "price", "is_open", "paid_at", "day", "rate")
    assert [row[name] for name in names] == [None] * len(names)


async def test_a_view_follows_its_class(postgres: World) -> None:
    await postgres.store.survey().make_views([ORDER])
    await store(postgres, "o-1", b'{"key": "o-1", "status": "paid"}')
    assert await postgres.store.survey().make_views([ORDER]) == []
    assert await postgres.store.survey().make_views([EntityDefinition(Fewer)]) == ["order_view"]
    (row,) = rows(postgres)
    assert (row["status"], row["amount"]) == ("paid", "none")
    assert "rate" not in row
    assert await postgres.store.survey().views() == {"Order": f"{postgres.namespace}.order_view"}


async def test_what_others_built_on_a_view_is_not_broken(postgres: World) -> None:
    await postgres.store.survey().make_views([EntityDefinition(Less)])
    with psycopg.connect(postgres.dsn) as connection:
        connection.execute(
            f"create view {postgres.namespace}.mine as select status from {postgres.namespace}.fewer_view".encode()
        )
    assert await postgres.store.survey().make_views([EntityDefinition(More)]) == ["fewer_view"], (
        "a column more is no harm"
    )
    with pytest.raises(PerdureError, match="depend"):
        await postgres.store.survey().make_views([EntityDefinition(Less)])
    assert rows(postgres, "fewer_view") == []


async def test_of_sealed_states_only_what_may_be_searched_is_shown(postgres: World) -> None:
    await postgres.store.survey().make_views([ORDER])
    await store(postgres, "o-1", b'{"key": ["$enc:k1:AAAA"], "status": "paid"}')
    await store(postgres, "o-2", b'"$enc:k1:AAAA"')
    one, two = rows(postgres)
    assert (one["status"], one["amount"], one["colour"]) == ("paid", None, None)
    assert (two["status"], two["amount"], two["mixed"]) == (None, None, None)


async def test_the_command_makes_the_views_of_a_module(postgres: World) -> None:
    def command() -> tuple[list[str], dict[str, str]]:
        return make_views(postgres.sessions, postgres.namespace, "examples.food_delivery.entities")

    made, views = await asyncio.to_thread(command)
    assert "order_view" in made
    assert views["Order"] == f"{postgres.namespace}.order_view"
    assert (await asyncio.to_thread(command))[0] == []


def test_names_need_no_quotes_and_are_never_too_long() -> None:
    assert view_name("OrderItem") == "orderitem_view"
    long = [view_name("Order" * 20 + letter) for letter in "ab"]
    assert len(set(long)) == 2
    assert all(len(name.encode()) <= 63 and name.endswith("_view") for name in long)
