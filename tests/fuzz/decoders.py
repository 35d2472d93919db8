"""Everything here that reads bytes or text which somebody else wrote: real examples, and the errors it may raise.

To add a decoder: one line in `DECODERS`. Whatever is not in `raises` is a finding.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import Any

import msgspec
from pydantic import BaseModel, ValidationError

from perdure.api.operations import Action as HttpAction
from perdure.api.operations import Operation
from perdure.api.problems import Refused
from perdure.api.query_string import arguments_of
from perdure.api.strict_json import check_json
from perdure.cluster.dedicated import wire as dedicated
from perdure.cluster.peers import decode_entities
from perdure.cluster.postgres.messages import from_columns, to_columns
from perdure.cluster.postgres.names import masked, without_password
from perdure.cluster.wire import Answer, Offer, decode_answer, decode_offer, encode
from perdure.entities import Entity, EntityId, Mailbox, PerdureError, handler, query, upgrade
from perdure.entities.definition import EntityDefinition
from perdure.entities.engine.journal import (
    Entry,
    Event,
    EventKind,
    OperationKind,
    Scheduled,
    decode_entry,
    encode_entry,
)
from perdure.entities.errors import ErrorBody, error_from_body
from perdure.entities.export import export_entity, import_entity
from perdure.entities.json_patch import changes_between
from perdure.entities.maintenance import _parse as letter_cursor
from perdure.entities.messages import (
    Envelope,
    Kind,
    OperationAddress,
    Outcome,
    Reply,
    Status,
    decode_error,
    decode_outcome,
    encode_json,
)
from perdure.entities.operate import Act, Action, read_act
from perdure.entities.recurrence import cron_text, following, occurrences
from perdure.entities.schedule_spec import ScheduleSpec
from perdure.entities.search import _parse as search_cursor
from perdure.entities.search import conditions_of, find
from perdure.entities.store.memory import MemoryStore
from perdure.entities.store.rows import Batch, Loaded
from perdure.entities.testing import LocalCluster
from perdure.entities.testing.replay import decode_recording, encode_recording
from perdure.entities.tokens import make_token, read_token
from perdure.entities.transaction_messages import Commit, Held, Hold, Part, Recorded, Release
from perdure.entities.transaction_messages import decode as decode_step
from perdure.entities.transaction_messages import encode as encode_step


class Colour(Enum):
    RED = "red"


class Line(BaseModel):
    name: str = ""
    count: int = 0


class Basket(Entity, version=2):
    """A field of every sort."""

    status: str = "new"
    total: float = 0.0
    count: int = 0
    is_open: bool = True
    colour: Colour | None = None
    lines: list[Line] = []
    anything: Any = None
    notes = Mailbox(Line)

    @upgrade(from_version=1)
    @staticmethod
    def renamed(state: dict[str, Any]) -> dict[str, Any]:
        state["status"] = state.pop("state", "new")
        return state

    @handler
    async def add(self, line: Line, times: int = 1) -> float:
        self.lines += [line] * times
        return self.total

    @query
    async def some(self, at_least: int, colour: Colour | None = None, word: str = "") -> list[Line]:
        return self.lines


DEFINITION = EntityDefinition(Basket)
SOME = Operation(DEFINITION, DEFINITION.queries["some"], name="some", action=HttpAction.QUERY, method="GET")
ENTITY = EntityId("Basket", "b/1 ü")
STATE = DEFINITION.dump(Basket(key="b", status="x", lines=[Line(name="pen", count=2)], anything={"a": [1, 2.5, None]}))
ENVELOPE = Envelope(
    id="m1", type="Basket", key="b/1 ü", kind=Kind.CALL, name="add", args=b'{"line":{"name":"pen"}}', sender="c",
    position=7, reply_to="A/b#run/1/2", chain=("A/b#run",), trace="00-ab-cd-01", options="restart",
)  # fmt: skip
HELD = Held(1, 2, STATE, 2, 3, 4, [])


@dataclass(frozen=True)
class Decoder:
    """`decode(data)` of `examples` and of what becomes of them returns, or raises one of `raises`."""

    name: str
    decode: Callable[[bytes], object]
    raises: tuple[type[Exception], ...]
    examples: tuple[bytes, ...]


def text_of(data: bytes) -> str:
    """Any text, lone surrogates included: argv, environment and query strings can hold those."""
    return data.decode("utf-8", "surrogateescape")


class _Query:
    """As much of a request as reading a query string needs."""

    def __init__(self, data: bytes) -> None:
        from starlette.datastructures import QueryParams

        self.query_params = QueryParams(data.decode("latin-1"))


def _query_arguments(data: bytes) -> object:
    return arguments_of(SOME, _Query(data))  # type: ignore[arg-type]


def _find(data: bytes) -> object:
    """A search as it comes from a query string, to its end."""
    pairs = [part.partition("=") for part in text_of(data).split("&")]
    conditions = conditions_of(DEFINITION, [(name, value) for name, _, value in pairs])
    return _finished(find(Basket, conditions, archive=STORE.archive()))


def _finished(coroutine: Any) -> Any:
    """Run what awaits nothing that waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits")


