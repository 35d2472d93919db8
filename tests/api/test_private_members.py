"""Private members: for other entities and for reminders; over HTTP they do not exist."""

from datetime import timedelta

import httpx
import pytest
from fastapi import FastAPI

from perdure.api import Settings, create_app, entity_router
from perdure.entities import Entity, Mailbox, handler, query, remind, workflow
from perdure.entities.errors import DefinitionError, UnknownHandler
from perdure.entities.testing import PerdureTest

from .fake import FakeCaller


class Vault(Entity):
    coins: int = 0
    orders = Mailbox(int, private=True)

    @handler
    async def put(self, coins: int) -> None:
        self.coins += coins

    @handler(private=True)
    async def secret_take(self, coins: int) -> None:
        self.coins -= coins

    @query
    async def count(self) -> int:
        return self.coins

    @query(private=True)
    async def secret_count(self) -> int:
        return self.coins

    @workflow(private=True)
    async def secret_audit(self) -> int:
        return self.coins


class Guardian(Entity):
    done: int = 0

    @handler
    async def rob(self, key: str) -> None:
        await Vault.ref(key).secret_take.send(5)
        remind(self.later, after=timedelta(milliseconds=10), name="later")

    @handler(private=True)
    async def later(self) -> None:
        self.done += 1

    @workflow
    async def look(self, key: str) -> tuple[int, int]:
        return await Vault.ref(key).secret_count(), await Vault.ref(key).secret_audit()


@pytest.fixture(scope="module")
def app() -> FastAPI:
    app = create_app([Vault], settings=Settings())
    app.include_router(entity_router(Vault), prefix="/vaults")
    app.include_router(entity_router(Vault, only=["count"]), prefix="/counts")
    return app


@pytest.mark.parametrize("prefix", ["/entities/Vault", "/vaults"])
@pytest.mark.parametrize(
    ("method", "private", "unknown"),
    [
        ("POST", "secret_take", "nothing_take"),
        ("GET", "secret_count", "nothing_take"),
        ("POST", "secret_count", "nothing_take"),
        ("POST", "secret_audit/start", "nothing_take/start"),
        ("GET", "secret_audit/result", "nothing_take/result"),
        ("POST", "secret_audit/pause", "nothing_take/pause"),
        ("GET", "secret_audit", "nothing_take"),
        ("POST", "orders", "nothing_take"),
        ("DELETE", "secret_take", "nothing_take"),
    ],
)
async def test_from_outside_they_are_as_if_they_were_not_there(  # noqa: PLR0917 - fixtures and parameters
    http: httpx.AsyncClient, caller: FakeCaller, prefix: str, method: str, private: str, unknown: str
) -> None:
    replies = [await http.request(method, f"{prefix}/v/{name}", json={"coins": 1}) for name in (private, unknown)]
    told = [
        reply.json() | {"request_id": "", "instance": reply.json()["instance"].replace(name, "")}
        for reply, name in zip(replies, (private, unknown), strict=True)
    ]
    names = (private.partition("/")[0], unknown.partition("/")[0])
    assert [reply.status_code for reply in replies] == [404, 404]
    assert str(told[0]).replace(names[0], names[1]) == str(told[1])
    assert caller.envelopes == []


async def test_nothing_lists_them(http: httpx.AsyncClient) -> None:
    for path in ("/openapi.json", "/entities", "/entities/Vault/v", "/vaults/v/nothing", "/entities/Vault/v/count?x=1"):
        text = (await http.get(path)).text
        assert "secret" not in text, path
        assert "orders" not in text, path


async def test_a_router_may_serve_named_members_only(http: httpx.AsyncClient, caller: FakeCaller) -> None:
    assert (await http.get("/counts/v/count")).status_code == 200
    assert (await http.post("/counts/v/put", json={"coins": 1})).status_code == 404
    assert len(caller.envelopes) == 1


@pytest.mark.parametrize(("name", "error"), [("secret_take", DefinitionError), ("nothing", UnknownHandler)])
def test_a_router_cannot_serve_what_is_private_or_not_there(name: str, error: type[Exception]) -> None:
    with pytest.raises(error, match=name):
        entity_router(Vault, only=[name])


async def test_entities_and_reminders_call_them() -> None:
    async with PerdureTest([Vault, Guardian]) as world:
        await Vault.ref("v").put(12)
        await Guardian.ref("g").rob("v")
        await world.advance(seconds=1)
        assert await Guardian.ref("g").look("v") == (7, 7)
        assert world.states()["Guardian/g"]["done"] == 1
