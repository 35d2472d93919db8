"""B53-B74 of the table of bad inputs, row by row: what is written wrongly is told at import, with place and fix.

What only shows when it runs (a turn that returns a generator, an error whose text raises) rolls its turn back. Rows
whose subject has a test module of its own are only named here once more: test_definitions, test_signatures, test_retry,
test_repeatable, and of tests/engine p2_misbehaving_handlers, p8_queries, code_changes.
"""

# mypy: ignore-errors
# pyright: basic, reportArgumentType=false, reportCallIssue=false, reportAssignmentType=false
# pyright: reportUndefinedVariable=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportIncompatibleVariableOverride=false, reportAttributeAccessIssue=false
# ruff: noqa: B006

import datetime as dt
import logging
import threading
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from ipaddress import IPv4Address
from pathlib import Path
from re import Pattern
from typing import Annotated, Any, ClassVar, Literal, NamedTuple
from uuid import UUID

import pytest
from pydantic import BaseModel, Field, RootModel, SecretStr
from typing_extensions import TypedDict

from perdure.entities import (
    DefinitionError,
    DurableAwaitInHandler,
    Entity,
    HandlerFailed,
    InvalidReminder,
    Mailbox,
    ReadOnlyViolation,
    Registry,
    RetryPolicy,
    StateNotSerialisable,
    WorkflowFailed,
    activity,
    handler,
    query,
    remind,
    upgrade,
    workflow,
)
from perdure.entities.engine.effects import OUTBOX_MAX
from perdure.entities.errors import Rejected, ResultNotSerialisable
from perdure.entities.testing import LocalCluster


class Thing:
    """Pydantic knows nothing of it."""


def b53_two_types_of_one_name() -> None:
    class One(Entity, name="Same"): ...

    class Other(Entity, name="Same"): ...

    Registry([One, Other])


def b54_name_is_no_text() -> None:
    class Bad(Entity, name=5): ...


def b54_name_is_too_long() -> None:
    class Bad(Entity, name="x" * 129): ...


def b55_activity_as_a_method() -> None:
    class Bad(Entity):
        @activity
        async def pay(self, amount: int) -> None: ...


def b56_argument_is_a_callable() -> None:
    class Bad(Entity):
        @handler
        async def run_it(self, what: Callable[[], int]) -> None: ...

    Registry([Bad])


def b56_argument_is_unknown() -> None:
    class Bad(Entity):
        @handler
        async def lock_it(self, lock: threading.Lock) -> None: ...

    Registry([Bad])


def b56_result_is_a_callable() -> None:
    class Bad(Entity):
        @query
        async def what(self) -> list[Callable[[], int]]: ...

    Registry([Bad])


def b56_mailbox_of_unknown() -> None:
    class Bad(Entity):
        things = Mailbox(Thing)

    Registry([Bad])


def b57_default_argument_is_shared() -> None:
    class Bad(Entity):
        @handler
        async def add(self, names: list[str] = []) -> None: ...


def b57_field_without_annotation() -> None:
    class Bad(Entity):
        names = []


def b58_field_without_default() -> None:
    class Bad(Entity):
        name: str


def b58_initialiser_of_its_own() -> None:
    class Bad(Entity):
        def __init__(self, name: str) -> None:
            super().__init__()

    Registry([Bad])


def b59_state_is_a_lock() -> None:
    class Bad(Entity):
        lock: threading.Lock = threading.Lock()


def b59_state_is_a_callable() -> None:
    class Bad(Entity):
        what: Callable[[], int] | None = None

    Registry([Bad])


def b59_state_is_an_object() -> None:
    class Bad(Entity):
        model_config = {"arbitrary_types_allowed": True}
        things: dict[str, Thing] = {}

    Registry([Bad])


def b59_state_of_a_type_that_does_not_exist() -> None:
    class Bad(Entity):
        name: "Nowhere" = None  # noqa: F821

    Registry([Bad])


def b59_default_is_invalid() -> None:
    class Bad(Entity):
        count: int = None

    Registry([Bad])


def b60_inside_a_function() -> None:
    class Bad(Entity): ...

    Registry([Bad]).names()


def b61_below_a_property() -> None:
    class Bad(Entity):
        @property
        @handler
        async def sell(self) -> None: ...


def b61_below_a_classmethod() -> None:
    class Bad(Entity):
        @classmethod
        @query
        async def left(cls) -> None: ...


