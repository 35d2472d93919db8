"""What a request asks for, read strictly: its body, how long it waits, under which name it may be repeated."""

import asyncio
import re
from typing import NamedTuple

from fastapi import Request
from starlette.requests import ClientDisconnect

from ..entities.calls import IDEMPOTENCY_KEY_MAX
from ..entities.errors import InvalidArguments
from .problems import Refused
from .settings import Settings
from .strict_json import check_json

WAIT_MIN_S = 0.25
"""Shorter waits are made this long: below it an answer that is there would not make it back."""
DELAY_MAX_S = 100 * 366 * 86_400.0
_JSON = re.compile(r"application/(?:[\w.+-]+\+)?json\s*(?:;\s*charset\s*=\s*\"?utf-8\"?\s*)?", re.IGNORECASE)
_TRACE = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_WISHES = frozenset((b"if-match", b"prefer", b"idempotency-key", b"traceparent"))
_CLOSE = {"Connection": "close"}
"""We answer before the body has arrived: the rest of it must not be taken for the next request."""


async def read_json(request: Request, settings: Settings, *, default: bytes | None = None) -> bytes:
    """The body as checked JSON text; `default` for an empty body. Raises Refused."""
    body = await read_body(request, settings)
    if not body and default is not None:
        return default
    content_type = _header(request, b"content-type")
    if content_type != "application/json" and not _JSON.fullmatch(content_type):
        raise Refused(
            415,
            "unsupported_media_type",
            f"the body is declared as {content_type[:80]!r}; send JSON with `Content-Type: application/json`"
            if content_type
            else "the body has no declared type; send `Content-Type: application/json`",
            headers={"Accept": "application/json"},
        )
    check_json(body)
    return body


async def read_body(request: Request, settings: Settings) -> bytes:
    """The body, of whatever kind, within the limits of size and time. Raises Refused."""
    encoding = _header(request, b"content-encoding", "identity")
    if encoding.lower() != "identity":
        raise Refused(
            415,
            "unsupported_media_type",
            f"the body is compressed ({encoding[:40]!r}); send it as it is",
            headers={"Accept-Encoding": "identity", **_CLOSE},
        )
    length = _header(request, b"content-length")
    if length.isdecimal() and int(length[:20]) > settings.body_bytes_max:
        raise _too_large(settings, int(length[:20]))
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            async for chunk in request.stream():
                size += len(chunk)
                if size > settings.body_bytes_max:
                    raise _too_large(settings, None)
                chunks.append(chunk)
    except TimeoutError:
        raise Refused(
            408, "body_timeout", f"the body did not arrive within {settings.body_timeout_s:g} s", headers=_CLOSE
        ) from None
    except ClientDisconnect:
        raise Refused(400, "bad_json", "the body ended early: the client is gone") from None
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _header(request: Request, name: bytes, default: str = "") -> str:
    """The first of this name (in lower case), without the mapping that Starlette would put around all of them."""
    for given, value in request.scope["headers"]:
        if given == name:
            return str(value, "latin-1")
    return default


def _too_large(settings: Settings, got: int | None) -> Refused:
    limit = settings.body_bytes_max
    what = "larger" if got is None else f"{got} bytes"
    more = {} if got is None else {"got": got}
    return Refused(
        413, "payload_too_large", f"the body is {what}; the limit is {limit} bytes", headers=_CLOSE, limit=limit, **more
    )


class Wishes(NamedTuple):
    """How the caller wants to be served."""

    wait_s: float
    is_async: bool
    """`Prefer: respond-async`: the caller is content once the message is durable."""
    idempotency_key: str
    trace: str


def read_wishes(request: Request, settings: Settings, *, own_timeout: bool = True) -> Wishes:
    """From the headers and, unless `timeout` is an argument of the query itself, `?timeout=`.

    Raises Refused, InvalidArguments.
    """
    if not request.scope["query_string"] and _WISHES.isdisjoint([name for name, _ in request.scope["headers"]]):
        return Wishes(wait_s=settings.call_wait_s, is_async=False, idempotency_key="", trace="")
    headers = request.headers
    if "if-match" in headers:
        raise Refused(
            400,
            "precondition_unsupported",
            "`If-Match` is not evaluated here, so the request was not applied; a handler can compare what it must, and "
            "an edit takes `expected_version`",
        )
    wait_s: float | None = None
    is_async = False
    if "prefer" in headers:
        for preference in ",".join(headers.getlist("prefer")).split(","):
            name, _, value = preference.partition(";")[0].strip().partition("=")
            if name.strip().lower() == "respond-async":
                is_async = True
            elif name.strip().lower() == "wait":
                wait_s = _seconds(value.strip().strip('"'), "Prefer: wait")
    if own_timeout and "timeout" in request.query_params:
        wait_s = _seconds(_only(request, "timeout"), "timeout")
    trace = headers.get("traceparent", "")
    return Wishes(
        wait_s=settings.call_wait_s if wait_s is None else max(WAIT_MIN_S, min(wait_s, settings.call_wait_max_s)),
        is_async=is_async,
        idempotency_key=read_idempotency_key(request) if "idempotency-key" in headers else "",
        trace=trace if _TRACE.fullmatch(trace) else "",
    )


def read_delay_us(request: Request) -> int:
    """`?delay=` in seconds: deliver a one-way message not before that time from now. Raises InvalidArguments."""
    if not request.scope["query_string"] or "delay" not in request.query_params:
        return 0
    return round(_seconds(_only(request, "delay"), "delay", maximum=DELAY_MAX_S) * 1e6)


def read_flag(request: Request, name: str) -> bool:
    """`?name=true`. Raises InvalidArguments."""
    if not request.scope["query_string"] or name not in request.query_params:
        return False
    text = _only(request, name).lower()
    if text not in ("true", "false", "1", "0"):
        raise _wrong(name, f"{name} is true or false, not {text[:40]!r}")
    return text in ("true", "1")


def _only(request: Request, name: str) -> str:
    values = request.query_params.getlist(name)
    if len(values) > 1:
        raise _wrong(name, f"{name} is given {len(values)} times")
    return values[0]


def _seconds(text: str, name: str, *, maximum: float = float("inf")) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= maximum or seconds == float("inf"):
        limit = "" if maximum == float("inf") else f", at most {maximum:.0f}"
        raise _wrong(name.rpartition(" ")[2], f"{name} is a number of seconds, 0 or more{limit}, not {text[:40]!r}")
    return seconds


def _wrong(name: str, message: str) -> InvalidArguments:
    return InvalidArguments(message, errors=[{"field": name, "message": message}])


def read_idempotency_key(request: Request) -> str:
    """The header `Idempotency-Key`; empty if there is none. Raises Refused."""
    values = request.headers.getlist("idempotency-key")
    if not values:
        return ""
    key = values[0]
    if len(values) > 1 or not 0 < len(key) <= IDEMPOTENCY_KEY_MAX or not key.isascii() or not key.isprintable():
        problem = f"it is given {len(values)} times" if len(values) > 1 else f"not {key[:40]!r}"
        raise Refused(
            400,
            "bad_idempotency_key",
            f"Idempotency-Key is one value of 1 to {IDEMPOTENCY_KEY_MAX} printable ASCII characters; {problem}",
        )
    return key
