"""The head of an ordinary request, read by one expression: what h11 would make of it, or nothing.

Ordinary is what nearly every request is: one of five methods, HTTP/1.1, no folded lines, no control characters, one
`Host`, at most one plain `Content-Length`, and nothing that bears on the connection or on how the body is framed. All
else is left to h11, which is strict, and slow. So there is no second opinion about what a request means: a head that is
read here is read alike by h11, which a test tries on heads of all kinds.
"""

import re
from typing import NamedTuple

_HEAD = re.compile(
    rb"(GET|POST|PUT|PATCH|DELETE) ([!-~]++) HTTP/1\.1\r\n"
    rb"((?:[-!#$%&'*+.^_`|~0-9a-zA-Z]++:[\t -~\x80-\xff]*+\r\n)++)\r\n"
)
"""Possessive, so that a hostile head takes no longer than its length."""
_DIGITS_MAX = 18
_SPECIAL = frozenset((b"host", b"content-length", b"connection", b"transfer-encoding", b"upgrade", b"expect"))


class Head(NamedTuple):
    """What it says."""

    method: str
    target: bytes
    headers: list[tuple[bytes, bytes]]
    """Names in lower case."""
    body_bytes: int
    """That follow."""
    text: bytes
    """As it was sent, with the empty line."""


def read_head(data: bytes) -> Head | None:
    """The head with which `data` begins; None if it is incomplete, wrong, or not ordinary."""
    found = _HEAD.match(data)
    if found is None:
        return None
    headers: list[tuple[bytes, bytes]] = []
    hosts = 0
    body_bytes = -1
    for line in found[3][:-2].split(b"\r\n"):
        name, _, value = line.partition(b":")
        name, value = name.lower(), value.strip(b" \t")
        if name in _SPECIAL:
            if name == b"host":
                hosts += 1
            elif name == b"content-length" and body_bytes < 0 and value.isdigit() and len(value) <= _DIGITS_MAX:
                body_bytes = int(value)
            elif name != b"connection" or value.lower() != b"keep-alive":
                return None
        headers.append((name, value))
    if hosts != 1:
        return None
    return Head(found[1].decode(), found[2], headers, max(0, body_bytes), found[0])
