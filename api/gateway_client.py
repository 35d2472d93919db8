"""A client over HTTP: refs work as they do beside the hosts, but every message goes through a gateway.

It is a `Caller`, so it owes what a router owes (promises P1 and P5 as far as one caller sees them): a message is sent
under one idempotency key until there is an answer or the time is over, however many connections break meanwhile; what
may have been applied is told as unknown (CallTimeout), and only what certainly was not as Unavailable. Problems (RFC
9457) become the exceptions that they were made of. What the gateway itself refuses is raised as `Refused`.

Once an attempt may have been applied, "not accepted" is true of the attempt that it answers, not of the message:
such an answer (too busy, not available, no longer a credential) is no outcome, and the message is sent again.

What needs more than messages (searches, histories, transactions, repair) is not here: it wants a connection of
`perdure.cluster.connect`, or the gateway's own paths.
"""

import asyncio
import logging
import os
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any, Self
from urllib.parse import quote

import httpx
import msgspec

from ..entities.client import ambient, set_default
from ..entities.errors import (
    ERRORS,
    ApplicationError,
    Busy,
    CallTimeout,
    ErrorBody,
    InvalidArguments,
    NotConnected,
    OutcomeUnknown,
    Rejected,
    Unavailable,
    error_from_body,
)
from ..entities.ids import EntityId, new_message_id
from ..entities.messages import Envelope, Kind, Reply, Status, encode_json
from ..entities.store.port import StoreUnavailable
from ..entities.watching import EntityChange
from .exchange import ENTITY_VERSION
from .problems import Refused
from .settings import API_KEY, URL

DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_TIMEOUT_S = 30.0
PATIENCE_S = 5.0
"""How much longer than the gateway may take we wait for it: it knows best what has become of a message."""
PAUSE_S, PAUSE_MAX_S = 0.1, 2.0
"""Between two attempts to reach a gateway."""
CONNECTIONS_MAX = 1_000
SILENCE_S = 60.0
"""A stream of events without so much as a heartbeat for so long is broken."""
ANY_OTHER = "http_error"
"""The code of what something between us and the gateway refuses."""
BAD_CURSOR = "bad_cursor"
"""The code of a gateway's refusal to go on with a stream from a version to come."""
_JSON = {"Content-Type": "application/json"}
_ACTIONS = {
    Kind.START: "start",
    Kind.RESULT: "result",
    Kind.CANCEL: "cancel",
    Kind.TERMINATE: "terminate",
}
_READING = frozenset((Kind.QUERY, Kind.RESULT))
_KINDS = _READING | frozenset((Kind.CALL, Kind.SEND, Kind.SIGNAL, *_ACTIONS))
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)
_NOT_ACCEPTED = (429, 503)
"""Of errors that are in ERRORS: nothing was applied, later it may be (problems.TABLE)."""
_MEMBERS = ("errors", "limit", "got", "suggestions", "chain")
"""Details that have a place of their own in a problem."""

logger = logging.getLogger(__name__)


