"""What JSON a gateway lets in: exactly what every parser behind it reads alike and Postgres can store.

Parsers differ on duplicate keys, `NaN`, numbers too large, NUL and lone surrogates; so none of these passes. The
common case (a small flat object of plain text) is decided by one C parse and a few byte counts; only what looks
unusual is looked at closer, still in C; only what is refused is walked in Python, to say where it is wrong.
"""

import json
import re
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import msgspec

from ..entities.signature import has_nul
from .problems import Refused

DEPTH_MAX = 64
_POINTER_NODES_MAX = 50_000

_decode = msgspec.json.Decoder().decode
_POSITION = re.compile(r"\(byte (\d+)\)")
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_ESCAPE = re.compile(rb"\\u([0-9a-fA-F]{4})|\\.", re.DOTALL)
_CONSTANT = re.compile(rb"-?(?:NaN|Infinity)")
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_FLOAT_MAX = 1.7976931348623157e308


def check_json(body: bytes) -> None:
    """Raise Refused unless `body` is one JSON value that is safe to pass on."""
    try:
        value = _decode(body)
        if not body.isascii():
            body.decode()
    except RecursionError:
        raise _too_deep(_depth(body)) from None
    except UnicodeDecodeError:
        raise _bad_encoding(body) from None
    except msgspec.MsgspecError as error:
        raise _explain(body, error) from None
    if body.count(b"[") + body.count(b"{") > DEPTH_MAX and (depth := _depth(body)) > DEPTH_MAX:
        raise _too_deep(depth)
    if has_nul(body):
        raise _nul(body, value)
    # Every key is followed by a colon. So if the outer object has as many members as there are colons at all, nothing
    # was lost to a duplicate, and there is no second object.
    colons = body.count(b":")
    if colons > 1 and not (isinstance(value, dict) and len(value) == colons):
        json.loads(body, object_pairs_hook=_no_duplicates, parse_int=str, parse_float=str)


def _no_duplicates(pairs: list[tuple[str, object]]) -> None:
    if len(dict(pairs)) != len(pairs):
        twice = _first_repeated([key for key, _ in pairs])
        raise Refused(
            400,
            "duplicate_key",
            f"the key {twice[:80]!r} occurs twice in one object; parsers disagree on which one counts. Send it once",
            key=twice[:200],
        )


def _first_repeated(names: list[str]) -> str:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    raise AssertionError("called for names with a repetition")


def _depth(body: bytes) -> int:
    brackets = _STRING.sub(b"", body).translate(None, delete=_NOT_BRACKETS)
    return max(accumulate(map(_STEP.__getitem__, brackets)), default=0)


def _too_deep(depth: int) -> Refused:
    return Refused(
        400, "too_deep", f"the JSON is nested {depth} levels deep; the limit is {DEPTH_MAX}", limit=DEPTH_MAX, got=depth
    )


def _bad_encoding(body: bytes) -> Refused:
    position = 0
    try:
        body.decode()
    except UnicodeDecodeError as error:
        position = error.start
    return Refused(400, "bad_encoding", f"the body is not UTF-8: wrong byte at position {position}", position=position)


def _explain(body: bytes, error: Exception) -> Refused:
    """Why the parser refused, in our codes."""
    text = str(error)
    try:
        body.decode()
    except UnicodeDecodeError:
        return _bad_encoding(body)
    if text.startswith("Integer value out of range"):
        return _long_number(body)
    if text.startswith("Number out of range"):
        return _infinite(body)
    found = _POSITION.search(text)
    position = int(found[1]) if found else len(body)
    surrogate = _lone_surrogate(body)
    if surrogate >= 0 and surrogate <= position:
        return Refused(
            400,
            "bad_unicode",
            f"a lone surrogate (half of a character) at byte {surrogate}; it cannot be stored as UTF-8",
            position=surrogate,
        )
    constant = _CONSTANT.match(body, position) or _CONSTANT.match(body, max(0, position - 1))
    if constant:
        name = constant[0].decode()
        return Refused(
            400, "bad_number", f"{name} at byte {position} is not JSON; send null or a finite number", position=position
        )
    if not body.strip():
        return Refused(400, "bad_json", "the body is empty where JSON is needed", position=0)
    if body.startswith(b"\xef\xbb\xbf"):
        return Refused(400, "bad_json", "the body begins with a byte order mark; send UTF-8 without one", position=0)
    reason = "it ends too early" if found is None else text.removeprefix("JSON is malformed: ").split(" (byte")[0]
    line = body.count(b"\n", 0, position) + 1
    column = position - (body.rfind(b"\n", 0, position) + 1) + 1
    return Refused(
        400,
        "bad_json",
        f"the body is not JSON: {reason}, at line {line} column {column} (byte {position})",
        position=position,
    )


def _lone_surrogate(body: bytes) -> int:
    """Byte position of the first lone surrogate escape, or -1."""
    waiting = -1
    end_of_high = -1
    for found in _ESCAPE.finditer(body):
        unit = int(found[1], 16) if found[1] else 0
        if waiting >= 0 and not (found.start() == end_of_high and 0xDC00 <= unit <= 0xDFFF):
            return waiting
        if waiting >= 0:
            waiting = -1
        elif 0xD800 <= unit <= 0xDBFF:
            waiting, end_of_high = found.start(), found.end()
        elif 0xDC00 <= unit <= 0xDFFF:
            return found.start()
    return waiting


def _numbers(body: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    for string in _STRING.finditer(body):
        yield from ((found.start(), found[0]) for found in _NUMBER.finditer(body, at, string.start()))
        at = string.end()
    yield from ((found.start(), found[0]) for found in _NUMBER.finditer(body, at))


def _long_number(body: bytes) -> Refused:
    position, digits = max(_numbers(body), key=lambda number: len(number[1]), default=(0, b""))
    return Refused(
        400,
        "number_too_long",
        f"the number at byte {position} has {len(digits)} digits; send numbers of that size as strings",
        position=position,
        got=len(digits),
    )


def _infinite(body: bytes) -> Refused:
    position = next((at for at, number in _numbers(body) if abs(float(number)) > _FLOAT_MAX), 0)
    return Refused(
        400,
        "bad_number",
        f"the number at byte {position} is too large for a 64-bit float; send it as a string",
        position=position,
    )


def _nul(body: bytes, value: Any) -> Refused:
    pointer = _pointer_to_nul(value)
    where = f"at byte {body.find(b'u0000') - 1}" if pointer is None else f"at {pointer or 'the top'}"
    details: dict[str, Any] = {} if pointer is None else {"pointer": pointer}
    return Refused(
        400, "nul_not_allowed", f"a string or key {where} holds a NUL character; it cannot be stored", **details
    )


def _pointer_to_nul(value: Any) -> str | None:
    """JSON pointer (RFC 6901) to the first string or key with a NUL; None if finding it would take too long."""
    todo: list[tuple[str, Any]] = [("", value)]
    for _ in range(_POINTER_NODES_MAX):
        if not todo:
            return None
        at, node = todo.pop()
        match node:
            case str() if "\x00" in node:
                return str(at)
            case dict():
                for key, item in reversed(node.items()):
                    path = at + "/" + key.replace("~", "~0").replace("/", "~1").replace("\x00", "\\u0000")
                    if "\x00" in key:
                        return str(path)
                    todo.append((path, item))
            case list():
                todo += [(f"{at}/{index}", item) for index, item in reversed(list(enumerate(node)))]
            case _:
                pass
    return None
