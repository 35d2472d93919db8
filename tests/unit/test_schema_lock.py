"""A change of stored state without its version and upgrade does not pass (P9)."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from perdure.entities import Entity, Registry, upgrade
from perdure.entities.schema_lock import FILE, Finding, compare, read_lock, state_schema, write_lock
from perdure.entities.testing import check_schemas


class Item(BaseModel):
    name: str
    price: int = 0


class WiderItem(BaseModel):
    name: str | None
    price: float = 0
    note: str = ""


class NarrowerItem(BaseModel):
    name: str
    price: int = 0
    weight: float


class Tree(BaseModel):
    leaves: "list[Tree]" = []
    size: int = 0


class Bush(BaseModel):
    leaves: "list[Bush]" = []
    size: str = ""


class Base(Entity, name="Thing"):
    """Words may change."""

    count: int = 0
    status: Literal["new", "paid"] = "new"
    label: str | None = None
    when: datetime | None = None
    items: list[Item] = []
    table: dict[str, int] = {}
    pair: tuple[int, str] = (0, "")
    short: str = Field(default="", max_length=5)
    tree: Tree = Tree()


def with_fields(**changes: tuple[Any, Any]) -> type[Entity]:
    """Base with some fields changed: (type, default), or (None, None) to remove one."""
    fields = {
        name: (info.annotation, info) for name, info in Base.model_fields.items() if name != "key"
    } | changes  # fmt: skip
    annotations = {name: kind for name, (kind, _) in fields.items() if kind is not None}
    values = {name: value for name, (kind, value) in fields.items() if kind is not None}
    make: Any = type(Entity)
    namespace = {"__annotations__": annotations, "__module__": __name__, "__qualname__": "Thing", **values}
    made: type[Entity] = make("Thing", (Entity,), namespace, name="Thing")
    return made


def finding(cls: type[Entity], before: type[Entity] = Base) -> Finding:
    (found,) = compare(Registry([cls]), {"Thing": state_schema(next(iter(Registry([before]))))})
    return found


HARMLESS: list[dict[str, tuple[Any, Any]]] = [
    {"more": (int, 5)},
    {"count": (float, 0)},
    {"count": (int | None, 0)},
    {"count": (int | str, 0)},
    {"status": (Literal["new", "paid", "sent"], "new")},
    {"status": (str, "new")},
    {"items": (list[WiderItem], [])},
    {"items": (list[Item | str], [])},
    {"table": (dict[str, int | None], {})},
    {"table": (dict[str, object], {})},
    {"short": (str, Field(default="", max_length=6))},
    {"short": (str, "")},
    {"count": (Any, 0)},
]
BREAKING: list[tuple[dict[str, tuple[Any, Any]], str]] = [
    ({"count": (None, None)}, r"field `count` is gone"),
    ({"count": (str, "")}, r"field `count` was integer and is string"),
    ({"count": (int, Field(default=1, ge=1))}, r"higher minimum"),
    ({"status": (Literal["new"], "new")}, r"may no longer be 'paid'"),
    ({"label": (str, "")}, r"may no longer be null"),
    ({"label": (Literal["a"] | None, None)}, r"`label` may no longer be string"),
    ({"when": (str | None, None)}, r"`when` may no longer be string"),
    ({"items": (list[NarrowerItem], [])}, r"weight is required now"),
    ({"items": (dict[str, Item], {})}, r"`items` was array"),
    ({"table": (dict[str, str], {})}, r"`table`\[\] was integer"),
    ({"pair": (tuple[int, int], (0, 0))}, r"`pair`\[1\] was string"),
    ({"pair": (tuple[int, str, int], (0, "", 0))}, r"`pair` has"),
    ({"short": (str, Field(default="", max_length=4))}, r"lower maxLength"),
    ({"tree": (Bush, Bush())}, r"`tree`.size was integer and is string"),
]


@pytest.mark.parametrize("changes", HARMLESS, ids=str)
def test_new_fields_and_wider_types_pass(changes: dict[str, tuple[Any, Any]]) -> None:
    found = finding(with_fields(**changes))
    assert found.kind == "harmless", found
    assert not found.is_problem


@pytest.mark.parametrize(("changes", "reason"), BREAKING, ids=str)
def test_what_stored_states_may_not_fit_fails(changes: dict[str, tuple[Any, Any]], reason: str) -> None:
    found = finding(with_fields(**changes))
    assert found.kind == "breaking"
    with pytest.raises(AssertionError, match=reason + r".*version=2 and an @upgrade\(from_version=1\)"):
        raise AssertionError(found.text)


def test_the_same_class_in_other_words_is_the_same() -> None:
    class Reworded(Base, name="Thing"):
        """Other words."""

        def helper(self) -> None: ...

    assert finding(with_fields()).kind == "same"
    assert finding(Reworded).kind == "same"
    assert finding(with_fields(count=(int, 7))).kind == "same", "another default rewrites no stored state"


def test_a_version_needs_its_upgrade_and_the_file_to_be_written(tmp_path: Path) -> None:
    class Bare(Entity, name="Thing", version=2):
        count: str = ""

    class Upgraded(Entity, name="Thing", version=3):
        count: str = ""

        @upgrade(from_version=1)
        @staticmethod
        def one(state: dict[str, Any]) -> dict[str, Any]:
            return state

        @upgrade(from_version=2)
        @staticmethod
        def two(state: dict[str, Any]) -> dict[str, Any]:
            return state

    assert finding(Bare).text == "version 1 became 2, but there is no @upgrade(from_version=1)"
    assert (finding(Upgraded).kind, finding(Upgraded).is_problem) == ("bumped", True)
    assert finding(Base, before=Upgraded).is_breaking, "versions only grow"
    lock = tmp_path / FILE
    write_lock(lock, Registry([Base]))
    check_schemas([Base], lock)
    with pytest.raises(AssertionError, match="Thing: version 1 became 2, but"):
        check_schemas([Bare], lock)
    write_lock(lock, Registry([Upgraded]))
    check_schemas([Upgraded], lock)


def test_the_file_names_every_class_and_can_be_read_again(tmp_path: Path) -> None:
    lock = tmp_path / FILE
    assert read_lock(lock) == {}
    (found,) = compare(Registry([Base]), {})
    assert (found.kind, found.is_problem) == ("new", True)
    write_lock(lock, Registry([Base]))
    first = lock.read_bytes()
    write_lock(lock, Registry([Base]))
    assert lock.read_bytes() == first, "no noise in version control"
    assert list(json.loads(first)["entities"]) == ["Thing"]
    (gone,) = compare(Registry([]), read_lock(lock))
    assert (gone.kind, gone.name) == ("gone", "Thing")
    lock.write_text("[]")
    with pytest.raises(ValueError, match="is not a lock file"):
        read_lock(lock)
    lock.write_text('{"format": 9, "entities": {}}')
    with pytest.raises(ValueError, match="format 9"):
        read_lock(lock)