class GatewayClient:
    """A client of one gateway, for one event loop: `async with GatewayClient("https://…", api_key="…"): …`.

    While the block runs, `Order.ref(key)` works as anywhere: calls, `.send`, queries, workflows, mailboxes, with the
    same exceptions; so does `watch(ref)`. A request that the gateway itself refuses (no credential, no grant) raises
    `perdure.api.Refused`.
    """

    def __init__(
        self,
        url: str = "",
        *,
        api_key: str = "",
        timeout: timedelta | float = DEFAULT_TIMEOUT_S,
        is_default: bool = True,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Empty `url` and `api_key`: those of the environment (PERDURE_URL, PERDURE_API_KEY), else this machine's.

        timeout: of calls that do not say their own (numbers are seconds). is_default: the client is the process's
        ambient one for the time of the block. transport: of httpx, for certificates or proxies of your own.
        """
        self.session = f"client-{new_message_id()}"
        self.default_timeout_s = timeout.total_seconds() if isinstance(timeout, timedelta) else float(timeout)
        self.url = (url or os.environ.get(URL) or DEFAULT_URL).rstrip("/")
        self._is_default = is_default
        key = api_key or os.environ.get(API_KEY, "")
        self._http = httpx.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            limits=httpx.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=100),
            transport=transport,
        )

    async def __aenter__(self) -> Self:
        """Raises Unavailable if nothing answers at the address, Refused if what answers is no gateway."""
        try:
            alive = await self._http.get("/livez", timeout=PATIENCE_S)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            await self._http.aclose()
            raise Unavailable(
                f"no gateway at {self.url}: {_text(error)}. Start one (`perdure dev`, or your application), or name it "
                f"with `url=` or {URL}"
            ) from error
        if alive.status_code >= 500:
            await self._http.aclose()
            raise Unavailable(f"the gateway at {self.url} answers {alive.status_code}; try again later")
        if alive.status_code < 400 and not (alive.status_code == 200 and _members_of(alive)):
            await self._http.aclose()
            raise _no_gateway(alive)
        if self._is_default:
            set_default(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End: requests under way fail. Idempotent."""
        if self._is_default and _is_ambient(self):
            set_default(None)
        await self._http.aclose()

    async def request(self, envelope: Envelope, *, timeout_s: float) -> Reply:
        """See Caller. Raises also Refused, and Rejected for what a gateway cannot carry."""
        if envelope.kind not in _KINDS:
            raise Rejected(
                f"{envelope.entity}: {envelope.kind} {envelope.name!r} does not travel over HTTP this way; connect "
                "with `perdure.cluster.connect`, or use the gateway's own paths (docs/api.md)"
            )
        return await _Delivery(self._http, self.url, envelope, timeout_s).run()

    async def changes(self, entity: EntityId, *, after: int | None = None) -> AsyncGenerator[EntityChange]:
        """See `perdure.entities.watch`: the gateway's stream of events, taken up again wherever it breaks.

        Raises also Refused.
        """
        pause_s = PAUSE_S
        last: EntityChange | None = None
        while True:
            headers = {"Accept": "text/event-stream"} | ({} if after is None else {"Last-Event-ID": str(after)})
            path = f"{_path(entity)}/-/events"
            try:
                async with self._http.stream(
                    "GET", path, headers=headers, timeout=httpx.Timeout(PATIENCE_S, read=SILENCE_S)
                ) as answer:
                    if answer.status_code >= 400:
                        await answer.aread()
                        raise _error(answer, str(entity))
                    if answer.status_code != 200 or not _is_of_type(answer, "text/event-stream"):
                        raise _no_gateway(answer)  # it would look like a stream that ends at once, again and again
                    async for data in _events(answer):
                        change = msgspec.json.decode(data, type=EntityChange)
                        is_news = last is None or (change.version, change.state) != (last.version, last.state)
                        after, pause_s, last = change.version, PAUSE_S, change
                        if is_news:  # a stream that is taken up again begins with what is known already
                            yield change
            except (httpx.TransportError, Unavailable) as error:
                logger.warning("the stream of %s broke, and is taken up again: %s", entity, _text(error))
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, PAUSE_MAX_S)


