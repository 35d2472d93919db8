"""Definition mistakes fail when the class is made or registered, naming file, line and the fix (B53-B67)."""

import threading
from collections.abc import Callable
from datetime import timedelta
from types import ModuleType
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel, ConfigDict, Field

from perdure.entities import (
    DefinitionError,
    Entity,
    EntityParked,
    Mailbox,
    Registry,
    RetryPolicy,
    StateNotSerialisable,
    UnknownHandler,
    UnknownType,
    activity,
    handler,
    query,
    workflow,
)
from perdure.entities.definition import STATE_BYTES_MAX, EntityDefinition, entity_classes

from . import mistakes


class Shop(Entity):
    open: bool = False
    stock: dict[str, int] = {}
    orders = Mailbox(int)
    limit: ClassVar[int] = 5

    @handler
    async def sell(self, name: str) -> int:
        self.stock[name] -= 1
        return self.stock[name]

    @query
    async def left(self, name: str) -> int:
        return self.stock[name]

    @workflow
    async def run(self) -> None: ...


MISTAKES: list[tuple[Callable[[], None], str]] = [
    (mistakes.handler_is_not_async, "write `async def sell"),
    (mistakes.query_is_not_async, "write `async def left"),
    (mistakes.workflow_is_a_generator, "write `async def run"),
    (mistakes.handler_takes_star, r"\*names"),
    (mistakes.handler_takes_double_star, r"\*names"),
    (mistakes.parameter_has_no_annotation, "write `name: str`"),
    (mistakes.parameter_is_positional_only, "remove the `/`"),
    (mistakes.method_without_self, "`self` as its first parameter"),
    (mistakes.handler_is_called_ref, "rename it"),
    (mistakes.handler_is_called_key, "rename it"),
    (mistakes.handler_is_private, "rename it"),
    (mistakes.handler_is_dunder, "rename it"),
    (mistakes.handler_is_pydantics, "rename it"),
    (mistakes.mailbox_is_private, "rename it"),
    (mistakes.one_function_two_names, "keep one of them"),
    (mistakes.doubly_decorated, "already a @query"),
    (mistakes.decorated_activity, "decorates a method of an entity class"),
    (mistakes.decorated_staticmethod, "decorates a method of an entity class"),
    (mistakes.timeout_is_zero, "longer than zero"),
    (mistakes.overridden_by_a_plain_method, "decorate it alike"),
    (mistakes.overridden_by_another_kind, "decorate it alike"),
    (mistakes.field_without_default, "= <default>"),
    (mistakes.field_is_excluded, "use a ClassVar"),
    (mistakes.field_is_called_key, "call it otherwise"),
    (mistakes.private_state, "make it a field"),
    (mistakes.private_attribute, "make it a field"),
    (mistakes.name_is_no_identifier, "not an identifier"),
    (mistakes.version_is_zero, "count from 1"),
]


@pytest.mark.parametrize(("mistake", "fix"), MISTAKES, ids=lambda one: getattr(one, "__name__", None))
def test_a_mistake_is_reported_with_place_and_fix(mistake: Callable[[], None], fix: str) -> None:
    with pytest.raises(DefinitionError, match=fix) as caught:
        mistake()
    text = str(caught.value)
    lines = range(mistake.__code__.co_firstlineno, mistake.__code__.co_firstlineno + 9)
    assert any(f"{mistakes.__file__}:{line}" in text for line in lines), text


def test_definition_errors_are_type_errors() -> None:
    """Python itself raises TypeError for a class that is written wrongly."""
    with pytest.raises(TypeError):
        mistakes.field_without_default()


# --- What works -------------------------------------------------------------------------------------------------------


def test_every_name_that_is_not_reserved_works() -> None:
    class Odd(Entity):
        @handler
        async def copy(self) -> str:  # type: ignore[override]  # pyright: ignore[reportAttributeAccessIssue]
            return "copy"

        @handler
        async def json(self) -> str:  # type: ignore[override]  # pyright: ignore[reportAttributeAccessIssue]
            return "json"

        @query
        async def dict(self) -> str:  # type: ignore[override]  # pyright: ignore[reportAttributeAccessIssue]
            return "dict"

        @handler
        async def validate(self) -> str:  # type: ignore[override]  # pyright: ignore[reportAttributeAccessIssue]
            return "validate"

    definition = EntityDefinition(Odd)
    assert sorted(definition.handlers) == ["copy", "json", "validate"]
    assert definition.load("k", definition.dump(definition.new("k"))).key == "k"


