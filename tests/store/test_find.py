"""Searching says the same on every store: what Python's own comparison says of the committed states."""

import datetime as dt
import operator
import random
from collections.abc import Callable
from enum import IntEnum, StrEnum
from typing import Any, Literal

import pytest

from perdure.entities import Entity, InvalidArguments, find
from perdure.entities.archive import definition_of
from perdure.entities.ids import EntityId

from .conftest import World

NOON = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)
CET = dt.timezone(dt.timedelta(hours=1))


class Size(StrEnum):
    SMALL = "small"
    LARGE = "large"


class Rank(IntEnum):
    LOW = 1
    HIGH = 2


class Loan(Entity, index=["status", "amount", "size"]):
    status: Literal["open", "paid", "late"] = "open"
    name: str = ""
    amount: int = 0
    share: float = 0.0
    maybe: int | None = None
    mixed: int | str | bool = 0
    size: Size | None = None
    rank: Rank = Rank.LOW
    is_vip: bool = False
    due: dt.datetime | None = None
    tags: list[str] = []


VALUES: dict[str, list[Any]] = {
    "status": ["open", "paid", "late"],
    "name": ["", "a", "Ä", "ä", "z", "日本", "x" * 63, "x" * 64 + "a", "x" * 64 + "b", 'q"uote', "%", "null"],
    "amount": [0, 1, -1, 20, 2**53 + 1, 10**30, -(10**30)],
    "share": [0.0, -0.0, 1.0, 0.1, 1e-7, 1e16, 1.5, -2.25, 123456789.125],
    "maybe": [None, 0, 1, 7],
    "mixed": [0, 1, True, False, "1", "true", "x"],
    "size": [None, Size.SMALL, Size.LARGE],
    "rank": [Rank.LOW, Rank.HIGH],
    "is_vip": [True, False],
    "due": [None, NOON, NOON.astimezone(CET), NOON + dt.timedelta(microseconds=1), NOON - dt.timedelta(days=1)],
    "tags": [[], ["a"], ["a", "b"]],
}
COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "": operator.eq,
    "__ne": operator.ne,
    "__lt": operator.lt,
    "__le": operator.le,
    "__gt": operator.gt,
    "__ge": operator.ge,
}


def holds(value: object, suffix: str, wanted: Any) -> bool:
    if suffix == "__in":
        return value in wanted
    try:
        return bool(COMPARE[suffix](value, wanted))
    except TypeError:
        return False


async def loans(world: World, pick: random.Random, count: int) -> list[Loan]:
    """Committed entities; some stored before some fields existed."""
    definition = definition_of(Loan)
    made: list[Loan] = []
    writes = []
    for number in range(count):
        fields = {name: pick.choice(values) for name, values in VALUES.items() if pick.random() < 0.7}
        loan = Loan(key=f"l{number}", **fields)
        made.append(loan)
        state = definition.dump(loan)
        if pick.random() < 0.3:
            state = Loan.__pydantic_serializer__.to_json(loan, include=set(fields))
        writes.append(world.write(EntityId("Loan", loan.key), state=state, schema_version=1))
    await world.commit(*writes)
    return made


@pytest.mark.parametrize("seed", range(3))
async def test_a_search_finds_exactly_what_fulfils_its_conditions(world: World, seed: int) -> None:
    pick = random.Random(seed)
    made = await loans(world, pick, 80)
    archive = world.store.archive()
    if seed:
        await archive.index("Loan", definition_of(Loan).index, 1)
    for _ in range(25):
        conditions: dict[str, Any] = {}
        for name in pick.sample(sorted(VALUES), pick.choice([1, 1, 1, 2])):
            suffix = pick.choice([*COMPARE, "__in"])
            value = pick.choice(VALUES[name])
            conditions[name + suffix] = pick.sample(VALUES[name], 2) if suffix == "__in" else value
        wanted = {
            loan.key
            for loan in made
            if all(
                holds(getattr(loan, name.partition("__")[0]), name[len(name.partition("__")[0]) :], value)
                for name, value in conditions.items()
            )
        }
        found: list[str] = []
        after: str | None = None
        limit = pick.choice([7, 40, 1_000])
        while True:
            page = await find(Loan, conditions, limit=limit, after=after, archive=archive)
            found += [match.key for match in page.matches]
            after = page.next
            if after is None:
                break
        assert len(found) == len(set(found)), conditions
        assert set(found) == wanted, (seed, conditions)


