"""A client over HTTP keeps what a client in the cluster promises: outcomes, exceptions, one effect per message."""

from asyncio import timeout
from collections.abc import AsyncGenerator, Callable
from typing import Any

import httpx
import pytest

from perdure.api import GatewayClient, Refused, gateway_client
from perdure.entities import (
    AlreadyStarted,
    ApplicationError,
    CallTimeout,
    HandlerFailed,
    IdempotencyMismatch,
    InvalidArguments,
    NoSuchRun,
    NotConnected,
    Rejected,
    Unavailable,
    UnknownHandler,
    WorkflowFailed,
    find,
    watch,
)
from perdure.entities.client import ambient, use
from perdure.entities.testing import LocalCluster

from .bank import EVERYTHING, KEY, Account, BehindState, Typed, bank
from .conftest import HERE


class Line(httpx.AsyncBaseTransport):
    """The way to a gateway: what `spoil` answers or raises comes first, request by request."""

    def __init__(self, app: Any) -> None:
        self._app = httpx.ASGITransport(app, raise_app_exceptions=False)
        self.spoil: list[Exception | httpx.Response | str] = []
        self.requests: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path != "/livez":
            self.requests.append(request)
        found = self.spoil.pop(0) if self.spoil and request.url.path != "/livez" else None
        if isinstance(found, httpx.Response):
            return found
        if isinstance(found, Exception):
            raise found
        answer = await self._app.handle_async_request(request)
        if found == "lost":  # it was applied, and nobody was told
            await answer.aread()
            raise httpx.ReadError("connection reset")
        return answer


@pytest.fixture
async def behind() -> AsyncGenerator[tuple[LocalCluster, BehindState]]:
    async with bank() as both:
        yield both


@pytest.fixture
def line(behind: tuple[LocalCluster, BehindState]) -> Line:
    return Line(behind[1])


@pytest.fixture
async def client(line: Line) -> AsyncGenerator[GatewayClient]:
    async with GatewayClient(HERE, transport=line, is_default=False, timeout=5) as client:
        with use(client):
            yield client


async def test_refs_work_as_in_the_cluster(client: GatewayClient) -> None:
    account = Account.ref("a/b ü")
    assert await account.deposit(10) == 10
    await account.deposit.send(5)
    assert await account.total() == 15
    run_id = await account.save.start(1)
    assert run_id == await account.save.start(1)
    assert await account.save.result() == 16
    assert await account.save(1) == 16
    await account.wait_for_note.start()
    await account.notes.send("hello")
    assert await account.wait_for_note.result(timeout=5) == "hello"
    await account.save.options(restart=True).start(2)
    assert await account.save.result() == 18
    await account.wait_for_note.options(restart=True).start()
    await account.wait_for_note.terminate("enough")
    with pytest.raises(WorkflowFailed):
        await account.wait_for_note.result()


async def test_values_of_every_type_come_back_equal(client: GatewayClient) -> None:
    assert await Typed.ref("t").echo(*EVERYTHING) == EVERYTHING


async def test_errors_are_the_same_exceptions(client: GatewayClient) -> None:
    account = Account.ref("a")
    with pytest.raises(ApplicationError, match="not enough") as refused:
        await account.withdraw(3)
    assert (refused.value.type, refused.value.details) == ("TooLittle", {"missing": 3})
    with pytest.raises(HandlerFailed) as failed:
        await account.crash()
    assert failed.value.error_type == "RuntimeError"
    assert "secret" not in str(failed.value)
    with pytest.raises(WorkflowFailed) as ended:
        await account.fail()
    assert isinstance(ended.value.__cause__, ApplicationError)
    assert ended.value.__cause__.type == "Closed"
    with pytest.raises(NoSuchRun):
        await account.save.result()
    await account.save.start(1)
    with pytest.raises(AlreadyStarted):
        await account.save.start(2)
    await account.deposit.options(idempotency_key="k")(1)
    with pytest.raises(IdempotencyMismatch):
        await account.deposit.options(idempotency_key="k")(2)


async def test_a_key_is_the_same_over_http_and_in_the_cluster(
    client: GatewayClient, behind: tuple[LocalCluster, BehindState]
) -> None:
    deposit = Account.ref("a").deposit.options(idempotency_key="salary")
    assert await deposit(10) == 10
    with use(behind[0]):
        assert await deposit(10) == 10
        assert await Account.ref("a").total() == 10