def test_decorators_work_with_and_without_parentheses() -> None:
    class Both(Entity):
        @handler
        async def one(self) -> None: ...

        @handler()
        async def two(self) -> None: ...

    assert sorted(EntityDefinition(Both).handlers) == ["one", "two"]


def test_mutable_defaults_are_not_shared() -> None:
    one, other = Shop(key="a"), Shop(key="b")
    one.stock["pen"] = 1
    assert other.stock == {}
    assert EntityDefinition(Shop).new("c").stock == {}  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


def test_subclasses_inherit_fields_and_handlers() -> None:
    class Kiosk(Shop):
        @handler
        async def close(self) -> None: ...

    definition = EntityDefinition(Kiosk)
    assert sorted(definition.handlers) == ["close", "sell"]
    assert definition.name == "Kiosk"
    assert EntityDefinition(Shop).handlers.keys() == {"sell"}


def test_class_keywords_set_stored_name_and_version() -> None:
    class Renamed(Entity, name="Shop", version=3):
        pass

    definition = EntityDefinition(Renamed)
    assert (definition.name, definition.version) == ("Shop", 3)
    assert repr(Renamed.ref("k")) == "<ref Shop/k>"


# --- State ------------------------------------------------------------------------------------------------------------


class Address(BaseModel):
    street: str = ""


class Person(Entity):
    name: str = ""
    age: int = 0
    addresses: list[Address] = []
    tags: set[int] = set()


PERSON = EntityDefinition(Person)


def test_state_round_trips_without_the_key() -> None:
    person = Person(key="p", name="Ann", addresses=[Address(street="x")], tags={1, 2})
    data = PERSON.dump(person)
    assert b'"key"' not in data
    back = PERSON.load("p", data)
    assert back == person
    assert back.key == "p"


def test_what_a_deploy_removed_is_dropped_and_what_it_added_gets_its_default() -> None:
    back = PERSON.load("p", b'{"name": "Ann", "shoe_size": 43}')
    assert (back.name, back.age) == ("Ann", 0)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("data", [b'{"age": "old"}', b"[]", b"null", b"", b'{"addresses": [{"street": 5}]}'])
def test_bytes_that_do_not_fit_park_the_entity(data: bytes) -> None:
    with pytest.raises(EntityParked, match=r"^Person/p: its stored state does not fit the class"):
        PERSON.load("p", data)


def test_state_of_a_newer_schema_version_parks_the_entity() -> None:
    with pytest.raises(EntityParked, match=r"version 2, this code knows 1.*deploy"):
        PERSON.load("p", b"{}", version=2)


def test_unserialisable_state_names_the_field() -> None:
    person = Person(key="p")
    person.age = "old"  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(StateNotSerialisable, match=r"(?s)Person/p.*age"):
        PERSON.dump(person)


@pytest.mark.parametrize("value", ["a\x00b", "\ud800", "x" * STATE_BYTES_MAX])
def test_state_that_the_store_cannot_hold_is_refused(value: str) -> None:
    person = Person(key="p", name=value) if value != "\ud800" else Person(key="p")
    person.name = value
    with pytest.raises(StateNotSerialisable, match="Person/p"):
        PERSON.dump(person)


def test_a_circular_state_is_refused() -> None:
    class Tree(Entity):
        nodes: list[Any] = []

    tree = Tree(key="t")
    tree.nodes.append(tree.nodes)
    with pytest.raises(StateNotSerialisable, match="Tree/t"):
        EntityDefinition(Tree).dump(tree)


def test_a_default_that_cannot_be_stored_is_a_definition_error() -> None:
    class Locked(Entity):
        model_config = ConfigDict(arbitrary_types_allowed=True)
        lock: Any = Field(default_factory=threading.Lock)

    with pytest.raises(DefinitionError, match="class Locked: its default state cannot be stored"):
        Registry([Locked])


