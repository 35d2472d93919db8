"""A life on an encrypted Postgres: whatever an application does, its secrets are in no column of no table (S31, S33).

The canary goes through everything that is stored: states, arguments, results, errors of handlers, workflows and
activities, heartbeats, reminders, mailboxes, messages between entities, dead letters, steps, transactions, edits.
"""

import asyncio
import contextlib
import logging
import time
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg import sql
from sqlalchemy.ext.asyncio import AsyncConnection

from perdure.cluster.embedded import EmbeddedPostgres
from perdure.cluster.stores import StoreAddress
from perdure.entities import (
    ApplicationError,
    EncryptionCodec,
    Entity,
    HandlerFailed,
    Mailbox,
    RetryPolicy,
    WorkflowFailed,
    activity,
    condition,
    dead_letters,
    edit,
    export_entity,
    find,
    handler,
    heartbeat,
    history,
    query,
    remind,
    replay_dead_letter,
    state_at,
    transaction,
    transactional,
    workflow,
)
from perdure.entities.ids import EntityId
from perdure.entities.store.encoded_archive import EncodedArchive, NoKeys
from perdure.entities.store.rows import Suspicion
from perdure.entities.store.sealing import Sealer
from perdure.entities.testing import LocalCluster

CANARY = "canary-93771"
QUICKLY = RetryPolicy(initial=timedelta(milliseconds=1), attempts=2)


class Outside:
    is_open = False
    poison = True


@activity(retry=QUICKLY)
async def fails(secret: str) -> str:
    raise ConnectionError(f"no answer for {secret}")


@activity(retry=RetryPolicy(initial=timedelta(hours=1), maximum=timedelta(hours=1)))
async def retries(secret: str) -> str:
    heartbeat({"at": secret})
    raise ConnectionError(f"later: {secret}")


@transactional
async def step(connection: AsyncConnection, secret: str) -> str:
    return secret


class Vault(Entity, index=["label"]):
    label: str = ""
    secret: str = ""
    seen: list[str] = []
    words = Mailbox(str)

    @handler
    async def put(self, secret: str) -> str:
        self.label, self.secret = "labelled", secret
        remind(self.remember, arguments={"secret": secret}, after=timedelta(hours=1), name="later")
        remind(self.remember, arguments={"secret": secret}, after=timedelta(milliseconds=1), name="soon")
        await Vault.ref("friend").remember.send(secret)
        await Vault.ref("friend").remember.options(delay=timedelta(hours=1)).send(secret)
        return secret

    @handler
    async def remember(self, secret: str) -> None:
        self.seen = [*self.seen, secret]

    @handler
    async def explode(self, secret: str) -> None:
        if Outside.poison:
            raise ValueError(f"cannot take {secret}")
        self.seen = [*self.seen, "replayed"]

    @workflow
    async def run(self, secret: str) -> str:
        word = await self.words.receive()
        stored = await step(secret)
        with contextlib.suppress(Exception):  # what the error said is in the journal
            await fails(secret)
        return f"{word} {stored}"

    @workflow
    async def gives_up(self, secret: str) -> None:
        raise ApplicationError(f"no: {secret}")

    @workflow
    async def waits(self, secret: str) -> str:
        return await retries(secret)

    @workflow
    async def pending(self, secret: str) -> str:
        local = secret
        await condition(lambda: "go" in self.seen)
        return local

    @query
    async def how_many(self) -> int:
        return len(self.seen)


V = Vault.ref("v")


def codec(*keys: str) -> EncryptionCodec:
    return EncryptionCodec({key: key.encode() * 16 for key in keys}, searchable={"Vault": ["label"]})


