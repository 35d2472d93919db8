"""Who may come in."""

import hashlib
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr, ValidationError

from perdure.api import Settings, create_app, health_router
from perdure.api.access import Guard
from perdure.api.api_keys import ApiKeys
from perdure.api.serve import AddressRefused, InsecureBind, bind, check_binding
from perdure.api.settings import unknown_variables
from perdure.cluster.loopback import is_loopback

from .fake import FakeCaller
from .shop import Order

KEY = "k" * 32
OTHER = "o" * 32


def client(app: Any, base: str = "http://127.0.0.1:8000") -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=base)


# --- with keys --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def locked() -> FastAPI:
    hashed = "sha256:" + hashlib.sha256(OTHER.encode()).hexdigest()
    return create_app([Order], settings=Settings(api_keys=(SecretStr(KEY), SecretStr(hashed))))


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Basic {KEY}",
        KEY,
        f"Bearer {KEY}x",
        f"Bearer {KEY[:-1]}",
        "Bearer é",
        "Bearer sha256:" + hashlib.sha256(OTHER.encode()).hexdigest(),
    ],
)
async def test_without_a_valid_key_nothing_opens(locked: FastAPI, caller: FakeCaller, header: str) -> None:
    async with client(locked, "http://shop.example") as http:
        reply = await http.post("/entities/Order/o-1/pick_up", headers=[(b"authorization", header.encode("latin-1"))])
    assert (reply.status_code, reply.json()["code"]) == (401, "unauthorized")
    assert reply.headers["www-authenticate"].startswith("Bearer")
    assert caller.envelopes == []


@pytest.mark.parametrize("header", [f"Bearer {KEY}", f"bearer {OTHER}", f"Bearer   {KEY} "])
async def test_any_of_the_keys_opens(locked: FastAPI, caller: FakeCaller, header: str) -> None:
    async with client(locked, "http://shop.example") as http:
        reply = await http.post("/entities/Order/o-1/pick_up", headers={"authorization": header})
    assert reply.status_code == 200


async def test_every_route_but_health_needs_a_key(locked: FastAPI) -> None:
    paths = [*locked.openapi()["paths"], "/openapi.json", "/docs", "/docs/errors", "/nowhere", "/livez/", "//livez"]
    async with client(locked) as http:
        statuses = {path: (await http.get(path.replace("{", "").replace("}", ""))).status_code for path in paths}
    assert {path for path, status in statuses.items() if status != 401} == {"/livez", "/readyz"}


async def test_health_names_nothing_without_a_key(locked: FastAPI) -> None:
    async with client(locked) as http:
        refused = await http.get("/readyz")
        told = await http.get("/readyz", headers={"authorization": f"Bearer {KEY}"})
    assert (refused.status_code, refused.json()) == (503, {"status": "not ready"})
    assert "no Perdure client" in told.json()["missing"][0]


@pytest.mark.parametrize("key", ["short", "x" * 15, "é" * 20, "with space in it " * 2])
def test_weak_keys_are_refused(key: str) -> None:
    with pytest.raises(ValidationError, match="API key"):
        Settings(api_keys=(SecretStr(key),))


@pytest.mark.parametrize("text", ["sha256:12345678901234567890", "sha256:" + "zz" * 32])
def test_a_hash_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"64 hexadecimal|non-hexadecimal"):
        ApiKeys.of([SecretStr(text)], {}, {})


def test_keys_come_from_the_environment_and_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERDURE_API_KEYS", f"{KEY}, {OTHER}")
    monkeypatch.setenv("PERDURE_DSN", "postgresql://root:hunter2@db/x")
    settings = Settings()
    assert [key.get_secret_value() for key in settings.api_keys] == [KEY, OTHER]
    assert KEY not in repr(settings)
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in settings.model_dump_json()


