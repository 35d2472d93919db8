"""An encrypted store: nothing readable lies in it, nothing is read in another's place, what cannot be read is not lost.

Security S31: a codec between engine and store, blobs bound to their rows, several keys, rotation, a lost key.
"""

import contextlib
from collections.abc import Generator
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import sql

from perdure.cluster.postgres.schema import metadata
from perdure.cluster.postgres.sessions import SessionSettings
from perdure.cluster.postgres.store import PostgresStore
from perdure.cluster.stores import StoreAddress
from perdure.entities import EncryptionCodec, Entity, PayloadUnreadable, handler, query
from perdure.entities.ids import EntityId
from perdure.entities.messages import Envelope, decode_error
from perdure.entities.shard import shard_of
from perdure.entities.store.encoded import EncodedStore
from perdure.entities.store.encoded_archive import EncodedArchive, NoKeys
from perdure.entities.store.memory import MemoryStore, StoredEntity
from perdure.entities.store.rows import (
    Batch,
    DeadLetter,
    DuePosition,
    EntityWrite,
    HistoryRow,
    HostRow,
    RunStatus,
    Suspicion,
)
from perdure.entities.store.sealing import _WITHOUT_PAYLOAD, Sealer
from perdure.entities.testing import LocalCluster

from .conftest import SHARDS, World
from .rows import A, B, attempt, entry, envelope, full_envelope, history, item, reminder, run

K1, K2 = b"\x01" * 32, b"\x02" * 32
CANARY = b'{"secret":"canary-7141"}'
KEEP_US = 3_600_000_000


def old() -> EncryptionCodec:
    return EncryptionCodec({"k1": K1})


def both() -> EncryptionCodec:
    return EncryptionCodec({"k2": K2, "k1": K1})


def new() -> EncryptionCodec:
    return EncryptionCodec({"k2": K2})


class Memory:
    """A memory store with a host, seen through one codec or another."""

    def __init__(self) -> None:
        self.store = MemoryStore(shards=SHARDS, now_us=lambda: KEEP_US)

    async def prepare(self) -> "Memory":
        await self.store.register(HostRow("h1", "a", "n", 1, "active", 0), lease_s=60)
        self.epochs = await self.store.claim("h1", range(SHARDS))
        return self

    def seen(self, codec: EncryptionCodec) -> EncodedStore:
        return EncodedStore(self.store, codec, namespace="ns")

    async def commit(self, codec: EncryptionCodec, *writes: Any) -> None:
        await self.seen(codec).commit(Batch(incarnation="h1", epochs=self.epochs, writes=list(writes)))

    def of(self, entity: EntityId) -> StoredEntity:
        return self.store._entities[entity]

    def everything(self) -> str:
        return repr(self.store._entities) + repr(self.store._dead_letters)


@pytest.fixture
async def memory() -> Memory:
    return await Memory().prepare()


def write(entity: EntityId, expected: int = 0, **rows: Any) -> Any:
    return World.write(None, entity, expected, **rows)  # type: ignore[arg-type]  # needs nothing of its world


def full_write(entity: EntityId, payload: bytes = CANARY) -> Any:
    """Every kind of row, with this payload wherever there is one."""
    return write(
        entity,
        state=payload,
        history=[
            history(args=payload, outcome=payload, state=payload),
            history("m2", args=payload, ok=False, outcome=b'{"code":"x","message":"canary-7141"}'),
        ],
        waiting=[envelope(entity, "w1", 5, args=payload)],
        outbox=[envelope(B, f"to-b-from-{entity.key}", 6, args=payload)],
        reminders_set=[reminder(entity)._replace(args=payload)],
        runs=[run(args=payload, outcome=payload), run("other", "r2", args=payload)],
        journal=[entry()._replace(entry=payload, state=payload), entry(1)._replace(entry=payload)],
        items_put=[item()._replace(item=payload), item(2)._replace(item=payload)],
        attempts_set=[attempt()._replace(error=payload, details=payload), attempt("run/r1/2")._replace(error=payload)],
        dead_letters=[
            DeadLetter(full_envelope(entity, "d1"), 3, payload),
            DeadLetter(envelope(entity, "d2", args=payload), 1, payload),
        ],
    )


