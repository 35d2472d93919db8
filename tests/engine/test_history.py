"""History, past states, edits, forks, dead letters and exports of entities that ran (promises P1, P2, P8, P9)."""

import asyncio
import datetime as dt
import itertools
import json
import random
from collections.abc import AsyncGenerator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.entities import (
    ApplicationError,
    Conflict,
    Entity,
    EntityExists,
    HistoryEvent,
    IdempotencyMismatch,
    InvalidArguments,
    Mailbox,
    NoSuchEntity,
    NoSuchLetter,
    RetryPolicy,
    VersionConflict,
    VersionNotRetained,
    What,
    activity,
    activity_info,
    condition,
    dead_letter,
    dead_letters,
    diff,
    discard_dead_letter,
    edit,
    export_entity,
    fork,
    handler,
    history,
    import_entity,
    query,
    replay_dead_letter,
    state_at,
    workflow,
)
from perdure.entities.engine.settings import EngineSettings
from perdure.entities.json_patch import Change, changes_between
from perdure.entities.store.memory import MemoryStore
from perdure.entities.testing import LocalCluster

from .faults import Fault, FaultyStore

ONCE = RetryPolicy(attempts=1)
broken = {"is_broken": True}


@activity
async def double(number: int) -> int:
    return 2 * number


@activity(retry=ONCE)
async def fail(text: str) -> None:
    raise ApplicationError(text)


@activity(retry=RetryPolicy(initial=dt.timedelta(seconds=100)))
async def flaky() -> None:
    raise LookupError("not there yet")


@activity(retry=RetryPolicy(initial=dt.timedelta(milliseconds=1)))
async def lucky() -> str:
    attempt = activity_info().attempt
    if attempt < 3:
        raise LookupError(f"not in attempt {attempt}")
    return "there"


class Parcel(Entity):
    status: str = "new"
    weight: int = 0
    notes: list[str] = []
    decision = Mailbox(bool)

    @handler
    async def set(self, status: str) -> str:
        before, self.status = self.status, status
        return before

    @handler
    async def note(self, text: str) -> None:
        self.notes.append(text)

    @handler
    async def refuse(self) -> None:
        self.status = "never seen"
        raise ApplicationError("no")

    @handler(retry=RetryPolicy(initial=dt.timedelta(milliseconds=1), attempts=2))
    async def deliver(self, to: str) -> None:
        if broken["is_broken"]:
            raise ApplicationError("nobody at home")
        self.notes.append(to)

    @query
    async def read(self) -> str:
        return self.status

    @workflow
    async def send(self, weight: int) -> int:
        self.weight = await double(weight)
        await asyncio.sleep(0.001)
        if not await self.decision.receive():
            await fail("rejected")
        self.status = "sent"
        return self.weight

    @workflow
    async def wait(self) -> str:
        await condition(lambda: self.status == "go")
        return self.status

    @workflow
    async def retry(self) -> None:
        await flaky()

    @workflow
    async def third_time_lucky(self) -> str:
        return await lucky()


class Silent(Entity, keep_states=False):
    count: int = 0

    @handler
    async def add(self) -> int:
        self.count += 1
        return self.count


@pytest.fixture(autouse=True)
def mend() -> None:
    broken["is_broken"] = True


@pytest.fixture
async def local() -> AsyncGenerator[LocalCluster]:
    async with LocalCluster([Parcel, Silent]) as cluster:
        yield cluster


def brief(events: list[HistoryEvent]) -> list[tuple[int, str, str, str]]:
    return [(event.version, str(event.what), event.kind, event.name) for event in events]


async def until_dead(count: int = 1) -> list[str]:
    """Ids of the dead letters, once there are so many."""
    while True:
        found = (await dead_letters()).letters
        if len(found) >= count:
            return [letter.message_id for letter in found]
        await asyncio.sleep(0)


# --- History ----------------------------------------------------------------------------------------------------------


