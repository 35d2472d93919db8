"""The blocks of the guide about FastAPI, scripts, webhooks and watching run as printed."""

import ast
import asyncio
import hmac
import json
import time
from typing import Any

import httpx
import pytest

from perdure.entities.testing import LocalCluster

from .blocks import split_awaits
from .test_guide import block


def test_the_fastapi_application_of_the_guide() -> None:
    names: dict[str, Any] = {"__name__": "guide"}
    exec(block("def wallet_of("), names)
    names["test_a_gift"]()


def test_the_script_of_the_guide(capsys: pytest.CaptureFixture[str]) -> None:
    exec(block("def fill("), {"__name__": "guide"})
    assert capsys.readouterr().out == "5 books by author\n"


async def test_the_webhook_of_the_guide() -> None:
    names: dict[str, Any] = {"__name__": "guide"}
    exec(block("def recipient("), names)
    about = {"id": "evt_1", "type": "payment_intent.succeeded", "data": {"object": {"id": "pi_1"}}}
    body, stamp = json.dumps(about).encode(), str(int(time.time()))
    signature = hmac.digest(b"whsec_next", f"{stamp}.".encode() + body, "sha256").hex()
    headers = {"stripe-signature": f"t={stamp},v1={signature}"}
    payment = names["Payment"]
    async with LocalCluster([payment]) as cluster:
        transport = httpx.ASGITransport(names["app"])
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
            answers = [await http.post("/webhooks/stripe", content=body, headers=headers) for _ in range(2)]
        await cluster.drained()
        [kept] = [await cluster.store.archive().snapshot(payment.ref("pi_1").entity_id)]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert kept is not None
    assert (kept.version, json.loads(kept.state)["status"]) == (1, "paid")


async def test_the_watched_parcel_of_the_guide(capsys: pytest.CaptureFixture[str]) -> None:
    definitions, calls = split_awaits(block("class Parcel(Entity)"))
    names: dict[str, Any] = {"__name__": "guide"}
    exec(definitions, names)
    async with asyncio.timeout(60), LocalCluster([names["Parcel"]]):
        await eval(compile(calls, "guide", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    assert capsys.readouterr().out == "0 None []\n1 van ['move']\n2 door ['move']\n"