class _Delivery:
    """One message on its way through the gateway."""

    def __init__(self, http: httpx.AsyncClient, url: str, envelope: Envelope, timeout_s: float) -> None:
        self._http = http
        self._url = url
        self._envelope = envelope
        self._timeout_s = timeout_s
        self._time = asyncio.get_running_loop().time
        self._deadline = self._time() + timeout_s
        self._maybe_applied = False
        self._is_running = False
        """Of a RESULT: the run has not ended."""

    async def run(self) -> Reply:
        """The reply to the message, sent as often as it takes. Raises Unavailable, CallTimeout, Refused."""
        pause_s = PAUSE_S
        while True:
            try:
                answer = await self._send(max(0.0, self._deadline - self._time()))
            except _NEVER_SENT as error:
                reason = _text(error)
            except httpx.TransportError as error:
                self._maybe_applied = True
                reason = _text(error)
            else:
                reply = self._read(answer)
                if reply is not None:
                    return reply
                reason = _answered(answer)
            if self._time() + pause_s >= self._deadline:
                raise self._given_up(reason)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, PAUSE_MAX_S)

    async def _send(self, wait_s: float) -> httpx.Response:
        envelope = self._envelope
        headers = {"Prefer": f"wait={wait_s:.3f}"}
        parameters: dict[str, str] = {}
        if envelope.trace:
            headers["traceparent"] = envelope.trace
        if envelope.kind not in _READING:
            headers["Idempotency-Key"] = self._key()
        if envelope.kind is Kind.SEND:
            headers["Prefer"] += ", respond-async"
        if envelope.delay_us:
            parameters["delay"] = repr(envelope.delay_us / 1e6)
        if envelope.options == "restart":
            parameters["restart"] = "true"
        path = f"{_path(envelope.entity)}/{quote(envelope.name, safe='')}"
        if envelope.kind in _ACTIONS:
            path += f"/{_ACTIONS[envelope.kind]}"
        timeout = httpx.Timeout(wait_s + PATIENCE_S, connect=min(wait_s, PATIENCE_S) or PATIENCE_S)
        if envelope.kind is Kind.RESULT:
            return await self._http.get(path, headers=headers, timeout=timeout)
        return await self._http.post(
            path, params=parameters, headers=headers | _JSON, content=envelope.args, timeout=timeout
        )

    def _key(self) -> str:
        """What makes the gateway's message the one that this process would have sent itself."""
        envelope = self._envelope
        key = envelope.id.removeprefix(f"{envelope.name}:")
        if not key.isascii():
            raise InvalidArguments(f"an idempotency key is ASCII where it travels over HTTP, not {key[:40]!r}")
        return key

    def _read(self, answer: httpx.Response) -> Reply | None:
        """The reply that the answer carries; None: ask again."""
        envelope = self._envelope
        version = answer.headers.get(ENTITY_VERSION, "")
        number = int(version) if version.isdecimal() else 0
        if answer.status_code >= 400:
            return self._failed(answer, number)
        if answer.status_code == 200 and version.isdecimal():  # with each of a gateway's, and with nobody else's
            return Reply(envelope.id, Status.OK, answer.content, number)
        told = _members_of(answer) if answer.status_code == 202 else {}
        match envelope.kind:
            case Kind.RESULT if told.get("status") == "running":
                self._is_running = True
                return None
            case Kind.START if isinstance(told.get("run_id"), str):
                return Reply(envelope.id, Status.OK, encode_json(told["run_id"]), number)
            case Kind.SEND | Kind.SIGNAL | Kind.CANCEL | Kind.TERMINATE if told.get("accepted") is True:
                return Reply(envelope.id, Status.ACCEPTED, b"null", number)
            case _ if self._is_in_doubt:
                return None
            case _:
                raise _no_gateway(answer)

    @property
    def _is_in_doubt(self) -> bool:
        """An attempt before this one may have been applied, and that matters."""
        return self._maybe_applied and self._envelope.kind not in _READING

    def _failed(self, answer: httpx.Response, version: int) -> Reply | None:
        envelope = self._envelope
        told = _problem(answer)
        code = "" if told is None else str(told["code"])
        is_lost_commit = code == StoreUnavailable.code and answer.status_code == 504
        if code in (CallTimeout.code, OutcomeUnknown.code) or is_lost_commit:
            self._maybe_applied = True
            return None
        if self._is_in_doubt and (code not in ERRORS or answer.status_code in _NOT_ACCEPTED):
            return None
        if told is None:
            if answer.status_code < 500:
                raise Refused(answer.status_code, ANY_OTHER, _foreign(answer))
            self._maybe_applied = True  # of something between us and the gateway: nobody knows how far it came
            return None
        if code in (Busy.code, "too_many_requests"):
            body = ErrorBody(Busy.code, f"{envelope.entity}: {told['detail']}")
            return Reply(envelope.id, Status.BUSY, encode_json(body), version)
        if code not in ERRORS:
            raise _error(answer, str(envelope.entity))
        return Reply(envelope.id, Status.ERROR, encode_json(_error_body(told)), version)

    def _given_up(self, reason: str) -> Exception:
        envelope = self._envelope
        what = f"{envelope.entity}.{envelope.name}"
        if self._is_running:
            return CallTimeout(f"{what}: the run has not ended within {self._timeout_s:g} s; ask again")
        if not self._maybe_applied:
            return Unavailable(
                f"{what}: no gateway at {self._url} within {self._timeout_s:g} s ({reason}); it was not sent, try again"
            )
        after = "ask again" if envelope.kind in _READING else "repeat it under the same idempotency key"
        key = {} if envelope.kind in _READING else {"idempotency_key": self._key()}
        return CallTimeout(f"{what}: no answer within {self._timeout_s:g} s ({reason}); {after}", **key)


