"""Tokens of an identity provider: which are good, where the keys come from, what a token may do."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from pydantic import ValidationError

from perdure.api import JwtSettings, Refused, Settings, create_app
from perdure.api.access import Guard
from perdure.api.jwt_tokens import KEYS_FRESH_S, KEYS_RETRY_S, JwtVerifier, KeySet

from .fake import FakeCaller
from .shop import Order

RSA = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
OTHER = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
CURVE = ec.generate_private_key(ec.SECP256R1())
ISSUER, AUDIENCE, URL = "https://id.example/", "perdure", "https://id.example/keys"


def jwk(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, kid: str, **more: Any) -> dict[str, Any]:
    if isinstance(key, rsa.RSAPrivateKey):
        public = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    else:
        public = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {**public, "kid": kid, "use": "sig", **more}


KEYS = (jwk(RSA, "one"), jwk(CURVE, "two", alg="ES256"))
SETTINGS = JwtSettings(issuer=ISSUER, audience=AUDIENCE, keys=KEYS)
ROLES: dict[str, tuple[str, ...]] = {"clerk": ("Order.pick_up:call",)}


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    whole = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "exp": now + 60, "roles": ["clerk", "unknown", 7]} | changes
    return {name: value for name, value in whole.items() if value is not None}


def token(key: Any = RSA, algorithm: str = "RS256", kid: str | None = "one", **changes: Any) -> str:
    return jwt.encode(claims(**changes), key, algorithm, headers={} if kid is None else {"kid": kid})


def part(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def signed_with_the_public_key() -> str:
    """The classic confusion: HMAC, keyed with what everybody knows."""
    head = f"{part({'alg': 'HS256', 'kid': 'one'})}.{part(claims())}"
    mac = hmac.new(json.dumps(KEYS[0]).encode(), head.encode(), hashlib.sha256).digest()
    return f"{head}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


async def principal(text: str, settings: JwtSettings = SETTINGS) -> Any:
    return await JwtVerifier(settings, ROLES).principal(text)


async def test_a_good_token_names_its_subject_and_its_roles() -> None:
    for good in (token(), token(CURVE, "ES256", "two"), token(aud=["other", AUDIENCE]), token(roles="clerk openid")):
        found = await principal(good)
        assert (found.subject, [str(grant.type) for grant in found.grants]) == ("ann", ["Order"])
        assert found.name == "token:ann"
        assert found.is_authenticated
        assert "ann@" not in repr(found)


BAD: dict[str, Callable[[], str]] = {
    "expired": lambda: token(exp=int(time.time()) - 31),
    "not yet": lambda: token(nbf=int(time.time()) + 60),
    "no expiry": lambda: token(exp=None),
    "other issuer": lambda: token(iss=ISSUER.rstrip("/")),
    "no issuer": lambda: token(iss=None),
    "other audience": lambda: token(aud="somebody"),
    "no audience": lambda: token(aud=None),
    "no subject": lambda: token(sub=None),
    "empty subject": lambda: token(sub=""),
    "forged log line": lambda: token(sub="ann\nallowed"),
    "long subject": lambda: token(sub="a" * 201),
    "other key": lambda: token(OTHER),
    "unknown key": lambda: token(kid="three"),
    "which key": lambda: token(kid=None),
    "key of another algorithm": lambda: token(RSA, "RS256", "two"),
    "algorithm not allowed": lambda: token(RSA, "RS512"),
    "none": lambda: f"{part({'alg': 'none', 'kid': 'one'})}.{part(claims())}.",
    "hmac": signed_with_the_public_key,
    "changed": lambda: ".".join([token().split(".")[0], part(claims(sub="root")), token().split(".")[2]]),
    "no signature": lambda: token().rpartition(".")[0] + ".",
    "roles of a kind": lambda: token(roles=5),
    "rubbish": lambda: "a.b.c",
    "empty": lambda: "",
    "not ascii": lambda: "é.é.é",
    "huge": lambda: token(more="x" * 10_000),
}


@pytest.mark.parametrize("why", BAD)
async def test_any_other_token_opens_nothing(why: str) -> None:
    assert await principal(BAD[why]()) is None


async def test_clocks_may_differ_a_little() -> None:
    assert await principal(token(exp=int(time.time()) - 5)) is not None
    strict = SETTINGS.model_copy(update={"leeway_s": 0.0})
    assert await principal(token(exp=int(time.time()) - 5), strict) is None


async def test_a_token_may_be_bound_to_a_namespace(caller: FakeCaller) -> None:
    bound = SETTINGS.model_copy(update={"namespace_claim": "tenant"})
    app = create_app([Order], namespace="shop", settings=Settings(jwt=bound, roles=ROLES))
    expected = {"shop": 200, "other": 403, None: 401, "": 401}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://g.example") as http:
        for tenant, status in expected.items():
            headers = {"authorization": f"Bearer {token(tenant=tenant)}"}
            assert (await http.post("/entities/Order/o/pick_up", headers=headers)).status_code == status, tenant
        headers = {"authorization": f"Bearer {token(tenant='shop')}"}
        assert (await http.post("/entities/Order/o/add", headers=headers, json={})).status_code == 403
    assert len(caller.envelopes) == 1


# --- keys -------------------------------------------------------------------------------------------------------------


class Provider:
    """An identity provider's key URL, and a clock."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.keys: list[dict[str, Any]] = [KEYS[0]]
        self.fails: Exception | None = None
        self.fetched: list[str] = []

    def fetch(self, url: str) -> bytes:
        self.fetched.append(url)
        if self.fails is not None:
            raise self.fails
        return json.dumps({"keys": self.keys}).encode()

    def verifier(self) -> JwtVerifier:
        settings = JwtSettings(issuer=ISSUER, audience=AUDIENCE, jwks_url=URL)
        return JwtVerifier(settings, ROLES, keys=KeySet(settings, fetch=self.fetch, clock=lambda: self.now))