@pytest.mark.parametrize(
    "broken",
    [
        httpx.ConnectError("refused"),
        httpx.ReadError("reset"),
        httpx.RemoteProtocolError("hung up"),
        httpx.Response(502, text="<html>bad gateway"),
        "lost",
    ],
    ids=["not reached", "reset", "hung up", "a proxy", "answer lost"],
)
async def test_what_breaks_on_the_way_is_sent_again_under_one_key(
    client: GatewayClient, line: Line, broken: Exception | httpx.Response | str
) -> None:
    line.spoil = [broken]
    assert await Account.ref("a").deposit(10) == 10
    keys = {request.headers["idempotency-key"] for request in line.requests}
    assert (len(line.requests), len(keys)) == (2, 1)
    assert await Account.ref("a").total() == 10


async def test_a_message_that_was_never_sent_is_told_as_such(client: GatewayClient, line: Line) -> None:
    line.spoil = [httpx.ConnectError("refused")] * 100
    with pytest.raises(Unavailable, match="was not sent"):
        await Account.ref("a").deposit.options(timeout=0.05)(10)


async def test_a_message_without_an_answer_is_told_as_unknown(client: GatewayClient, line: Line) -> None:
    line.spoil = [httpx.ReadError("reset")] * 100
    with pytest.raises(CallTimeout, match="same idempotency key") as unknown:
        await Account.ref("a").deposit.options(timeout=0.05)(10)
    key = unknown.value.details["idempotency_key"]
    line.spoil = []
    assert await Account.ref("a").deposit.options(idempotency_key=key)(10) == 10


async def test_a_run_that_goes_on_is_asked_for_until_the_time_is_over(client: GatewayClient) -> None:
    account = Account.ref("a")
    await account.wait_for_note.start()
    with pytest.raises(CallTimeout, match="not ended"):
        await account.wait_for_note.result(timeout=0.01)


async def test_a_gateway_with_too_much_to_do_is_waited_for(client: GatewayClient, line: Line) -> None:
    told = {"code": "too_many_requests", "detail": "full"}
    line.spoil = [httpx.Response(429, json=told)]
    assert await Account.ref("a").deposit(10) == 10


async def test_what_the_gateway_refuses_is_refused_here() -> None:
    async with bank(is_locked=True) as (_, app):
        transport = httpx.ASGITransport(app)
        async with GatewayClient(HERE, transport=transport, is_default=False) as stranger:
            with use(stranger), pytest.raises(Refused, match="credential") as refused:
                await Account.ref("a").total()
        async with GatewayClient(HERE, transport=transport, is_default=False, api_key=KEY) as friend:
            with use(friend):
                assert await Account.ref("a").total() == 0
    assert (refused.value.status, refused.value.code) == (401, "unauthorized")


async def test_what_needs_more_than_messages_says_so(client: GatewayClient) -> None:
    with pytest.raises(NotConnected, match=r"perdure\.cluster\.connect"):
        await find(Account, balance=1)
    with pytest.raises(Rejected, match=r"docs/api\.md"):
        await Account.ref("a").save.pause()
    with pytest.raises(InvalidArguments, match="ASCII"):
        await Account.ref("a").deposit.options(idempotency_key="ü")(1)
    with pytest.raises(InvalidArguments, match="cannot travel in a path"):
        await Account.ref("..").deposit(1)


async def test_an_unknown_member_is_told_by_the_gateway(line: Line) -> None:
    async with GatewayClient(HERE, transport=line, is_default=False) as client:
        line.spoil = [httpx.Response(404, json={"code": "unknown_handler", "detail": "no", "suggestions": ["total"]})]
        with use(client), pytest.raises(UnknownHandler) as unknown:
            await Account.ref("a").total()
    assert unknown.value.details == {"suggestions": ["total"]}


async def test_it_is_the_ambient_client_for_the_time_of_its_block(line: Line) -> None:
    async with GatewayClient(HERE, transport=line) as client:
        assert ambient() is client
    with pytest.raises(NotConnected):
        ambient()


async def test_no_gateway_there_is_told_at_once() -> None:
    with pytest.raises(Unavailable, match=r"no gateway at http://127\.0\.0\.1:9.*perdure dev"):
        async with GatewayClient("http://127.0.0.1:9"):
            pass


def problem(status: int, code: str) -> httpx.Response:
    return httpx.Response(status, json={"code": code, "detail": "no"})


NOT_ACCEPTED = {
    "429 too_many_requests": lambda: problem(429, "too_many_requests"),
    "429 busy": lambda: problem(429, "busy"),
    "503 unavailable": lambda: problem(503, "unavailable"),
    "503 not_connected": lambda: problem(503, "not_connected"),
    "503 store_unavailable": lambda: problem(503, "store_unavailable"),
    "503 keys_unavailable": lambda: problem(503, "keys_unavailable"),
    "401 unauthorized": lambda: problem(401, "unauthorized"),
    "408 body_timeout": lambda: problem(408, "body_timeout"),
    "a proxy's 403": lambda: httpx.Response(403, html="<html>no"),
    "a redirect": lambda: httpx.Response(308, headers={"Location": "https://elsewhere/"}),
}