async def test_no_secret_of_a_whole_life_is_in_the_database_or_the_logs(
    server: EmbeddedPostgres, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    address = StoreAddress(dsn=server.dsn, namespace=namespace, codec=codec("k1"))
    store = address.open()
    Outside.poison = True
    async with LocalCluster([Vault], store=store, hosts=2, steps=lambda: address.steps("test")) as cluster:
        await _live()
        await cluster.crash()
        await V.remember("go")
        assert await V.pending.result(timeout=20) == CANARY
        stored = _dump(server.dsn, namespace)
        assert CANARY not in stored
        for known in ("labelled", "remember", "retries", '"later"', "$enc:k1:"):
            assert known in stored or known.strip('"') in stored, "the dump would show it"
        await _look_back(store.archive())
    await store.close()
    said = "\n".join(logging.Formatter().format(record) + repr(vars(record)) for record in caplog.records)
    assert "Vault/v.explode failed" in said
    assert "ValueError (its text is encrypted)" in said
    assert "ConnectionError (its text is encrypted)" in said
    assert CANARY not in said
    await _rotate(server.dsn, namespace)


async def _live() -> None:
    assert await V.put(CANARY) == CANARY
    await V.words.send(f"a word with {CANARY}")
    await V.run.start(CANARY)
    assert await V.run.result(timeout=20) == f"a word with {CANARY} {CANARY}"
    await V.pending.start(CANARY)
    await V.waits.start(CANARY)
    await V.words.send(f"nobody receives {CANARY}")
    await V.gives_up.start(CANARY)
    with pytest.raises(HandlerFailed, match=CANARY):
        await V.explode(CANARY)
    with pytest.raises(WorkflowFailed, match=CANARY):
        await V.gives_up.result(timeout=20)
    await V.explode.send(CANARY)
    async with transaction(Vault.ref("t1"), Vault.ref("t2")) as (one, other):
        one.secret = other.secret = CANARY
    await edit(Vault.ref("t1"), {"secret": f"{CANARY} edited"}, expected_version=1)
    await _until(_has_letter)
    await _until(_is_retrying)


async def _until(ask: Any) -> None:
    deadline = time.monotonic() + 20
    while not await ask():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def _has_letter() -> bool:
    return bool((await dead_letters(type=Vault)).letters)


async def _is_retrying() -> bool:
    page = await history(V)
    return any(event.error and f"later: {CANARY}" in str(event.error) for event in page.events)


def _dump(dsn: str, namespace: str) -> str:
    """All rows of all tables of the namespace, as text."""
    with psycopg.connect(dsn) as connection:
        tables = connection.execute("select tablename from pg_tables where schemaname = %s", (namespace,)).fetchall()
        assert len(tables) > 10
        rows = [
            row
            for (table,) in tables
            for row in connection.execute(sql.SQL("select t::text from {} t").format(sql.Identifier(namespace, table)))
        ]
    return "\n".join(map(str, rows))


async def _look_back(archive: Any) -> None:
    """What people look at is readable with the key, and says so without one."""
    page = await history(V, limit=200)
    assert {CANARY in str(event.error) for event in page.events if event.error} == {True}
    assert (await state_at(V, 1)).secret == CANARY
    assert (await state_at(V)).secret == CANARY
    assert CANARY.encode() in await export_entity(V)
    found = await find(Vault, label="labelled")
    assert ([match.key for match in found.matches], found.matches[0].state.secret) == (["v"], CANARY)
    assert [match.key for match in (await find(Vault, secret=f"{CANARY} edited")).matches] == ["t1"]
    (letter,) = (await dead_letters(type=Vault)).letters
    assert letter.args == {"secret": CANARY}
    Outside.poison = False
    await replay_dead_letter(V, letter.message_id)
    await _until(_was_replayed)
    blind = EncodedArchive(archive._inner, Sealer(NoKeys(), "any"))
    text = str((await history(V, limit=200, archive=blind)).events)
    assert CANARY not in text
    assert "encrypted (key id k1)" in text
    page_without_keys = await find(Vault, label="labelled", archive=blind)
    assert (page_without_keys.matches, "v" in page_without_keys.unreadable) == ([], True)


async def _was_replayed() -> bool:
    return "replayed" in (await state_at(V)).seen


async def _rotate(dsn: str, namespace: str) -> None:
    """A new key while runs are live: they go on, and what is written from now on is under the new one."""
    address = StoreAddress(dsn=dsn, namespace=namespace, codec=codec("k2", "k1"))
    store = address.open()
    await store.suspect([Suspicion(EntityId("Vault", "v"), "m", 1, CANARY)])
    async with LocalCluster([Vault], store=store, steps=lambda: address.steps("test")):
        await V.remember("again")
        stored = _dump(dsn, namespace)
        assert CANARY not in stored
        assert "$enc:k2:" in stored
        operations = await V.waits.operations()
        assert CANARY in str(operations.operations[0].last_error)
        await V.waits.complete(operations.operations[0].number, CANARY)
        assert await V.waits.result(timeout=20) == CANARY
        assert [match.key for match in (await find(Vault, label="labelled")).matches] == ["v"]
    await store.close()