def test_equal_states_are_recognised_whatever_the_order_of_their_sets() -> None:
    """A set's order depends on its past, so bytes may differ where the states do not."""
    grown = set(range(0, 64 * 40, 64))
    for number in list(grown)[3:]:
        grown.discard(number)
    sorted_down = sorted(grown, reverse=True)
    one, other = Person(key="p", tags=grown), Person(key="p", tags=set(sorted_down))
    one_data, other_data = PERSON.dump(one), PERSON.dump(other)
    assert PERSON.is_same(one_data, other_data)
    assert not PERSON.is_same(one_data, PERSON.dump(Person(key="p", tags={1})))


# --- The registry -----------------------------------------------------------------------------------------------------


def test_two_classes_of_one_name_are_refused_with_both_places() -> None:
    class Other(Entity, name="Shop"):
        pass

    with pytest.raises(DefinitionError, match=r"two entity classes are named Shop: .*:Shop and .*Other") as caught:
        Registry([Shop, Other])
    assert "rename one" in str(caught.value)
    assert len(Registry([Shop, Shop])) == 1


def test_unknown_types_and_handlers_list_what_there_is() -> None:
    registry = Registry([Shop, Person])
    with pytest.raises(UnknownType, match=r"'Shopp'.*there is Person, Shop"):
        registry.get("Shopp")
    with pytest.raises(UnknownHandler, match=r"'buy'.*it has left, orders, run, sell"):
        registry.get("Shop").method("buy")
    assert registry.find("os.system") is None
    assert len(str(UnknownType("x"))) < 100


def test_a_huge_name_is_not_repeated_in_the_error() -> None:
    with pytest.raises(UnknownType) as caught:
        Registry([Shop]).get("x" * 100_000)
    assert len(str(caught.value)) < 300


def test_classes_that_other_processes_cannot_import_are_refused_for_hosts() -> None:
    class Local(Entity):
        pass

    with pytest.raises(DefinitionError, match=r"inside a function.*Move it to module level"):
        Registry([Local]).names()
    main = type("Script", (Entity,), {"__module__": "__main__"})
    with pytest.raises(DefinitionError, match=r"__main__.*module of its own"):
        Registry([main]).names()
    assert Registry([Shop]).names() == [f"{__name__}:Shop"]


def test_the_registry_loads_modules_and_classes() -> None:
    assert {one.name for one in Registry.load([__name__])} == {"Shop", "Person"}
    assert [one.name for one in Registry.load([f"{__name__}:Shop", f"{__name__}:Shop"])] == ["Shop"]


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("no.such.module", "there is no module 'no.such.module'"),
        (f"{__name__}:Nothing", "no entity class 'Nothing'"),
        (f"{__name__}:Address", "no entity class 'Address'"),
        (f"{__name__}:Shop.sell", "no entity class"),
    ],
)
def test_specs_that_lead_nowhere_are_refused(spec: str, reason: str) -> None:
    with pytest.raises(DefinitionError, match=reason):
        Registry.load([spec])


def test_entity_classes_of_a_module() -> None:
    module = ModuleType("m")
    vars(module).update(Entity=Entity, Shop=Shop, Address=Address, number=5)
    assert entity_classes(module) == [Shop]


# --- Activities and policies ------------------------------------------------------------------------------------------


def test_an_activity_decorates_a_function() -> None:
    with pytest.raises(DefinitionError, match="decorates a function"):
        activity(Shop)
    with pytest.raises(DefinitionError, match="longer than zero"):
        activity(timeout=timedelta(0))
    with pytest.raises(DefinitionError, match="longer than zero"):
        activity(total_timeout=timedelta(seconds=-1))


def test_an_activitys_parameters_must_travel() -> None:
    with pytest.raises(DefinitionError, match=rf"{__file__}:\d+.*`\*parts`"):

        @activity
        async def pay(*parts: int) -> None: ...


def test_retry_policies_are_checked_where_they_are_written() -> None:
    with pytest.raises(DefinitionError):

        @handler(retry=RetryPolicy(attempts=0))
        async def sell(self: Entity) -> None: ...