@pytest.mark.parametrize("refusal", NOT_ACCEPTED.values(), ids=NOT_ACCEPTED)
async def test_a_refusal_after_what_may_have_been_applied_is_no_outcome(
    client: GatewayClient, line: Line, refusal: Callable[[], httpx.Response], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lost attempt was applied: whoever is told "not accepted" would pay twice."""
    monkeypatch.setattr(gateway_client, "PAUSE_S", 0.001)
    line.spoil = ["lost", refusal()]
    assert await Account.ref("a").deposit(10) == 10
    keys = {request.headers["idempotency-key"] for request in line.requests}
    assert (len(line.requests), len(keys)) == (3, 1)
    line.spoil = ["lost", *(refusal() for _ in range(10_000))]
    with pytest.raises(CallTimeout, match="same idempotency key") as unknown:
        await Account.ref("a").deposit.options(timeout=0.15)(5)
    line.spoil = []
    key = unknown.value.details["idempotency_key"]
    assert await Account.ref("a").deposit.options(idempotency_key=key)(5) == 15


async def test_the_entitys_own_error_after_a_lost_answer_is_the_outcome(client: GatewayClient, line: Line) -> None:
    line.spoil = ["lost"]
    with pytest.raises(ApplicationError, match="not enough"):
        await Account.ref("a").withdraw(3)


async def test_a_commit_whose_answer_was_lost_is_asked_for_again(client: GatewayClient, line: Line) -> None:
    line.spoil = [problem(504, "store_unavailable"), problem(503, "unavailable")]
    assert await Account.ref("a").deposit(10) == 10


async def test_a_question_changes_nothing_so_its_refusal_is_told_at_once(client: GatewayClient, line: Line) -> None:
    line.spoil = [httpx.ReadError("reset"), problem(401, "unauthorized")]
    with pytest.raises(Refused):
        await Account.ref("a").total()


# --- What is not a gateway --------------------------------------------------------------------------------------------

NOT_A_GATEWAY = [
    httpx.Response(308, headers={"Location": "https://elsewhere/"}),
    httpx.Response(304),
    httpx.Response(200, html="<html>please log in"),
    httpx.Response(200, json={"accepted": True, "run_id": "r"}),
    httpx.Response(202, text="queued"),
    httpx.Response(202, json={"queued": True}),
    httpx.Response(204),
]


@pytest.mark.parametrize("foreign", NOT_A_GATEWAY, ids=lambda answer: f"{answer.status_code}-{answer.text[:8]}")
async def test_nothing_but_a_gateways_answer_is_a_success(
    client: GatewayClient, line: Line, foreign: httpx.Response
) -> None:
    account = Account.ref("a")
    for act in (
        lambda: account.deposit(1),
        lambda: account.deposit.send(1),
        lambda: account.notes.send("hello"),
        account.total,
        lambda: account.save.start(1),
        account.save.result,
        account.save.cancel,
        account.save.terminate,
    ):
        line.spoil = [httpx.Response(foreign.status_code, headers=foreign.headers, content=foreign.content)]
        with pytest.raises(Refused, match=f"answered {foreign.status_code}, and not as a gateway.*url=") as refused:
            await act()
        assert (refused.value.status, refused.value.code) == (502, "http_error")


async def test_a_redirect_says_where_it_leads(client: GatewayClient, line: Line) -> None:
    line.spoil = [httpx.Response(308, headers={"Location": "https://elsewhere/"})]
    with pytest.raises(Refused, match="leads to https://elsewhere/"):
        await Account.ref("a").deposit.send(1)


@pytest.mark.parametrize(
    "foreign",
    [httpx.Response(308, headers={"Location": "https://elsewhere/"}), httpx.Response(200, html="<html>please log in")],
    ids=["redirect", "page"],
)
async def test_what_is_no_gateway_is_told_when_connecting_and_watching(foreign: httpx.Response) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if is_alive and request.url.path == "/livez":
            return httpx.Response(200, json={"status": "ok"})
        return httpx.Response(foreign.status_code, headers=foreign.headers, content=foreign.content)

    is_alive = False
    with pytest.raises(Refused, match="not as a gateway"):
        async with GatewayClient(HERE, transport=httpx.MockTransport(answer), is_default=False):
            pass
    is_alive = True
    async with GatewayClient(HERE, transport=httpx.MockTransport(answer), is_default=False) as client, timeout(10):
        with use(client), pytest.raises(Refused, match="not as a gateway"):
            await anext(watch(Account.ref("a")))