async def test_every_message_is_there_with_input_outcome_sender_and_time(local: LocalCluster) -> None:
    parcel = Parcel.ref("p")
    before = dt.datetime.now(dt.UTC)
    await parcel.set("packed")
    with pytest.raises(ApplicationError):
        await parcel.refuse()
    await parcel.note.send("hello")
    page = await history(parcel)
    assert (page.version, page.next) == (3, None)
    assert brief(page.events) == [
        (1, "message", "call", "set"),
        (2, "message", "call", "refuse"),
        (3, "message", "send", "note"),
    ]
    first, second, third = page.events
    assert (first.input, first.output, first.ok, first.sender) == ({"status": "packed"}, "new", True, local.session)
    assert (second.ok, second.output, second.error["message"]) == (False, None, "no")
    assert third.input == {"text": "hello"}
    assert before - dt.timedelta(seconds=1) <= first.at <= second.at <= third.at
    assert [event.has_state for event in page.events] == [True, False, True]


async def test_every_operation_of_a_workflow_is_there_in_order(local: LocalCluster) -> None:
    parcel = Parcel.ref("p")
    run_id = await parcel.send.start(weight=4)
    await parcel.decision.send(True)
    assert await parcel.send.result() == 8
    events = [event for event in (await history(parcel)).events if event.what is not What.MESSAGE]
    assert [(str(e.what), e.kind, e.name, e.input, e.output) for e in events] == [
        ("started", "", "send", {"weight": 4}, None),
        ("scheduled", "activity", "double", {"number": 4}, None),
        ("completed", "activity", "double", None, 8),
        ("timer_started", "timer", "", None, None),
        ("timer_fired", "timer", "", None, None),
        ("scheduled", "receive", "decision", None, None),
        ("received", "receive", "decision", None, True),
        ("ended", "completed", "send", None, 8),
    ]
    assert {event.run_id for event in events} == {run_id}
    assert [event.operation for event in events] == [None, 0, 0, 1, 1, 2, 2, None]


async def test_a_failed_operation_and_a_failed_run_carry_their_errors(local: LocalCluster) -> None:
    parcel = Parcel.ref("p")
    await parcel.send.start(weight=4)
    await parcel.decision.send(False)
    with pytest.raises(Exception, match="rejected"):
        await parcel.send.result()
    failed, ended = (await history(parcel, kinds=[What.FAILED, What.ENDED])).events
    assert (failed.name, failed.ok, failed.error["message"]) == ("fail", False, "rejected")
    assert (ended.kind, ended.ok, ended.error["cause"]["message"]) == ("failed", False, "rejected")


async def test_cancellation_and_termination_are_told(local: LocalCluster) -> None:
    one, two = Parcel.ref("one"), Parcel.ref("two")
    await one.wait.start()
    await one.wait.cancel()
    await two.wait.start()
    await two.wait.terminate("duplicate")
    await local.drained()
    wanted = [What.CANCEL_REQUESTED, What.ENDED]
    assert [e.kind for e in (await history(one, kinds=wanted)).events] == ["", "cancelled"]
    (ended,) = (await history(two, kinds=wanted)).events
    assert ended.kind == "terminated"
    assert "duplicate" in ended.error["message"]


async def test_a_condition_that_another_turn_made_true_is_told(local: LocalCluster) -> None:
    parcel = Parcel.ref("p")
    await parcel.wait.start()
    await parcel.set("go")
    await parcel.wait.result()
    kinds = [What.WAITING, What.CONDITION_MET]
    assert [event.what for event in (await history(parcel, kinds=kinds)).events] == kinds