async def test_no_payload_is_stored_in_the_clear_and_all_come_back(postgres: World, memory: Memory) -> None:
    """Every column of every table, in both stores."""
    store = EncodedStore(postgres.store, old(), namespace="ns")
    arrival = (shard_of(*B, SHARDS), envelope(B, "arrived", 9, args=CANARY))
    note = (A, shard_of(*A, SHARDS), attempt("run/r1/9")._replace(error=CANARY))
    await store.commit(postgres.batch(full_write(A), arrivals=[arrival], attempts=[note]))
    await store.park(A, "the state says canary-7141")
    await store.suspect([Suspicion(A, "m1", 2, "canary-7141 slept")])
    await memory.commit(old(), full_write(A))
    assert "canary" not in repr(postgres.everything())
    assert "canary" not in memory.everything()
    for one in (store, memory.seen(old())):
        (loaded,) = await one.load([A])
        assert loaded.problem == ""
        assert loaded.state == CANARY
        assert {row.args for row in loaded.runs} == {CANARY}
        assert {row.fingerprint for row in loaded.runs} == {b"\x01" * 16}
        assert [row.outcome for row in loaded.runs] == [b"null", CANARY]
        assert [row.entry for row in loaded.journal] == [CANARY, CANARY]
        assert [row.item for row in loaded.items] == [CANARY, CANARY]
        assert {row.error for row in loaded.attempts} == {CANARY}
        assert [message.args for message in loaded.inbox] == [CANARY]
        found = await one.outcomes([(A, "m1"), (A, "m2")])
        assert (found[A, "m1"].args, found[A, "m1"].outcome) == (CANARY, CANARY)
        assert found[A, "m1"].fingerprint == b"\x00\xff" * 8
        assert (found[A, "m2"].ok, decode_error(found[A, "m2"].outcome).message) == (False, "canary-7141")
        _, due = await one.due(range(SHARDS), until_us=2_000_000, limit=9)
        assert [row.args for row in due] == [CANARY]
        everything = await one.archive().everything(A)
        assert everything is not None
        assert [row.state for _, row in everything.history] == [CANARY, b"null"]
        assert [letter.letter.error for letter in everything.letters] == [CANARY, CANARY]
    assert (await store.suspicions([(A, "m1")]))[A, "m1"].reason == "canary-7141 slept"


BLOBS = {
    "entities": "state",
    "inbox": "args",
    "runs": "args",
    "journal": "entry",
    "mailbox_items": "item",
    "attempts": "error",
}


@contextlib.contextmanager
def tampered(world: World, table: str, value: LiteralString) -> Generator[None]:
    """The blobs of one entity's rows in this table become this SQL value, for a while."""
    names = {name: sql.Identifier(world.namespace, name) for name in (table, "kept")}
    names |= {"column": sql.Identifier(BLOBS[table]), "table": names[table]}

    def run(*statements: LiteralString) -> None:
        with psycopg.connect(world.dsn) as connection:
            for statement in statements:
                connection.execute(sql.SQL(statement).format(**names))

    run("create table {kept} as table {table}", f"update {{table}} set {{column}} = {value} where key = 'first'")
    if "checksum" in metadata.tables[table].columns:  # no secret: whoever changes rows can make it fit
        run("update {table} set checksum = null")
    yield
    run("truncate {table}", "insert into {table} table {kept}", "drop table {kept}")


async def test_swapped_and_changed_blobs_are_noticed_and_nothing_is_overwritten(postgres: World) -> None:
    """Between two entities and between namespaces; and turned into plain text."""
    store = EncodedStore(postgres.store, old(), namespace="ns")
    first, second = EntityId("Order", "first"), EntityId("Order", "second")
    await store.commit(postgres.batch(full_write(first), full_write(second)))
    for table in BLOBS:
        with tampered(postgres, table, "(select min({column}::text)::jsonb from {table} where key = 'second')"):
            before = postgres.everything()
            one, other = await store.load([first, second])
            assert "it was changed, or comes from another row" in one.problem, table
            assert (one.state, one.runs, one.inbox) == (None, [], []), "nothing of it is handed on"
            assert (other.problem, other.state) == ("", CANARY), "nobody else is affected"
            assert postgres.everything() == before
        assert (await store.load([first]))[0].problem == ""
    with tampered(postgres, "entities", "'{{}}'"):
        assert "it is stored in the clear" in (await store.load([first]))[0].problem
    elsewhere = EncodedStore(postgres.store, old(), namespace="other")
    assert "another row, entity or namespace" in (await elsewhere.load([first]))[0].problem