def b61_upgrade_without_parentheses() -> None:
    class Bad(Entity, version=2):
        @upgrade
        @staticmethod
        def split(state: dict[str, Any]) -> dict[str, Any]:
            return state


def b61_upgrade_from_a_text() -> None:
    class Bad(Entity, version=2):
        @upgrade(from_version="1")
        @staticmethod
        def split(state: dict[str, Any]) -> dict[str, Any]:
            return state


def b61_options_of_wrong_types() -> None:
    class Bad(Entity):
        @handler(timeout=5)
        async def sell(self) -> None: ...


def b61_retry_is_a_number() -> None:
    class Bad(Entity):
        @handler(retry=3)
        async def sell(self) -> None: ...


def b65_version_is_a_text() -> None:
    class Bad(Entity, version="2"): ...


def b65_alias() -> None:
    class Bad(Entity):
        name: str = Field(default="", alias="Name")


def b65_frozen() -> None:
    class Bad(Entity):
        model_config = {"frozen": True}


def b65_keyword_is_mistyped() -> None:
    class Bad(Entity, verison=2): ...


def b65_hosting_is_a_text() -> None:
    class Bad(Entity, hosting="gpu"): ...


def b66_upgrade_is_async() -> None:
    class Bad(Entity, version=2):
        @upgrade(from_version=1)
        @staticmethod
        async def split(state: dict[str, Any]) -> dict[str, Any]:
            return state


def b66_upgrade_of_the_present() -> None:
    class Bad(Entity, version=2):
        @upgrade(from_version=2)
        @staticmethod
        def split(state: dict[str, Any]) -> dict[str, Any]:
            return state

    Registry([Bad])


DEFINITIONS: list[tuple[Callable[[], None], str]] = [
    (b53_two_types_of_one_name, r"two entity classes are named Same: .*One and .*Other"),
    (b54_name_is_no_text, "name=5 is not of type str"),
    (b54_name_is_too_long, "at most 128"),
    (b55_activity_as_a_method, "not a method.*Move it out of the class"),
    (b56_argument_is_a_callable, "a callable, which cannot be read from JSON"),
    (b56_argument_is_unknown, "its annotations cannot be validated"),
    (b56_result_is_a_callable, "the result is a callable"),
    (b56_mailbox_of_unknown, "mailbox things: its items cannot be validated"),
    (b57_default_argument_is_shared, r"one list that all calls .* `names: ... \| None = None`"),
    (b57_field_without_annotation, "non-annotated attribute.*ClassVar"),
    (b58_field_without_default, "= <default>"),
    (b58_initialiser_of_its_own, "unexpected keyword argument 'key'"),
    (b59_state_is_a_lock, "can be written as JSON and read again"),
    (b59_state_is_a_callable, "a field is a callable"),
    (b59_state_is_an_object, r"a field is an instance of a Python class \(Thing\)"),
    (b59_state_of_a_type_that_does_not_exist, "Nowhere"),
    (b59_default_is_invalid, "its default state cannot be stored"),
    (b60_inside_a_function, "inside a function"),
    (b61_below_a_property, "`sell` is a @handler under another decorator.*above all others"),
    (b61_below_a_classmethod, "`left` is a @query under another decorator"),
    (b61_upgrade_without_parentheses, r"write `@upgrade\(from_version=1\)`"),
    (b61_upgrade_from_a_text, r"write `@upgrade\(from_version=1\)`"),
    (b61_options_of_wrong_types, r"timeout=timedelta\(seconds="),
    (b61_retry_is_a_number, r"retry=RetryPolicy\("),
    (b65_version_is_a_text, "version='2' is not of type int"),
    (b65_alias, "has an alias.*remove it"),
    (b65_frozen, "remove `frozen`"),
    (b65_keyword_is_mistyped, "verison is no class keyword.*did you mean version"),
    (b65_hosting_is_a_text, "hosting='gpu'"),
    (b66_upgrade_is_async, "a plain function"),
    (b66_upgrade_of_the_present, "version=3"),
]


@pytest.mark.parametrize(("make", "text"), DEFINITIONS, ids=lambda one: getattr(one, "__name__", ""))
def test_a_wrong_definition_is_refused_with_its_reason(make: Callable[[], None], text: str) -> None:
    with pytest.raises(DefinitionError, match=f"(?s){text}") as caught:
        make()
    assert len(str(caught.value)) < 600
    assert any(name in str(caught.value) for name in ("Bad", "Same", "@upgrade", "pay at")), "what it is about"