async def test_a_retrying_activity_shows_its_attempts_and_last_error(local: LocalCluster) -> None:
    parcel = Parcel.ref("p")
    await parcel.retry.start()
    events: list[HistoryEvent] = []
    while not events:
        await asyncio.sleep(0)
        events = (await history(parcel, kinds=[What.ATTEMPT_FAILED])).events
    (event,) = events
    assert (event.name, event.workflow, event.details["attempts"]) == ("flaky", "retry", 1)
    assert event.error["message"] == "not there yet"
    assert dt.datetime.fromisoformat(event.details["next_at"]) > event.at


async def test_failed_attempts_are_told_after_the_success_too(local: LocalCluster) -> None:
    parcel = Parcel.ref("p")
    assert await parcel.third_time_lucky() == "there"
    events = (await history(parcel, kinds=[What.ATTEMPT_FAILED, What.COMPLETED])).events
    assert [(event.what, event.name, event.operation) for event in events] == [
        (What.ATTEMPT_FAILED, "lucky", 0),
        (What.COMPLETED, "lucky", 0),
    ]
    assert events[0].details["attempts"] == 2
    assert events[0].error["message"] == "not in attempt 2"
    assert events[1].output == "there"


@pytest.mark.parametrize("newest_first", [False, True])
async def test_pages_add_up_to_the_whole(local: LocalCluster, newest_first: bool) -> None:
    parcel = Parcel.ref("p")
    await parcel.send.start(weight=1)
    for number in range(9):
        await parcel.note(str(number))
    await parcel.decision.send(True)
    await parcel.send.result()
    whole = (await history(parcel, newest_first=newest_first)).events
    found: list[HistoryEvent] = []
    after: int | None = 0
    while after is not None:
        page = await history(parcel, after=after, limit=2, newest_first=newest_first)
        found += page.events
        after = page.next
    assert found == whole
    assert len({event.version for event in found}) == (await history(parcel)).version


async def test_history_is_answered_while_no_host_runs(local: LocalCluster) -> None:
    await Parcel.ref("p").set("packed")
    archive = local.archive
    while local.engines:
        engine = local.engines.pop()
        engine.kill()
        await engine.stop()
    assert len((await history(Parcel.ref("p"), archive=archive)).events) == 1
    assert (await state_at(Parcel.ref("p"), archive=archive)).status == "packed"


@pytest.mark.parametrize("wrong", [{"limit": 0}, {"limit": 1_001}, {"after": -1}, {"kinds": ["nonsense"]}])
async def test_wrong_questions_are_refused(local: LocalCluster, wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidArguments):
        await history(Parcel.ref("p"), **wrong)  # type: ignore[arg-type]


async def test_a_class_may_keep_its_inputs_small(local: LocalCluster) -> None:
    """Arguments of operations beyond 4 kB are not in the journal."""
    async with LocalCluster([Parcel], settings=EngineSettings(keep_input_bytes=3)) as cluster:
        await Parcel.ref("q").send.start(weight=4)
        await cluster.drained()
        (scheduled,) = (await history(Parcel.ref("q"), kinds=["scheduled"])).events[:1]
        assert (scheduled.name, scheduled.input) == ("double", None)


# --- Past states ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
async def test_every_version_of_a_random_life_has_the_state_that_it_left(local: LocalCluster, seed: int) -> None:
    pick = random.Random(seed)
    parcel = Parcel.ref("p")
    await parcel.send.start(weight=3)
    for step in range(40):
        match pick.randrange(4):
            case 0:
                await parcel.set(pick.choice("ab"))
            case 1:
                await parcel.note(str(step))
            case 2:
                with pytest.raises(ApplicationError):
                    await parcel.refuse()
            case _:
                await parcel.note.send(str(step))
        if step in (13, 27):  # seldom enough not to come under suspicion (P9)
            await local.drained()
            await local.crash()
    await parcel.decision.send(True)
    await parcel.send.result()
    events = (await history(parcel, limit=1_000)).events
    status, notes, weight = "new", list[str](), 0
    for version, group in itertools.groupby(events, key=lambda event: event.version):
        for event in group:
            match event.name:
                case "set":
                    status = event.input["status"]
                case "note":
                    notes = [*notes, event.input["text"]]
                case "double" if event.what is What.COMPLETED:
                    weight = event.output
                case "send" if event.what is What.ENDED:
                    status = "sent"
                case _:
                    pass
        then = await state_at(parcel, version)
        assert (then.status, then.notes, then.weight) == (status, notes, weight), f"version {version}"


