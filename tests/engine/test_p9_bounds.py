"""P9: poison, hanging and wedged code is bounded, visible, repairable, and harms nobody else."""

import asyncio

import pytest

from perdure.entities import (
    Busy,
    Entity,
    EntityId,
    EntityParked,
    HandlerTimeout,
    InvalidArguments,
    RunParked,
    StateNotSerialisable,
    UnknownHandler,
    UnknownType,
    condition,
    handler,
    query,
    workflow,
)
from perdure.entities.engine.settings import EngineSettings
from perdure.entities.messages import Envelope, Kind, Status
from perdure.entities.testing import LocalCluster

from .conftest import QUICK
from .faults import Fault, FaultyStore
from .scenes import Account, world
from .waiting import becomes, eventually

A, B = Account.ref("a"), Account.ref("b")


class Wedge(Entity):
    go: bool = False
    spins: bool = False

    @workflow
    async def spin(self) -> None:
        while True:
            await asyncio.sleep(0)

    @workflow
    async def wedged(self) -> None:
        await condition(lambda: self.go)

    @handler
    async def hello(self) -> str:
        return "hello"

    @query
    async def asked(self) -> bool:
        return self.go


async def test_beyond_the_mailbox_bound_messages_are_refused_before_acceptance(store: FaultyStore) -> None:
    async with LocalCluster([Account], store=store, settings=EngineSettings(mailbox_max=10)):
        waiting = asyncio.create_task(A.wait("x"))
        await eventually(lambda: world.ran["wait"])
        assert await A.notes() == []
        accepted = [asyncio.create_task(A.note(str(number))) for number in range(10)]
        await asyncio.sleep(0)
        with pytest.raises(Busy, match=r"Account/a: 10 messages are waiting.*nothing was accepted"):
            await A.note.options(timeout=0.01)("too many")
        with pytest.raises(Busy):
            await A.note.options(timeout=0.01).send("too many")
        assert await B.deposit(1) == 1
        patient = asyncio.create_task(A.note("patient"))
        world.gate.set()
        await asyncio.gather(waiting, patient, *accepted)
        assert sorted(await A.notes()) == sorted(["x", *map(str, range(10)), "patient"])


async def test_a_hanging_handler_blocks_its_own_entity_only_and_not_for_long(cluster: LocalCluster) -> None:
    hanging = asyncio.create_task(A.hang())
    behind = asyncio.create_task(A.deposit(1))
    assert await B.deposit(1) == 1
    with pytest.raises(HandlerTimeout):
        await hanging
    assert await behind == 1


async def test_a_poison_message_becomes_a_dead_letter_with_its_reason(
    cluster: LocalCluster, store: FaultyStore
) -> None:
    world.failures = 1_000
    await A.flaky.send("poison")
    assert await B.deposit(1) == 1
    await eventually(lambda: store.dead_letters)
    (letter,) = store.dead_letters
    assert (str(letter.envelope.entity), letter.envelope.name, letter.attempts) == ("Account/a", "flaky", 3)
    assert b"Refused" in letter.error
    assert store.waiting_messages() == []
    world.failures = 0
    assert await A.deposit(1) == 1


async def test_an_error_that_no_retry_can_cure_is_not_retried(cluster: LocalCluster, store: FaultyStore) -> None:
    with pytest.raises(StateNotSerialisable):
        await A.make_negative.send()
    await eventually(lambda: store.dead_letters)
    assert [letter.attempts for letter in store.dead_letters] == [1]


@pytest.mark.parametrize(
    ("kind", "name", "args", "error"),
    [
        (Kind.CALL, "nonsense", b"{}", UnknownHandler),
        (Kind.CALL, "total", b"{}", UnknownHandler),
        (Kind.QUERY, "deposit", b"{}", UnknownHandler),
        (Kind.START, "deposit", b"{}", UnknownHandler),
        (Kind.SIGNAL, "deposit", b"{}", UnknownHandler),
        (Kind.CALL, "deposit", b'{"amount": "5"}', InvalidArguments),
        (Kind.CALL, "deposit", b"not json", InvalidArguments),
        (Kind.SEND, "nonsense", b"{}", UnknownHandler),
        (Kind.CALL, "__init__", b"{}", UnknownHandler),
        (Kind.CALL, "model_dump", b"{}", UnknownHandler),
        (Kind.CANCEL, "run", b"{}", UnknownHandler),
    ],
)
async def test_a_wrong_message_is_answered_and_changes_nothing(  # noqa: PLR0917 - parametrised
    cluster: LocalCluster, store: FaultyStore, kind: Kind, name: str, args: bytes, error: type[Exception]
) -> None:
    from perdure.entities.errors import error_from_body
    from perdure.entities.messages import decode_error

    envelope = Envelope(id="m", type="Account", key="a", kind=kind, name=name, args=args)
    reply = await cluster.request(envelope, timeout_s=1)
    assert reply.status is Status.ERROR
    assert type(error_from_body(decode_error(reply.body))) is error
    assert store.version("Account/a") == 0
    assert await A.deposit(1) == 1