# --- without keys -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "base", ["http://127.0.0.1:8000", "http://localhost:8000", "http://[::1]:8000", "http://127.1.2.3"]
)
async def test_this_machine_comes_in(app: FastAPI, caller: FakeCaller, base: str) -> None:
    async with client(app, base) as http:
        assert (await http.post("/orders/o-1/pick_up")).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "evil.example:8000"},
        {"host": "127.0.0.1.evil.example"},
        {"host": "localhost.evil.example"},
        {"host": "evil.example#127.0.0.1"},
        {"host": "user@evil.example"},
        {"host": ""},
        {"host": "[::1"},
        {"host": "10.0.0.5"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost.evil.example"},
    ],
)
async def test_foreign_pages_do_not(app: FastAPI, caller: FakeCaller, headers: dict[str, str]) -> None:
    async with client(app) as http:
        reply = await http.post("/orders/o-1/pick_up", headers=headers)
    assert (reply.status_code, reply.json()["code"]) == (403, "forbidden_host")
    assert caller.envelopes == []


async def test_pages_of_this_machine_do(app: FastAPI, caller: FakeCaller) -> None:
    async with client(app) as http:
        assert (await http.post("/orders/o-1/pick_up", headers={"origin": "http://localhost:5173"})).status_code == 200


async def test_forwarded_headers_change_nothing(app: FastAPI, caller: FakeCaller) -> None:
    async with client(app) as http:
        reply = await http.post(
            "/orders/o-1/pick_up", headers={"x-forwarded-host": "localhost", "host": "evil.example"}
        )
    assert reply.status_code == 403


async def test_an_address_that_others_reach_serves_nobody(app: FastAPI, caller: FakeCaller) -> None:
    async with client(app, "http://192.0.2.2:8000") as http:
        reply = await http.post("/orders/o-1/pick_up", headers={"host": "localhost"})
    assert reply.status_code == 403


async def test_hosts_may_be_allowed_by_name(caller: FakeCaller) -> None:
    inner = FastAPI()
    inner.include_router(health_router())
    app = Guard(inner, Settings(allowed_hosts=("shop.example",)))
    async with client(app) as http:
        assert (await http.get("/livez", headers={"host": "Shop.example:8000"})).status_code == 200
        assert (await http.get("/livez", headers={"host": "other.example"})).status_code == 403


async def test_an_insecure_bind_is_open(caller: FakeCaller) -> None:
    inner = FastAPI()
    inner.include_router(health_router())
    async with client(Guard(inner, Settings(insecure_bind=True)), "http://192.0.2.2") as http:
        assert (await http.get("/livez")).status_code == 200


# --- binding ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.9.9.9"])
def test_loopback_needs_no_key(host: str) -> None:
    check_binding(Settings(host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.2", "example.org", ""])
def test_other_addresses_need_one(host: str) -> None:
    with pytest.raises(InsecureBind, match="PERDURE_API_KEYS"):
        check_binding(Settings(host=host))
    check_binding(Settings(host=host, api_keys=(SecretStr(KEY),)))
    check_binding(Settings(host=host, insecure_bind=True))


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "127.0.0.1.evil.example", "localhost.evil.example", "0", "2130706433"]
)
def test_what_only_looks_like_loopback_is_not(host: str) -> None:
    assert not is_loopback(host)


def test_a_port_that_is_taken_is_named() -> None:
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(AddressRefused, match=rf"port {port} .* is taken .*--port"):
            bind("127.0.0.1", port)


def test_an_address_of_another_machine_cannot_be_listened_on() -> None:
    with pytest.raises(AddressRefused, match="cannot listen"):
        bind("198.51.100.7", 0)


def test_variables_that_mean_nothing_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERDURE_ALLOWED_HOST", "x")
    monkeypatch.setenv("PERDURE_PORT", "1")
    warnings = unknown_variables()
    assert warnings == ["PERDURE_ALLOWED_HOST means nothing to Perdure; did you mean PERDURE_ALLOWED_HOSTS?"]