def _schedule(data: bytes) -> object:
    spec = ScheduleSpec.model_validate_json(data)
    spec.check()
    found = []
    for _, due_us in zip(range(3), spec.occurrences(0, 0), strict=False):
        found.append((spec.starts_us("s", due_us), spec.target(due_us), spec.arguments_for(due_us)))
    return found


def _cron(data: bytes) -> object:
    expression, _, tz = text_of(data).partition("|")
    text = cron_text(expression, tz)
    following(10**15 - 3_600_000_000, 10**15, every_us=0, cron=text, catch_up_all=False)
    return next(occurrences(text, 10**15), None)


def _columns(data: bytes) -> object:
    kind, _, extra = data.partition(b" ")
    position, message_id, _, *rest, _ = to_columns(ENVELOPE)
    return from_columns("Basket", "b", (position, message_id, text_of(kind), *rest, extra))


def _step(cls: type[object]) -> Callable[[bytes], object]:
    return lambda data: decode_step(data, cls)


def _export() -> bytes:
    async def work() -> bytes:
        async with LocalCluster([Basket], store=store) as cluster:
            await Basket.ref("b").add(Line(name="pen"), 2)
            await Basket.ref("b").notes.send(Line(name="n"))
            await Basket.ref("b").add.options(delay=timedelta(hours=1)).send(Line())
            return await export_entity(Basket.ref("b"), archive=cluster.archive)

    store = MemoryStore()
    return asyncio.run(work())


def _import(data: bytes) -> object:
    """And on with what was let in: its store must be able to load it."""
    store = MemoryStore()
    entity = import_entity(data, store)
    loaded = _finished(store.load([entity]))[0]
    return DEFINITION.load("b", loaded.state, version=loaded.schema_version) if loaded.version else None


def _memory_store() -> MemoryStore:
    store = MemoryStore()
    import_entity(_export(), store)
    return store


STORE = _memory_store()
DECODE = (msgspec.DecodeError,)
OURS = (PerdureError,)
TOKEN = make_token(ENTITY, "run/0190aaaa/3")
ENTRY = Entry(
    5, [Event(EventKind.START), Event(EventKind.VALUE, 3, msgspec.Raw(b'{"x":1}'))],
    [Scheduled(4, OperationKind.TIMER, "t")], detached=True, state=msgspec.Raw(STATE),
)  # fmt: skip
LOADED = Loaded(entity=ENTITY, version=3, state=STATE, schema_version=2, inbox=[ENVELOPE])
SPECS = (
    b'{"type":"Basket","key":"b-{time:%Y-%m-%d}","name":"add","cron":"0 9 * * mon-fri","tz":"Asia/Tokyo","jitter":60}',
    b'{"type":"Basket","key":"b","name":"add","every":"PT1H","start_at":"2026-01-01T00:00Z","arguments":{"a":"{time}"}}',
)
CRONS = (
    b"0 9 * * mon-fri|Europe/Berlin", b"*/5 * * * *|UTC", b"0 0 29 2 *|UTC", b"1 2 3 4 5 6|UTC", b"0 0 L * *|UTC",
    b"0 0 * * 5#3|America/New_York",
)  # fmt: skip
WHERE = (
    b"status=Paid&total__ge=100",
    b"count__in=1&count__in=2",
    b"colour=null",
    b"is_open=true&lines=[]",
    b"anything={}",
)