WITHOUT_PLACE = {b53_two_types_of_one_name, b58_initialiser_of_its_own, b59_default_is_invalid,
                 b60_inside_a_function, b61_upgrade_without_parentheses, b61_upgrade_from_a_text, b66_upgrade_is_async,
                 b65_keyword_is_mistyped}  # fmt: skip
"""They name the class, not its line; or Python's own traceback ends there, since they raise in the class body."""


@pytest.mark.parametrize("make", [make for make, _ in DEFINITIONS if make not in WITHOUT_PLACE])
def test_a_wrong_definition_is_refused_with_its_file(make: Callable[[], None]) -> None:
    with pytest.raises(DefinitionError, match=rf"{__file__}:\d+"):
        make()


POLICIES: list[dict[str, Any]] = [
    {"attempts": 0}, {"attempts": -1}, {"attempts": 2.5}, {"attempts": "3"}, {"attempts": True},
    {"initial": dt.timedelta(seconds=-1)}, {"initial": 5}, {"maximum": dt.timedelta(0)}, {"maximum": 60},
    {"factor": 0.5}, {"factor": float("nan")}, {"factor": "2"},
    {"non_retryable": "ValueError"}, {"non_retryable": [5]}, {"non_retryable": [int]}, {"on_exhausted": "stop"},
]  # fmt: skip


@pytest.mark.parametrize("given", POLICIES, ids=str)
def test_b67_a_policy_that_makes_no_sense(given: dict[str, Any]) -> None:
    with pytest.raises(DefinitionError, match="RetryPolicy"):
        RetryPolicy(**given)


def test_b57_a_shared_class_variable_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "perdure.definition"):

        class Fine(Entity):
            sizes: ClassVar[tuple[str, ...]] = ("s", "m")

        assert caplog.messages == []

        class Shares(Entity):
            seen: ClassVar[list[str]] = []

    assert "ClassVar `seen` is one list that all entities of a process share" in caplog.text


def test_b61_decorators_work_with_and_without_parentheses() -> None:
    class Fine(Entity):
        @handler()
        async def one(self) -> None: ...

        @query()
        async def two(self) -> None: ...

        @workflow()
        async def three(self) -> None: ...

    [definition] = Registry([Fine])
    assert (list(definition.handlers), list(definition.queries), list(definition.workflows)) == (
        ["one"],
        ["two"],
        ["three"],
    )


class Pet(Enum):
    CAT = "cat"


class Point(NamedTuple):
    x: int


class Shape(TypedDict):
    name: str


@dataclass
class Size:
    width: int = 1


class Model(BaseModel):
    size: Size = Size()


class Numbers(RootModel[list[int]]): ...


def test_b59_what_can_be_stored_is_not_refused() -> None:
    """No false alarm for the types that people use."""

    class Everything(Entity):
        a: Path | None = None
        b: IPv4Address | None = None
        c: UUID | None = None
        d: Decimal = Decimal(1)
        e: Pattern[str] | None = None
        f: dt.datetime | dt.date | dt.time | dt.timedelta | None = None
        g: deque[int] = deque()
        h: OrderedDict[str, int] = OrderedDict()
        i: defaultdict[str, list[int]] = defaultdict(list)
        j: Pet | None = None
        k: Point | None = None
        l: Shape | None = None  # noqa: E741
        m: Model = Model()
        n: Literal["a"] | None = None
        o: SecretStr | None = None
        p: bytes = b""
        q: set[int] | frozenset[str] = set()
        r: Fraction | None = None
        s: Any = None
        t: Annotated[int, Field(ge=0)] = 0
        u: Numbers | None = None
        v: Mapping[str, Sequence[int]] = {}
        w: complex = 0j
        x: tuple[int, ...] | None = None
        y: object = None
        z: dict[int, str] = {}

        @handler
        async def take(
            self, size: Size, point: Point, path: Path, when: dt.datetime, rest: Sequence[Model]
        ) -> Numbers: ...

    Registry([Everything])


# --- what only shows when it runs -------------------------------------------------------------------------------------