async def test_rows_of_one_entity_cannot_be_exchanged(memory: Memory) -> None:
    await memory.commit(old(), full_write(A))
    stored, seen = memory.of(A), memory.seen(old())
    runs, items, attempts = stored.runs, stored.items, stored.attempts
    first, second = items.values()
    items[first.mailbox, first.position] = first._replace(item=second.item)
    assert (await seen.load([A]))[0].problem
    items[first.mailbox, first.position] = first
    runs["run"], kept = runs["run"]._replace(args=runs["other"].args), runs["run"]
    assert (await seen.load([A]))[0].problem
    runs["run"] = kept._replace(status=RunStatus.COMPLETED)  # an outcome that it never had
    assert (await seen.load([A]))[0].problem
    runs["run"] = kept
    one, other = attempts.values()
    attempts[one.operation] = one._replace(error=other.error)
    assert (await seen.load([A]))[0].problem
    attempts[one.operation] = one
    assert (await seen.load([A]))[0].problem == ""
    at, row = stored.history["m2"]
    stored.history["m2"] = (at, row._replace(ok=True))
    outcome = (await seen.outcomes([(A, "m2")]))[A, "m2"]
    assert not outcome.ok
    assert decode_error(outcome.outcome).code == "payload_unreadable"


async def test_damage_that_the_store_has_found_stays_known(memory: Memory) -> None:
    """Else an entity without its state would be taken for one that has none yet, and be written over."""
    await memory.commit(old(), full_write(A))
    stored = memory.of(A)
    kept, stored.state = stored.state, b'"$enc:k1:AAAA"'
    (loaded,) = await memory.seen(old()).load([A])
    assert "checksum" in loaded.damage
    stored.state = kept
    at, row = stored.journal["run", "r1", 1]
    stored.journal["run", "r1", 1] = (at, row._replace(entry=b"not even JSON"))
    (loaded,) = await memory.seen(old()).load([A])
    assert (loaded.problem, list(loaded.damaged_runs), loaded.state) == ("", ["run"], CANARY), "its other parts go on"


async def test_an_older_state_in_the_place_of_the_present_one_is_noticed(memory: Memory) -> None:
    await memory.commit(old(), write(A, state=b'{"n":1}'))
    earlier = memory.of(A).state
    await memory.commit(old(), write(A, 1, state=b'{"n":2}'))
    memory.of(A).state, memory.of(A).checksum = earlier, None
    assert (await memory.seen(old()).load([A]))[0].problem


async def test_rotation_reads_with_all_keys_and_writes_with_the_first(memory: Memory) -> None:
    await memory.commit(old(), full_write(A), full_write(B))
    (loaded,) = await memory.seen(both()).load([A])
    assert (loaded.problem, loaded.state) == ("", CANARY)
    await memory.commit(both(), write(A, 1, state=CANARY, runs=[run(args=CANARY)]))
    stored = memory.of(A)
    assert (stored.state or b"").startswith(b'"$enc:k2:')
    assert stored.runs["run"].args.startswith(b'"$enc:k2:')
    assert stored.runs["other"].args.startswith(b'"$enc:k1:'), "what is not written stays as it is"
    (loaded,) = await memory.seen(new()).load([A])
    assert "key 'k1', which is not among the keys here" in loaded.problem