async def test_wrong_types_and_keys_are_answered(cluster: LocalCluster) -> None:
    from perdure.entities.errors import InvalidKey, error_from_body
    from perdure.entities.messages import decode_error

    for type_name, key, error in (("Nonsense", "a", UnknownType), ("Account", "a\x00", InvalidKey)):
        envelope = Envelope(id="m", type=type_name, key=key, kind=Kind.CALL, name="deposit")
        reply = await cluster.request(envelope, timeout_s=1)
        assert type(error_from_body(decode_error(reply.body))) is error


async def test_state_that_does_not_load_parks_the_entity_and_nobody_else(
    cluster: LocalCluster, store: FaultyStore
) -> None:
    await asyncio.gather(A.deposit(1), B.deposit(1))
    await cluster.crash()
    store.set_state("Account/a", b'{"balance": "lots"}')
    for call in (A.deposit(1), A.total()):
        with pytest.raises(EntityParked, match=r"Account/a.*balance"):
            await call
    assert await B.deposit(1) == 2
    assert store.state("Account/a") == b'{"balance": "lots"}', "its bytes are untouched"
    await eventually(lambda: store.parked)
    assert "balance" in next(iter(store.parked.values()))
    store.set_state("Account/a", b'{"balance": 41}')
    assert await A.deposit(1) == 42


async def test_a_state_of_a_newer_schema_parks_until_code_that_knows_it_is_deployed(
    cluster: LocalCluster, store: FaultyStore
) -> None:
    await asyncio.gather(A.deposit(1), B.deposit(1))
    await cluster.crash()
    stored = store._entities[EntityId("Account", "a")]
    known = stored.schema_version, stored.checksum
    stored.schema_version, stored.checksum = stored.schema_version + 1, None
    before = stored.version, stored.state
    for call in (A.deposit(1), A.total()):
        with pytest.raises(EntityParked, match=r"Account/a.*this code knows"):
            await call
    assert await B.deposit(1) == 2
    assert (stored.version, stored.state) == before, "nothing is written over"
    stored.schema_version, stored.checksum = known  # as a deploy of the newer code would find it
    assert await A.deposit(1) == 2


async def test_a_workflow_that_spins_for_ever_fails(store: FaultyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.entities.engine.loop.STEP_CALLBACKS_MAX", 1_000)
    async with LocalCluster([Wedge], store=store, settings=QUICK):
        wedge = Wedge.ref("w")
        await wedge.spin.start()
        with pytest.raises(Exception, match="without waiting for anything"):
            await wedge.spin.result()
        assert await wedge.hello() == "hello"


async def test_a_workflow_whose_code_is_gone_is_parked(store: FaultyStore) -> None:
    class Renewed(Entity, name="Wedge"):
        go: bool = False

        @workflow
        async def spin(self) -> None: ...

        @query
        async def asked(self) -> bool:
            return self.go

    wedge = Wedge.ref("w")
    async with LocalCluster([Wedge], store=store, settings=QUICK):
        await wedge.wedged.start()
    async with LocalCluster([Renewed], store=store, settings=QUICK):
        assert await Renewed.ref("w").asked() is False
    async with LocalCluster([Wedge], store=store, settings=QUICK):
        await wedge.hello()
        assert store._entities[next(iter(store._entities))].runs["wedged"].status == "running", "the code is back"


async def test_waiting_for_a_parked_run_says_so(store: FaultyStore) -> None:
    class Renewed(Entity, name="Wedge"):
        @workflow
        async def wedged(self) -> None:
            await asyncio.sleep(1)

        @query
        async def asked(self) -> bool:
            return True

    async with LocalCluster([Wedge], store=store, settings=QUICK):
        await Wedge.ref("w").wedged.start()
    async with LocalCluster([Renewed], store=store, settings=QUICK):
        with pytest.raises(RunParked, match=r"Wedge/w\.wedged is parked.*condition.*timer"):
            await Renewed.ref("w").wedged.result()
        assert await Renewed.ref("w").asked()


async def test_a_database_that_is_away_for_a_while_only_delays(cluster: LocalCluster, store: FaultyStore) -> None:
    await A.deposit(1)
    store.faults.extend([Fault.BEFORE] * 3)
    store.read_faults = 4
    assert list(await asyncio.gather(A.deposit(1), B.deposit(1))) == [2, 1]
    store.read_faults = 3
    assert await Account.ref("c").deposit(1) == 1
    store.read_faults = 3
    assert await A.deposit.options(idempotency_key="k")(1) == 3
    store.read_faults = 3
    await becomes(B.total, 1)