class Silent(Exception):
    """Its text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


@activity(retry=RetryPolicy(attempts=1))
async def fail_silently() -> None:
    raise Silent


class Trial(Entity):
    count: int = 0
    ratio: float = 0.0
    anything: Any = None
    pairs: dict[tuple[int, int], str] = {}

    @handler
    async def raise_silently(self) -> None:
        self.count += 1
        raise Silent

    @handler
    async def return_a_generator(self) -> list[int]:
        self.count += 1
        return (n for n in range(3))

    @handler
    async def return_a_coroutine(self) -> Any:
        self.count += 1
        return fail_silently.fn()

    @handler
    async def keep_a_lock(self) -> None:
        self.count += 1
        self.anything = {"deep": [threading.Lock()]}

    @handler
    async def keep_nan(self) -> None:
        self.count += 1
        self.ratio = float("nan")

    @handler
    async def keep_nan_untyped(self) -> None:
        self.anything = [float("nan"), float("inf")]

    @handler
    async def keep_pairs(self) -> None:
        self.count += 1
        self.pairs = {(1, 2): "x"}

    @handler
    async def call_itself(self) -> None:
        self.count += 1
        await Trial.ref(self.key).keep_nan()

    @handler
    async def send_too_much(self) -> None:
        self.count += 1
        for _ in range(OUTBOX_MAX + 1):
            await Trial.ref("other").keep_pairs.send()

    @handler
    async def remind_wrongly(self, what: str) -> None:
        self.count += 1
        match what:
            case "long name":
                remind(self.keep_nan, after=1, name="x" * 10_000)
            case "control character":
                remind(self.keep_nan, after=1, name="a\x00")
            case "no handler":
                remind(self.look, after=1, name="r")
            case "a function":
                remind(len, after=1, name="r")
            case "no time":
                remind(self.keep_nan, name="r")
            case "two times":
                remind(self.keep_nan, after=1, at=dt.datetime.now(dt.UTC), name="r")
            case "negative":
                remind(self.keep_nan, every=dt.timedelta(seconds=-1), name="r")
            case "cron":
                remind(self.keep_nan, cron="61 * * * *", name="r")
            case "arguments":
                remind(self.remind_wrongly, 5, after=1, name="r")

    @query
    async def look(self) -> int:
        return self.count

    @query
    async def write(self) -> int:
        self.count += 1
        return self.count

    @query
    async def untyped(self) -> Any:
        return self.anything

    @workflow
    async def run(self) -> None:
        await fail_silently()


RUNS: list[tuple[str, type[Exception], str]] = [
    ("raise_silently", HandlerFailed, "Silent"),  # B71
    ("return_a_generator", ResultNotSerialisable, "generator"),  # B72
    ("return_a_coroutine", ResultNotSerialisable, "coroutine"),  # B72
    ("keep_a_lock", StateNotSerialisable, "lock"),  # B59
    ("keep_nan", StateNotSerialisable, "ratio"),  # B70
    ("keep_pairs", StateNotSerialisable, "pairs"),  # B70
    ("call_itself", DurableAwaitInHandler, "keep_nan.send"),  # B64
    ("send_too_much", Rejected, str(OUTBOX_MAX)),  # B74
    ("write", ReadOnlyViolation, "write"),  # B62
]


@pytest.mark.filterwarnings("ignore:coroutine.*never awaited")
async def test_b59_to_b74_a_turn_that_goes_wrong_changes_nothing() -> None:
    async with LocalCluster([Trial]):
        for name, error, text in RUNS:
            with pytest.raises(error, match=text):
                await getattr(Trial.ref("t"), name)()
            assert await Trial.ref("t").look() == 0, name
        assert await Trial.ref("other").look() == 0
        with pytest.raises(WorkflowFailed, match="the exception's __str__ raised") as caught:  # B71
            await Trial.ref("t").run()
        assert caught.value.error_type == "Silent"


async def test_b70_what_json_does_not_have_becomes_null_where_nothing_is_declared() -> None:
    async with LocalCluster([Trial]):
        await Trial.ref("t").keep_nan_untyped()
        assert await Trial.ref("t").untyped() == [None, None]


@pytest.mark.parametrize(
    "what",
    [
        "long name",
        "control character",
        "no handler",
        "a function",
        "no time",
        "two times",
        "negative",
        "cron",
        "arguments",
    ],
)
async def test_b73_a_wrong_reminder_is_refused_when_it_is_set(what: str) -> None:
    async with LocalCluster([Trial]) as cluster:
        with pytest.raises((InvalidReminder, Rejected, HandlerFailed)) as caught:
            await Trial.ref("t").remind_wrongly(what)
        assert "remind" in str(caught.value).lower() or isinstance(caught.value, Rejected)
        assert await Trial.ref("t").look() == 0
        assert (await cluster.store.due(range(16), until_us=2**62, limit=10))[1] == []