async def test_what_was_stored_in_the_clear_is_read_while_a_namespace_is_being_encrypted(memory: Memory) -> None:
    await memory.store.commit(Batch(incarnation="h1", epochs=memory.epochs, writes=[full_write(A)]))
    seen = memory.seen(EncryptionCodec({"k1": K1}, accept_plain=True))
    (loaded,) = await seen.load([A])
    assert (loaded.problem, loaded.state, loaded.runs[1].args) == ("", CANARY, CANARY)
    assert (await memory.seen(old()).load([A]))[0].problem
    everything = await seen.archive().everything(A)
    assert everything is not None
    assert everything.history[0][1].args == CANARY
    await seen.commit(Batch(incarnation="h1", epochs=memory.epochs, writes=[write(A, 1, state=CANARY)]))
    assert (memory.of(A).state or b"").startswith(b'"$enc:k1:')


async def test_reminders_that_cannot_be_read_hold_up_no_others(memory: Memory) -> None:
    lost = [reminder(A, f"lost-{number}", 10 + number) for number in range(25)]
    await memory.commit(old(), write(A, reminders_set=lost))
    await memory.commit(new(), write(B, reminders_set=[reminder(B, f"r{number}", 100 + number) for number in range(5)]))
    before = memory.everything()
    seen = memory.seen(new())
    _, rows = await seen.due(range(SHARDS), until_us=1_000, limit=3)
    assert [row.name for row in rows] == ["r0", "r1", "r2"]
    _, rows = await seen.due(range(SHARDS), until_us=1_000, limit=30)
    assert [row.name for row in rows] == ["r0", "r1", "r2", "r3", "r4"]
    _, rest = await seen.due(range(SHARDS), until_us=1_000, limit=3, after=DuePosition.of(rows[2]))
    assert rest == rows[3:]
    assert await seen.due_of([A], until_us=1_000, limit=99) == []
    assert await seen.due_of([A, B], until_us=1_000, limit=99) == rows
    assert memory.everything() == before, "they are all still there"
    assert "reminder 'lost-0'" in memory.store.parked[A]
    _, rows = await memory.seen(both()).due(range(SHARDS), until_us=1_000, limit=3)
    assert [row.name for row in rows] == ["lost-0", "lost-1", "lost-2"]


async def test_mail_waits_from_the_first_message_on_that_cannot_be_read(memory: Memory) -> None:
    def mail(number: int) -> Envelope:
        return envelope(A, f"m{number}", number)

    await memory.commit(both(), write(A, waiting=[mail(1)]), write(B, waiting=[envelope(B, "b", 9)]))
    await memory.commit(old(), write(A, 1, waiting=[mail(2)]))
    await memory.commit(both(), write(A, 2, waiting=[mail(3)]))
    assert [message.id for message in await memory.seen(new()).inbox([A, B])] == ["m1", "b"]
    assert [message.id for message in await memory.seen(both()).inbox([A, B])] == ["m1", "m2", "m3", "b"]
    assert "message m2" in memory.store.parked[A]


async def test_readers_without_a_key_see_who_and_when_but_no_payload(memory: Memory) -> None:
    await memory.commit(old(), full_write(A))
    for archive, why in [
        (EncodedArchive(memory.store.archive(), Sealer(NoKeys(), "ns")), "key id k1"),
        (memory.seen(new()).archive(), "key 'k1'"),
    ]:
        timeline = await archive.timeline(A, after=0, limit=9)
        assert [record.row.version for record in timeline.records] == [1, 1, 1, 2]
        messages = [record.row for record in timeline.records if isinstance(record.row, HistoryRow)]
        assert all(why.encode() in row.args for row in messages)
        assert decode_error(messages[1].outcome).code == "payload_unreadable"
        letters = await archive.letters(limit=9)
        assert why.encode() in letters[0].letter.envelope.args
        scanned = await archive.scan(
            "Order", narrow=[], schema_version=1, indexed=(), after=None, limit=9, examine_max=9
        )
        assert why.encode() in scanned.found[0][2].state
        for read in (archive.snapshot(A), archive.state_at(A, 1), archive.everything(A)):
            with pytest.raises(PayloadUnreadable, match=rf"{A}: .*{why}"):
                await read
    with pytest.raises(PayloadUnreadable):
        await memory.seen(new()).run(A, "run")
    with pytest.raises(PayloadUnreadable):
        await memory.seen(new()).journal(A, "run", "r1")