async def test_the_difference_between_two_versions(local: LocalCluster) -> None:
    parcel = Parcel.ref("p")
    await parcel.set("packed")
    await parcel.note("a")
    await parcel.note("b")
    assert await diff(parcel, 1, 3) == [Change("add", "/notes/-", value="a"), Change("add", "/notes/-", value="b")]
    assert await diff(parcel, 3, 2) == [Change("remove", "/notes/1", old="b")]
    assert await diff(parcel, 2, 2) == []


async def test_states_that_are_not_kept_are_refused_by_name(local: LocalCluster) -> None:
    silent = Silent.ref("s")
    await silent.add()
    await silent.add()
    assert (await state_at(silent, 2)).count == 2, "the present state is always known"
    with pytest.raises(VersionNotRetained, match=r"Silent/s.*version 1 .*keep_states=False"):
        await state_at(silent, 1)
    with pytest.raises(VersionNotRetained):
        await state_at(silent, 3)
    with pytest.raises(NoSuchEntity):
        await state_at(Silent.ref("nobody"), 1)
    with pytest.raises(NoSuchEntity):
        await state_at(Silent.ref("nobody"))


@pytest.mark.unfit("evict", reason="an entity that leaves memory forgets when it last kept a large state")
async def test_large_states_are_kept_only_now_and_then() -> None:
    clock = [0.0]
    async with LocalCluster([Parcel], settings=EngineSettings(keep_state_bytes=200)) as cluster:
        cluster.engines[0].monotonic = lambda: clock[0]
        parcel = Parcel.ref("p")
        for number in range(6):
            await parcel.note("x" * 100 + str(number))
            clock[0] += 30
        kept = [event.has_state for event in (await history(parcel)).events]
        assert kept == [True, True, False, True, False, True], "small; then one a minute"
        assert (await state_at(parcel, 4)).notes[-1].endswith("3")
        with pytest.raises(VersionNotRetained):
            await state_at(parcel, 3)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["", "a", "a/b", "~"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["", "a", "a/b", "~1"]), inner),
    max_leaves=12,
)


def patched(document: object, changes: list[Change]) -> object:
    """Apply a JSON Patch, as RFC 6902 says."""
    root = {"": json.loads(json.dumps(document))}
    for change in changes:
        steps = [part.replace("~1", "/").replace("~0", "~") for part in change.path.split("/")]
        holder: object = root
        for step in steps[:-1]:
            holder = holder[int(step)] if isinstance(holder, list) else holder[step]  # type: ignore[index]
        last = steps[-1]
        match holder, change.op:
            case list(), "add":
                assert last == "-"
                holder.append(change.value)
            case list(), "remove":
                assert holder.pop(int(last)) == change.old
            case list(), _:
                holder[int(last)] = change.value
            case dict(), "remove":
                assert holder.pop(last) == change.old
            case dict(), _:
                holder[last] = change.value
            case _:
                raise AssertionError(change)
    return root[""]


@given(JSON, JSON)
def test_changes_lead_from_one_value_to_the_other(one: object, other: object) -> None:
    changes = changes_between(one, other)
    assert json.dumps(patched(one, changes), sort_keys=True) == json.dumps(other, sort_keys=True)
    assert bool(changes) == (json.dumps(one, sort_keys=True) != json.dumps(other, sort_keys=True))


# --- Forks ------------------------------------------------------------------------------------------------------------