async def test_a_found_entity_is_an_instance_of_its_class(world: World) -> None:
    loan = Loan(key="l", status="paid", due=NOON)
    await world.commit(world.write(EntityId("Loan", "l"), state=definition_of(Loan).dump(loan), schema_version=1))
    before = await world.store.clock_us()
    page = await find(Loan, status="paid", archive=world.store.archive())
    (match,) = page.matches
    assert match.state == loan
    assert (match.key, match.version, page.next, page.unreadable) == ("l", 1, None, [])
    assert abs(match.updated_at.timestamp() * 1e6 - before) < 60e6


async def test_other_types_and_entities_without_a_turn_are_not_found(world: World) -> None:
    await world.commit(
        world.write(EntityId("Other", "o"), state=b'{"status":"open"}', schema_version=1),
        world.write(EntityId("Loan", "l"), state=b'{"status":"open"}', schema_version=1),
    )
    assert [match.key for match in (await find(Loan, archive=world.store.archive())).matches] == ["l"]


@pytest.mark.parametrize("text", ["\x00", "a\x00", "\ud800"])
async def test_text_that_no_state_can_hold_is_not_found(world: World, text: str) -> None:
    await world.commit(world.write(EntityId("Loan", "a"), state=b'{"name": "a"}'))
    archive = world.store.archive()
    assert (await find(Loan, {"name": text}, archive=archive)).matches == []
    assert (await find(Loan, {"name__in": [text]}, archive=archive)).matches == []
    assert len((await find(Loan, {"name__ne": text}, archive=archive)).matches) == 1
    assert len((await find(Loan, {"name__ge": text}, archive=archive)).matches) == (text <= "a")


async def test_a_state_that_does_not_fit_the_class_is_named_not_hidden(world: World) -> None:
    await world.commit(
        world.write(EntityId("Loan", "bad"), state=b'{"status":"unheard of"}', schema_version=1),
        world.write(EntityId("Loan", "newer"), state=b"{}", schema_version=9),
        world.write(EntityId("Loan", "good"), state=b"{}", schema_version=1),
    )
    page = await find(Loan, archive=world.store.archive())
    assert [match.key for match in page.matches] == ["good"]
    assert sorted(page.unreadable) == ["bad", "newer"]


async def test_a_field_that_looks_like_an_operator_or_an_argument_can_be_searched(world: World) -> None:
    class Odd(Entity):
        limit: int = 0
        count__ge: int = 0

    await world.commit(world.write(EntityId("Odd", "o"), state=b'{"limit":3,"count__ge":4}', schema_version=1))
    archive = world.store.archive()
    assert len((await find(Odd, {"limit": 3, "count__ge": 4}, archive=archive)).matches) == 1
    assert len((await find(Odd, {"limit__gt": 3}, archive=archive)).matches) == 0
    assert len((await find(Odd, count__ge__lt=5, archive=archive)).matches) == 1


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"colour": "red"}, "no field 'colour'"),
        ({"key": "l"}, "no field 'key'"),
        ({"status__like": "p"}, "no field 'status__like'"),
        ({"status": "unheard of"}, "status="),
        ({"amount__ge": "much"}, "amount__ge="),
        ({"status'; drop table entities; --": "x"}, "no field"),
    ],
)
async def test_wrong_conditions_are_refused_by_name(world: World, conditions: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArguments, match=message):
        await find(Loan, conditions, archive=world.store.archive())


@pytest.mark.parametrize("wrong", [{"limit": 0}, {"limit": 1_001}, {"after": "nonsense"}, {"after": "-1/x"}])
async def test_wrong_pages_are_refused(world: World, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArguments):
        await find(Loan, archive=world.store.archive(), **wrong)