async def test_a_host_without_the_codec_reads_no_encrypted_state(memory: Memory) -> None:
    """Not even one with searchable fields beside it: nobody could go on from half a state."""
    searchable = EncryptionCodec({"k1": K1}, searchable={"Purse": ["coins"]})
    await _spend(memory, searchable)
    stored = memory.of(EntityId("Purse", "p"))
    assert b'"coins":5' in (stored.state or b"")
    before = memory.everything()
    async with LocalCluster([Purse], store=memory.store):
        with pytest.raises(Exception, match="its stored state does not fit the class"):
            await Purse.ref("p").add(1)
    assert memory.everything() == before
    await _spend(memory, searchable, total=10)


class Purse(Entity):
    coins: int = 0

    @handler
    async def add(self, coins: int) -> int:
        self.coins += coins
        return self.coins

    @query
    async def total(self) -> int:
        return self.coins


async def _spend(memory: Memory, codec: EncryptionCodec, total: int = 5) -> None:
    await memory.store.fence("h1", is_dead=True)
    async with LocalCluster([Purse], store=memory.seen(codec)):
        assert await Purse.ref("p").add.options(idempotency_key=f"add-{total}")(5) == total


async def test_a_lost_key_parks_the_entity_until_it_is_back(memory: Memory) -> None:
    await _spend(memory, old())
    before = memory.everything()
    async with LocalCluster([Purse], store=memory.seen(new())):
        for call in (Purse.ref("p").add(1), Purse.ref("p").total(), Purse.ref("p").add.send(1)):
            with pytest.raises(PayloadUnreadable, match=r"Purse/p: .*key 'k1'.*Nothing was changed"):
                await call
        assert await Purse.ref("other").add(1) == 1, "nobody else is affected"
    assert "key 'k1'" in memory.store.parked[EntityId("Purse", "p")], "for people, in the clear"
    stored = memory.of(EntityId("Purse", "p"))
    del memory.store._entities[EntityId("Purse", "other")]
    assert memory.everything() == before
    assert stored.version == 1
    await _spend(memory, both(), total=10)
    await _spend(memory, both(), total=10)
    (state,) = [stored.state or b""]
    assert state.startswith(b'"$enc:k2:'), "encrypted again by the next write"


async def test_a_repeat_whose_outcome_cannot_be_read_is_not_run_again(memory: Memory) -> None:
    await _spend(memory, old())
    seen = memory.seen(both())
    async with LocalCluster([Purse], store=seen):
        assert await Purse.ref("p").add(1) == 6  # the state is under the new key now
    async with LocalCluster([Purse], store=memory.seen(new())):
        with pytest.raises(PayloadUnreadable, match=r"message add:add-5 was applied \(version 1\)"):
            await Purse.ref("p").add.options(idempotency_key="add-5")(5)
        assert await Purse.ref("p").total() == 6


def test_no_field_of_a_write_is_forgotten() -> None:
    """A field that is added to writes has to be sealed, or listed as without payload."""
    sealer = Sealer(old(), "ns")
    full = full_write(A)
    for name in _WITHOUT_PAYLOAD:
        setattr(full, name, [name])
    batch = Batch(incarnation="h1", epochs={}, writes=[full])
    (sealed,) = sealer.batch(batch).writes
    for name in EntityWrite.__slots__:
        value = getattr(sealed, name)
        assert value or getattr(full, name) == value, f"{name} got lost"
        assert b"canary" not in repr(value).encode(), name
    assert full.state == CANARY, "what the engine holds stays as it is"


def test_without_a_codec_there_is_nothing_in_between() -> None:
    plain = StoreAddress(dsn="postgresql://nowhere", namespace="ns").open()
    assert type(plain) is PostgresStore
    assert StoreAddress(dsn="", namespace="ns").steps("h")._sealer is None
    encrypted = StoreAddress(dsn="postgresql://nowhere", namespace="ns", codec=old()).open()
    assert isinstance(encrypted, EncodedStore)
    assert SessionSettings(dsn="").incarnation == ""