async def test_a_fork_has_the_state_of_its_version_and_names_its_origin(local: LocalCluster) -> None:
    parcel = Parcel.ref("p")
    await parcel.set("one")
    await parcel.set("two")
    copy = await fork(parcel, 1, "copy", reason="to look at it", operator="ada")
    assert await copy.read() == "one"
    assert (await state_at(await fork(parcel, None, "present"))).status == "two"
    (event,) = (await history(copy)).events
    assert (event.what, event.name, event.version) == (What.OPERATOR, "fork", 1)
    assert (event.input["origin"], event.input["origin_version"]) == ("Parcel/p", 1)
    assert (event.input["reason"], event.input["operator"]) == ("to look at it", "ada")
    await copy.set("its own")
    assert await parcel.read() == "two"


async def test_a_fork_never_overwrites(local: LocalCluster) -> None:
    one, two = Parcel.ref("one"), Parcel.ref("two")
    await one.set("a")
    await two.set("b")
    with pytest.raises(EntityExists, match="Parcel/two exists already"):
        await fork(one, 1, "two")
    assert await two.read() == "b"
    with pytest.raises(NoSuchEntity):
        await fork(Parcel.ref("nobody"), 1, "three")
    with pytest.raises(VersionNotRetained):
        await fork(one, 9, "three")
    assert (await history(Parcel.ref("three"))).version == 0


# --- Edits ------------------------------------------------------------------------------------------------------------


async def test_an_edit_is_a_turn_with_an_audit(local: LocalCluster) -> None:
    parcel = Parcel.ref("p")
    await parcel.set("wrong")
    version = await edit(parcel, {"status": "right", "notes": ["x"]}, expected_version=1, reason="typo", operator="ada")
    assert version == 2
    assert await parcel.read() == "right"
    event = (await history(parcel)).events[-1]
    assert (event.version, event.what, event.name) == (2, What.OPERATOR, "edit")
    assert event.input == {
        "fields": {"status": "right", "notes": ["x"]}, "expected_version": 1, "reason": "typo", "operator": "ada"
    }  # fmt: skip
    assert await diff(parcel, 1, 2) == [
        Change("replace", "/status", value="right", old="wrong"),
        Change("add", "/notes/-", value="x"),
    ]


async def test_an_edit_of_another_version_is_refused_and_changes_nothing(local: LocalCluster) -> None:
    parcel = Parcel.ref("p")
    await parcel.set("a")
    await parcel.set("b")
    with pytest.raises(VersionConflict, match="at version 2, not 1") as error:
        await edit(parcel, {"status": "c"}, expected_version=1)
    assert error.value.details == {"expected": 1, "present": 2}
    assert isinstance(error.value, Conflict)
    assert await parcel.read() == "b"
    assert (await history(parcel)).version == 2


@pytest.mark.parametrize("fields", [{"weight": "heavy"}, {"colour": "red"}, {"key": "other"}, {}])
async def test_an_edit_must_fit_the_class(local: LocalCluster, fields: dict[str, object]) -> None:
    parcel = Parcel.ref("p")
    await parcel.set("a")
    with pytest.raises(InvalidArguments, match="Parcel"):
        await edit(parcel, fields, expected_version=1)
    assert (await history(parcel)).version == 1


async def test_of_concurrent_edits_of_one_version_one_wins(local: LocalCluster) -> None:
    parcel = Parcel.ref("p")
    await parcel.set("a")
    results = await asyncio.gather(
        *(edit(parcel, {"weight": number}, expected_version=1) for number in range(20)), return_exceptions=True
    )
    assert [result for result in results if not isinstance(result, VersionConflict)] == [2]


async def test_an_edit_repeated_under_its_key_happens_once(local: LocalCluster) -> None:
    parcel = Parcel.ref("p")
    await parcel.set("a")
    for _ in range(3):
        assert await edit(parcel, {"weight": 5}, expected_version=1, idempotency_key="k") == 2
    with pytest.raises(IdempotencyMismatch):
        await edit(parcel, {"weight": 6}, expected_version=1, idempotency_key="k")


