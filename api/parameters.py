"""Parameters of the query strings of operators' routes, read strictly."""

import datetime as dt

from fastapi import Request

from ..entities.errors import InvalidArguments
from ..entities.recurrence import to_us
from .archive_openapi import NUMBER_DIGITS_MAX
from .overview_schemas import LIST_LIMIT_MAX

CONDITIONS_BYTES_MAX = 4 * 1024
"""Of the query string of a search, cursor included."""


def read_number(request: Request, name: str, default: int | None = None) -> int:
    """One whole number, 0 or more. Raises InvalidArguments."""
    values = request.query_params.getlist(name)
    if not values and default is not None:
        return default
    if len(values) != 1 or not values[0].isascii() or not values[0].isdecimal() or len(values[0]) > NUMBER_DIGITS_MAX:
        raise wrong(name, f"{name} is one whole number, 0 or more, not {', '.join(values)[:40]!r}")
    return int(values[0])


def read_text(request: Request, name: str) -> str | None:
    """A text that is given at most once. Raises InvalidArguments."""
    values = request.query_params.getlist(name)
    if len(values) > 1:
        raise wrong(name, f"{name} is given {len(values)} times")
    return values[0] if values else None


def check_size(request: Request) -> None:
    """Raises InvalidArguments if there is too much of it."""
    size = len(request.scope["query_string"])
    if size > CONDITIONS_BYTES_MAX:
        raise wrong("", f"the conditions are {size} bytes; the limit is {CONDITIONS_BYTES_MAX}")


def read_time(name: str, text: str) -> dt.datetime:
    """Raises InvalidArguments."""
    try:
        return dt.datetime.fromisoformat(text)
    except ValueError:
        raise wrong(name, f"{name} is a time such as 2026-11-21T09:00:00Z, not {text[:40]!r}") from None


def wrong(name: str, message: str) -> InvalidArguments:
    """The error about one parameter."""
    return InvalidArguments(message, errors=[{"field": name, "message": message}])


def plain_text(request: Request, name: str) -> str:
    """A text that the database can be asked for; empty: not given. Raises InvalidArguments."""
    text = read_text(request, name) or ""
    if "\x00" in text or text != text.encode(errors="replace").decode():
        raise wrong(name, f"{name} holds what no text in the database may hold")
    return text


def read_limit(request: Request) -> int:
    """How many rows a page may have. Raises InvalidArguments."""
    limit = read_number(request, "limit", 50)
    if not 1 <= limit <= LIST_LIMIT_MAX:
        raise wrong("limit", f"limit is 1 to {LIST_LIMIT_MAX}, not {limit}")
    return limit


def read_instant(request: Request, name: str) -> int:
    """µs since the epoch; 0: not given. Raises InvalidArguments."""
    text = read_text(request, name)
    if text is None:
        return 0
    moment = read_time(name, text)
    if moment.tzinfo is None:
        raise wrong(name, f"{name} needs a time zone: {text[:40]}Z for UTC")
    return max(1, to_us(moment))