def _path(entity: EntityId) -> str:
    if entity.key in (".", ".."):
        raise InvalidArguments(f"{entity}: this key cannot travel in a path: clients and proxies remove it")
    return f"/entities/{quote(entity.type, safe='')}/{quote(entity.key, safe='')}"


def _problem(answer: httpx.Response) -> dict[str, Any] | None:
    """The problem that an answer holds; None: it is not from a gateway."""
    try:
        told = msgspec.json.decode(answer.content)
    except msgspec.DecodeError:
        return None
    return told if isinstance(told, dict) and "code" in told and "detail" in told else None


def _members_of(answer: httpx.Response) -> dict[str, Any]:
    """The members of the JSON object that an answer holds; none if it holds anything else."""
    if not _is_of_type(answer, "application/json"):
        return {}
    try:
        told = msgspec.json.decode(answer.content)
    except msgspec.DecodeError:
        return {}
    return told if isinstance(told, dict) else {}


def _is_of_type(answer: httpx.Response, media_type: str) -> bool:
    given: str = answer.headers.get("content-type", "")
    return given.partition(";")[0].strip().lower() == media_type


def _error_body(told: dict[str, Any]) -> ErrorBody:
    """The error that became this problem."""
    code, error_type = str(told["code"]), str(told.get("error_type", ""))
    details = dict(told.get("details") or {})
    if code == ApplicationError.code:
        return ErrorBody(code, str(told["detail"]), error_type, details)
    details |= {name: told[name] for name in _MEMBERS if name in told}
    if error_type:
        details["error_type"] = error_type
    cause = told.get("cause")
    known = None
    if isinstance(cause, dict):
        known = ErrorBody(ApplicationError.code, str(cause.get("message", "")), str(cause.get("error_type", "")))
    return ErrorBody(code, str(told["detail"]), details=details, cause=known)


def _error(answer: httpx.Response, entity: str) -> Exception:
    """The exception that a problem was made of, or Refused for what the gateway refuses for reasons of its own."""
    told = _problem(answer)
    if told is not None and told["code"] in ERRORS:
        return error_from_body(_error_body(told))
    if told is not None and told["code"] == BAD_CURSOR:  # what `watch` says where it reads for itself
        return InvalidArguments(str(told["detail"]), errors=[])
    if told is None or answer.status_code in (429, 503):
        return Unavailable(f"{entity}: {told['detail'] if told else _foreign(answer)}")
    return Refused(answer.status_code, str(told["code"]), str(told["detail"]), entity=entity)


async def _events(answer: httpx.Response) -> AsyncGenerator[bytes]:
    """The data of a stream's events, as they come (the lines of server-sent events; comments are heartbeats)."""
    data: list[str] = []
    async for line in answer.aiter_lines():
        if line.startswith("data:"):
            data.append(line.removeprefix("data:").removeprefix(" "))
        elif not line and data:
            yield "\n".join(data).encode()
            data = []


def _no_gateway(answer: httpx.Response) -> Refused:
    """For an answer that is no error, and no gateway's: a redirect, a login page, another server.

    Its status is not handed on: an application that answers our error to its own caller would call it a success.
    """
    to = answer.headers.get("location", "")
    where = f", and leads to {to[:200]}" if to else ""
    text = (
        f"{_foreign(answer)}{where}. Give the address of the gateway itself (`url=` or {URL}); a proxy before it must "
        f"pass answers on as they are, with the header `{ENTITY_VERSION}`"
    )
    return Refused(502, ANY_OTHER, text)


def _foreign(answer: httpx.Response) -> str:
    return f"{answer.request.url} answered {answer.status_code}, and not as a gateway of Perdure does"


def _answered(answer: httpx.Response) -> str:
    told = _problem(answer)
    return f"it answers {answer.status_code}" + (f", {told['code']}: {told['detail']}" if told else "")


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__


def _is_ambient(client: GatewayClient) -> bool:
    try:
        return ambient() is client
    except NotConnected:
        return False