async def test_a_waiting_workflow_sees_an_edit(local: LocalCluster) -> None:
    parcel = Parcel.ref("p")
    await parcel.wait.start()
    await edit(parcel, {"status": "go"}, expected_version=1)
    assert await parcel.wait.result() == "go"


async def test_a_workflow_replays_over_an_edit(local: LocalCluster) -> None:
    parcel = Parcel.ref("p")
    await parcel.send.start(weight=4)
    await local.drained()
    while (page := await history(parcel)).events[-1].name != "decision":
        await asyncio.sleep(0)
    await edit(parcel, {"weight": 100}, expected_version=page.version)
    await local.drained()
    await local.crash()
    await parcel.decision.send(True)
    assert await parcel.send.result() == 100


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER, Fault.CONFLICT])
async def test_an_edit_survives_a_failing_commit(fault: Fault) -> None:
    store = FaultyStore()
    async with LocalCluster([Parcel], store=store):
        parcel = Parcel.ref("p")
        await parcel.set("a")
        store.faults.append(fault)
        assert await edit(parcel, {"weight": 5}, expected_version=1, idempotency_key="k") == 2
        assert [event.name for event in (await history(parcel)).events] == ["set", "edit"]


# --- Dead letters -----------------------------------------------------------------------------------------------------


async def test_a_dead_letter_is_listed_with_its_reason_and_replayed_once(local: LocalCluster) -> None:
    parcel = Parcel.ref("p")
    await parcel.deliver.send("home")
    (message_id,) = await until_dead()
    (letter,) = (await dead_letters(parcel)).letters
    assert (letter.type, letter.key, letter.name, letter.args) == ("Parcel", "p", "deliver", {"to": "home"})
    assert (letter.attempts, letter.error["message"]) == (2, "nobody at home")
    assert letter == await dead_letter(parcel, message_id)
    broken["is_broken"] = False
    new_id = await replay_dead_letter(parcel, message_id, reason="mended", operator="ada")
    while not (await state_at(parcel)).notes:
        await asyncio.sleep(0)
    assert (await state_at(parcel)).notes == ["home"]
    assert (await dead_letters()).letters == []
    audit, applied = (await history(parcel)).events[-2:]
    assert (audit.what, audit.name, audit.input["reason"]) == (What.OPERATOR, "replay_letter", "mended")
    assert (applied.name, applied.message_id, applied.ok) == ("deliver", new_id, True)
    for settle in (replay_dead_letter, discard_dead_letter):
        with pytest.raises(NoSuchLetter, match="Parcel/p"):
            await settle(parcel, message_id)


async def test_many_who_settle_one_letter_send_it_once(local: LocalCluster) -> None:
    parcel = Parcel.ref("p")
    await parcel.deliver.send("home")
    (message_id,) = await until_dead()
    broken["is_broken"] = False
    results = await asyncio.gather(
        *(replay_dead_letter(parcel, message_id, reason=f"r{number}") for number in range(10)),
        *(discard_dead_letter(parcel, message_id, reason=f"d{number}") for number in range(10)),
        return_exceptions=True,
    )
    assert sum(not isinstance(result, BaseException) for result in results) == 1
    assert all(isinstance(result, str | NoSuchLetter) for result in results)
    while not (await state_at(parcel)).notes:
        await asyncio.sleep(0.001)
    await local.drained()
    await parcel.note("end")
    assert (await state_at(parcel)).notes == ["home", "end"]


async def test_a_letter_that_dies_again_can_be_replayed_again(local: LocalCluster) -> None:
    parcel = Parcel.ref("p")
    await parcel.deliver.send("home")
    (first,) = await until_dead()
    second = await replay_dead_letter(parcel, first)
    while [letter.message_id for letter in (await dead_letters()).letters] != [second]:
        await asyncio.sleep(0)
    broken["is_broken"] = False
    third = await replay_dead_letter(parcel, second)
    assert len({first, second, third}) == 3
    while (await state_at(parcel)).notes != ["home"]:
        await asyncio.sleep(0)