DECODERS = (
    Decoder("offer", decode_offer, DECODE, (encode(Offer("link", 1, 2, [ENVELOPE], 3)),)),
    Decoder("answer", decode_answer, DECODE, (encode(Answer([1], [Reply("m1", Status.OK, b'{"a":1}', 4)], 7)),)),
    Decoder("hints", decode_entities, DECODE, (msgspec.msgpack.encode([ENTITY, ENTITY]),)),
    Decoder("outcome", decode_outcome, DECODE, (encode_json(Outcome(ok=True, value=msgspec.Raw(STATE))),)),
    Decoder(
        "error", lambda data: error_from_body(decode_error(data)), DECODE,
        (encode_json(ErrorBody("busy", "later", details={"limit": 3}, cause=ErrorBody("x", "y"))),),
    ),
    Decoder("journal entry", decode_entry, DECODE, (encode_entry(ENTRY),)),
    Decoder("snapshot", lambda data: DEFINITION.load("b", data), OURS, (STATE,)),
    Decoder("old snapshot", lambda data: DEFINITION.load("b", data, version=1), OURS, (STATE, b'{"state":"x"}')),
    Decoder("arguments", DEFINITION.handlers["add"].signature.load_arguments, OURS, (ENVELOPE.args,)),
    Decoder("mailbox item", DEFINITION.mailboxes["notes"].load, OURS, (b'{"name":"pen","count":2}',)),
    Decoder("result", DEFINITION.queries["some"].signature.load_result, OURS, (b'[{"name":"pen","count":2}]',)),
    Decoder("stored message", _columns, (*DECODE, ValueError), (b'call  [false,0,[],"",0,""]',)),
    Decoder("operation", lambda data: OperationAddress.parse(text_of(data)), (ValueError,), (b"run/0190aaaa/3",)),
    Decoder("address", lambda data: EntityId.parse(text_of(data)), OURS, (b"Basket/b/1",)),
    Decoder("act", read_act, OURS, (encode_json(Act(Action.COMPLETE, operation=3, value=msgspec.Raw(b"1"))),)),
    Decoder("token", lambda data: read_token(text_of(data)), OURS, (TOKEN.encode(),)),
    Decoder("search cursor", lambda data: search_cursor(DEFINITION, text_of(data)), OURS, (b"7/b",)),
    Decoder("letter cursor", lambda data: letter_cursor(text_of(data)), OURS, (b'[1700000000000,"Basket","b","m"]',)),
    Decoder("search", _find, OURS, WHERE),
    Decoder("query string", _query_arguments, OURS, (b"at_least=3&colour=red&word=x%20y", b"at_least=%FF")),
    Decoder("body", check_json, (Refused,), (ENVELOPE.args, STATE, b'{"a":[1,2.5e3,"\\u00fc\\ud83d\\ude00"]}')),
    Decoder("cron", _cron, (ValueError,), CRONS),
    Decoder("schedule", _schedule, (ValidationError, *OURS), SPECS),
    Decoder("export", _import, OURS, (_export(),)),
    Decoder("recording", decode_recording, (ValueError,), (encode_recording([LOADED]),)),
    Decoder(
        "difference", lambda data: changes_between(msgspec.json.decode(data), msgspec.json.decode(STATE)),
        (msgspec.DecodeError, UnicodeDecodeError, RecursionError), (STATE,),
    ),
    Decoder("dedicated answer", dedicated.read_answer, (*DECODE, *OURS), (
        dedicated.encode(dedicated.Answer(STATE)), dedicated.answer_error(PerdureError("x")),
    )),
    Decoder("dedicated load", lambda data: dedicated.read(dedicated.LOADED, data), DECODE, (dedicated.encode(LOADED),)),
    Decoder("dedicated batch", lambda data: dedicated.read(dedicated.BATCH, data), DECODE, (
        dedicated.encode(Batch(incarnation="h", epochs={1: 2}, writes=[])),
    )),
    Decoder("dedicated control", lambda data: dedicated.read(dedicated.CONTROL, data), DECODE, (
        dedicated.encode(dedicated.Control([], wake=True)),
    )),
    *(
        Decoder(f"transaction {type(one).__name__.lower()}", _step(type(one)), DECODE, (encode_step(one),))
        for one in (
            Hold("a", 2.0), HELD, Recorded(is_committed=True), Release("a", is_aborted=False),
            Commit("t", "n", b"f", b"null", "s", ENTITY, [Part(ENTITY, HELD, STATE, 2, [], {})]),
        )
    ),
    Decoder("DSN", lambda data: (masked(text_of(data)), without_password("x", text_of(data))), (), (
        b"postgresql://user:hunter2@localhost:5432/db?sslmode=require", b"host=h password='a b' dbname=d",
    )),
)  # fmt: skip