async def test_keys_are_fetched_once_and_again_after_an_hour() -> None:
    provider = Provider()
    verifier = provider.verifier()
    for _ in range(3):
        assert await verifier.principal(token()) is not None
    assert provider.fetched == [URL]
    provider.now += KEYS_FRESH_S + 1
    assert await verifier.principal(token()) is not None
    assert provider.fetched == [URL, URL]


async def test_a_new_key_is_found_at_once_but_unknown_names_do_not_flood_the_provider() -> None:
    provider = Provider()
    verifier = provider.verifier()
    assert await verifier.principal(token()) is not None
    provider.keys.append(jwk(OTHER, "new"))
    provider.now += KEYS_RETRY_S
    assert await verifier.principal(token(OTHER, kid="new")) is not None
    for number in range(20):
        assert await verifier.principal(token(OTHER, kid=f"guess-{number}")) is None
    assert len(provider.fetched) == 2


async def test_keys_stay_good_while_the_provider_is_away() -> None:
    provider = Provider()
    verifier = provider.verifier()
    assert await verifier.principal(token()) is not None
    provider.fails, provider.now = OSError("away"), provider.now + KEYS_FRESH_S + 1
    assert await verifier.principal(token()) is not None
    provider.fails, provider.keys, provider.now = None, [], provider.now + KEYS_RETRY_S
    assert await verifier.principal(token()) is not None, "an empty list is a mistake, not the end of all keys"


async def test_without_any_keys_nobody_comes_in_and_is_told_why() -> None:
    provider = Provider()
    provider.fails = OSError("away")
    with pytest.raises(Refused) as caught:
        await provider.verifier().principal(token())
    assert (caught.value.status, caught.value.code) == (503, "keys_unavailable")


async def test_the_gateway_says_so_too_and_health_goes_on(caller: FakeCaller) -> None:
    provider = Provider()
    provider.fails = OSError("away")
    inner = create_app([Order], settings=Settings(insecure_bind=True))
    settings = Settings(jwt=JwtSettings(issuer=ISSUER, audience=AUDIENCE, jwks_url=URL))
    app = Guard(inner, settings, jwt=provider.verifier())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://g.example") as http:
        headers = {"authorization": f"Bearer {token()}"}
        assert (await http.get("/livez", headers=headers)).status_code == 200
        assert (await http.get("/entities", headers=headers)).status_code == 503
        assert (await http.get("/entities")).status_code == 401


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"algorithms": ["HS256"]}, "algorithms are some of"),
        ({"algorithms": ["none"]}, "algorithms are some of"),
        ({"algorithms": []}, "algorithms are some of"),
        ({"jwks_url": URL}, "either jwks_url or keys"),
        ({"keys": []}, "either jwks_url or keys"),
        ({"keys": [], "jwks_url": "http://id.example/keys"}, "https://"),
        ({"keys": [], "jwks_url": "file:///etc/passwd"}, "https://"),
        ({"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}, "no usable public key"),
        ({"keys": [json.loads(RSAAlgorithm.to_jwk(RSA))]}, "no usable public key"),
        ({"issuer": ""}, "at least 1"),
        ({"leeway_s": 3_600}, "less than or equal"),
    ],
)
def test_settings_that_would_be_unsafe_are_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        JwtSettings.model_validate({"issuer": ISSUER, "audience": AUDIENCE, "keys": KEYS} | changes)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERDURE_JWT", json.dumps({"issuer": ISSUER, "audience": AUDIENCE, "jwks_url": URL}))
    chosen = Settings()
    assert chosen.jwt is not None
    assert chosen.jwt.jwks_url == URL
    assert chosen.has_credentials