async def test_a_discarded_letter_is_gone_and_audited(local: LocalCluster) -> None:
    parcel = Parcel.ref("p")
    await parcel.deliver.send("home")
    (message_id,) = await until_dead()
    await discard_dead_letter(parcel, message_id, reason="old", operator="ada")
    assert (await dead_letters(parcel)).letters == []
    event = (await history(parcel)).events[-1]
    assert (event.name, event.input["message_id"], event.input["operator"]) == ("discard_letter", message_id, "ada")


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER, Fault.CONFLICT])
async def test_a_replay_survives_a_failing_commit(fault: Fault) -> None:
    store = FaultyStore()
    async with LocalCluster([Parcel], store=store) as cluster:
        parcel = Parcel.ref("p")
        await parcel.deliver.send("home")
        (message_id,) = await until_dead()
        broken["is_broken"] = False
        store.faults.append(fault)
        await replay_dead_letter(parcel, message_id)
        while (await state_at(parcel)).notes != ["home"]:
            await asyncio.sleep(0.001)
        await cluster.drained()
        await parcel.note("end")
        assert (await state_at(parcel)).notes == ["home", "end"]


async def test_dead_letters_come_in_pages_of_a_type_since_a_time(local: LocalCluster) -> None:
    for number in range(5):
        await Parcel.ref(f"p{number}").deliver.send("home")
    ids = await until_dead(5)
    seen: list[str] = []
    after: str | None = None
    while True:
        page = await dead_letters(type=Parcel, limit=2, after=after)
        seen += [letter.message_id for letter in page.letters]
        after = page.next
        if after is None:
            break
    assert seen == ids
    assert (await dead_letters(type="Silent")).letters == []
    assert (await dead_letters(since=dt.datetime.now(dt.UTC) + dt.timedelta(hours=1))).letters == []
    with pytest.raises(InvalidArguments):
        await dead_letters(after="nonsense")
    with pytest.raises(InvalidArguments, match="time zone"):
        await dead_letters(since=dt.datetime.now())  # noqa: DTZ005 - that is the mistake


# --- Export and import ------------------------------------------------------------------------------------------------


async def test_an_exported_entity_goes_on_elsewhere(local: LocalCluster) -> None:
    parcel = Parcel.ref("p")
    await parcel.send.start(weight=4)
    await parcel.note("before")
    while (await history(parcel)).events[-1].name != "decision":
        await asyncio.sleep(0)
    data = await export_entity(parcel)
    document = json.loads(data)
    assert document["perdure_export"] == 1
    assert document["entity"]["type"] == "Parcel"
    assert document["state"]["notes"] == ["before"]
    assert [row["workflow"] for row in document["runs"]] == ["send"]
    assert [row["number"] for row in document["journal"]] == [0, 1, 2]
    elsewhere = MemoryStore()
    assert import_entity(data, elsewhere) == ("Parcel", "p")
    async with LocalCluster([Parcel], store=elsewhere) as cluster:
        assert await export_entity(parcel, archive=cluster.archive) == data
        await parcel.decision.send(True)
        assert await parcel.send.result() == 8
    with pytest.raises(EntityExists):
        import_entity(data, elsewhere)


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b'{"perdure_export": 2}', b'{"perdure_export": 1}', b'{"perdure_export": 1, "entity": []}',
     b'{"perdure_export":1,"entity":{"type":"A","key":"b"}}', b"\xff"],
)  # fmt: skip
def test_what_is_no_export_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidArguments, match="export"):
        import_entity(data, MemoryStore())


async def test_an_unknown_entity_cannot_be_exported(local: LocalCluster) -> None:
    with pytest.raises(NoSuchEntity):
        await export_entity(Parcel.ref("nobody"))
