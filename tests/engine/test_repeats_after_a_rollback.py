"""P1: a repeat of what was applied by newer code gets its outcome, also where the older code could not have run it.

Found by the simulation (W13, two releases under load): the answer to a call got lost, the older release was deployed
again, and the repeat was told that nothing had been changed.
"""

import asyncio
import json
from typing import Any

import pytest

from perdure.entities import CallTimeout, Entity, EntityParked, IdempotencyMismatch, UnknownHandler, handler, upgrade
from perdure.entities.testing import LocalCluster

from .conftest import QUICK
from .faults import FaultyStore


class Older(Entity, name="Note"):
    text: str = ""


class OlderAdds(Entity, name="Note"):
    text: str = ""

    @handler
    async def add(self, word: str) -> str:
        self.text += word
        return self.text


class Newer(Entity, name="Note", version=2):
    words: list[str] = []

    @upgrade(from_version=1)
    @staticmethod
    def split(state: dict[str, Any]) -> dict[str, Any]:
        return {"words": state["text"].split()}

    @handler
    async def add(self, word: str) -> str:
        self.words.append(word)
        return " ".join(self.words)


class NewerSlow(Entity, name="Note", version=2):
    words: list[str] = []

    @handler
    async def add(self, word: str) -> str:
        await asyncio.Event().wait()
        return word


NOTE = OlderAdds.ref("n")
KEYED = NOTE.add.options(idempotency_key="k")


async def test_an_entity_that_cannot_be_loaded_answers_repeats() -> None:
    store = FaultyStore()
    async with LocalCluster([Newer], store=store, settings=QUICK):
        assert await KEYED("a") == "a"
    async with LocalCluster([OlderAdds], store=store, settings=QUICK):
        assert await KEYED("a") == "a"
        await KEYED.send("a")
        with pytest.raises(IdempotencyMismatch):
            await KEYED("b")
        with pytest.raises(EntityParked):
            await NOTE.add.options(idempotency_key="other")("a")
        with pytest.raises(EntityParked):
            await NOTE.add("a")
    assert store.version("Note/n") == 1


async def test_an_accepted_message_to_what_cannot_be_loaded_stays_accepted() -> None:
    store = FaultyStore()
    async with LocalCluster([Newer], store=store, settings=QUICK):
        await NOTE.add("a")
    async with LocalCluster([NewerSlow], store=store, settings=QUICK) as cluster:
        with pytest.raises(CallTimeout):
            await NOTE.add.options(timeout=0.05)("busy")
        await KEYED.send("b")
        await cluster.crash()
    assert [envelope.id for envelope in store.waiting_messages()] == ["add:k"]
    async with LocalCluster([OlderAdds], store=store, settings=QUICK):
        await KEYED.send("b")
    async with LocalCluster([Newer], store=store, settings=QUICK) as cluster:
        await NOTE.add("c")
        await cluster.drained()
    assert json.loads(store.state("Note/n")) == {"words": ["a", "b", "c"]}


async def test_a_handler_that_is_gone_answers_repeats() -> None:
    store = FaultyStore()
    async with LocalCluster([OlderAdds], store=store, settings=QUICK):
        assert await KEYED("a") == "a"
    async with LocalCluster([Older], store=store, settings=QUICK):
        assert await KEYED("a") == "a"
        with pytest.raises(UnknownHandler):
            await NOTE.add.options(idempotency_key="other")("a")
        with pytest.raises(UnknownHandler):
            await NOTE.add("a")
