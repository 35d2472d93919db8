"""What people who write FastAPI every day reach for: it works with entities as with anything else."""

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import pytest
from anyio import from_thread
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Request
from fastapi.testclient import TestClient
from pydantic import BaseModel

from perdure.api import GatewayClient, entity_router, install, lifespan
from perdure.entities import present
from perdure.entities.client import Caller, ambient
from perdure.entities.errors import NotConnected
from perdure.entities.testing import LocalCluster

from .bank import EVERYTHING, Account, Typed

cluster = lifespan([Account, Typed], connect=lambda: LocalCluster([Account, Typed]))


class Balance(BaseModel):
    balance: int


def account_of(account_id: str) -> Account:
    return Account.ref(account_id)


def client_of(request: Request) -> Caller:
    client: Caller = request.state.perdure
    return client


def paying(x_user: Annotated[str, Header()] = "") -> str:
    if not x_user:
        raise HTTPException(401, "who are you?")
    return x_user


OneAccount = Annotated[Account, Depends(account_of)]
accounts = APIRouter(prefix="/accounts/{account_id}", tags=["accounts"])


@accounts.post("/pay", status_code=201)
async def pay(account: OneAccount, amount: int, user: Annotated[str, Depends(paying)]) -> Balance:
    return Balance(balance=await account.deposit(amount))


@accounts.get("", response_model=Balance)
async def read(account: OneAccount) -> dict[str, int]:
    return {"balance": await account.total(), "secret": 1}


@accounts.post("/withdraw")
async def withdraw(account: OneAccount, amount: int) -> int:
    return await account.withdraw(amount)


@accounts.get("/blocking")
def blocking(account: OneAccount) -> int:
    """A `def` route runs in a thread: the event loop that it came from awaits for it."""
    return from_thread.run(account.total)


@accounts.get("/version")
async def version(account: OneAccount, client: Annotated[Caller, Depends(client_of)]) -> dict[str, Any]:
    return {"version": (await present(account)).version, "is_ambient": client is ambient()}


@pytest.fixture
def http() -> Generator[TestClient]:
    app = FastAPI(lifespan=cluster)
    install(app)
    app.include_router(accounts)
    app.include_router(
        entity_router(Account, only=["deposit", "total"], tags=["bank"], dependencies=[Depends(paying)]),
        prefix="/entities/accounts",
    )
    app.include_router(entity_router(Typed), prefix="/typed")
    with TestClient(app) as http:
        yield http


def test_refs_and_clients_are_dependencies(http: TestClient) -> None:
    assert http.post("/accounts/a/pay", params={"amount": 5}).status_code == 401
    paid = http.post("/accounts/a/pay", params={"amount": 5}, headers={"x-user": "ann"})
    assert (paid.status_code, paid.json()) == (201, {"balance": 5})
    assert http.get("/accounts/a").json() == {"balance": 5}
    assert http.get("/accounts/a/version").json() == {"version": 1, "is_ambient": True}


def test_errors_of_refs_are_problems_in_ones_own_routes(http: TestClient) -> None:
    refused = http.post("/accounts/a/withdraw", params={"amount": 5})
    assert (refused.status_code, refused.json()["code"]) == (422, "application_error")
    assert refused.json()["details"] == {"missing": 5}


def test_routes_that_block_have_a_way_too(http: TestClient) -> None:
    http.post("/accounts/a/pay", params={"amount": 5}, headers={"x-user": "ann"})
    assert http.get("/accounts/a/blocking").json() == 5


def test_the_options_of_routers_are_those_of_fastapi(http: TestClient) -> None:
    assert http.post("/entities/accounts/a/deposit", json={"amount": 1}).status_code == 401
    headers = {"x-user": "ann"}
    assert http.post("/entities/accounts/a/deposit", json={"amount": 1}, headers=headers).json() == 1
    assert http.post("/entities/accounts/a/withdraw", json={"amount": 1}, headers=headers).status_code == 404
    paths = http.get("/openapi.json").json()["paths"]
    described = {path: value for path, value in paths.items() if path.startswith("/entities/accounts")}
    assert described.keys() == {"/entities/accounts/{key}/deposit", "/entities/accounts/{key}/total"}
    assert all(operation["tags"] == ["bank"] for methods in described.values() for operation in methods.values())
    assert paths["/accounts/{account_id}"]["get"]["tags"] == ["accounts"]
    assert paths["/accounts/{account_id}"]["get"]["responses"]["200"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/Balance"
    }


SENT = {
    "money": {"amount": "12.30", "currency": "EUR"},
    "point": {"x": 1, "at": "2026-01-02T03:04:05Z"},
    "colour": "red",
    "level": 3,
    "when": "2026-01-02T03:04:05.678900Z",
    "day": "2026-01-02",
    "span": "P1DT2S",
    "price": "0.10",
    "data": "café",
}


def test_values_of_every_type_are_arguments_and_results(http: TestClient) -> None:
    """Models, dataclasses, enums, times, decimals and bytes."""
    told = http.post("/typed/t/echo", json=SENT)
    assert told.status_code == 200, told.text
    assert told.json() == list(SENT.values())
    wrong = http.post("/typed/t/echo", json=SENT | {"when": "yesterday", "colour": "blue", "price": "much"})
    assert wrong.status_code == 422
    assert {error["field"] for error in wrong.json()["errors"]} == {"when", "colour", "price"}


async def test_values_keep_their_types_from_python_to_python() -> None:
    async with LocalCluster([Typed]):
        told = await Typed.ref("t").echo(*EVERYTHING)
    assert told == EVERYTHING
    assert [type(value) for value in told] == [type(value) for value in EVERYTHING]


def test_a_lifespan_of_ones_own_runs_inside_and_its_state_is_kept() -> None:
    @asynccontextmanager
    async def own(app: FastAPI) -> AsyncGenerator[dict[str, str]]:
        await Account.ref("opening").deposit(1)
        yield {"motto": "open"}

    app = FastAPI(lifespan=lifespan([Account], inner=own, connect=lambda: LocalCluster([Account])))

    @app.get("/")
    async def read(request: Request) -> dict[str, Any]:
        return {"motto": request.state.motto, "total": await Account.ref("opening").total()}

    with TestClient(app) as http:
        assert http.get("/").json() == {"motto": "open", "total": 1}
    with pytest.raises(NotConnected):
        ambient()


def test_an_application_may_reach_entities_through_a_gateway() -> None:
    app = FastAPI(lifespan=lifespan([Account], connect=lambda: GatewayClient("http://127.0.0.1:9")))
    with pytest.raises(Exception, match="no gateway at"), TestClient(app):
        pass
