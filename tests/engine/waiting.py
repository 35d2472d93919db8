"""Waiting for what must become true, without fixed sleeps."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(predicate: Callable[[], object], *, within_s: float = 30.0) -> None:
    """Wait until `predicate()` is true; fails after `within_s`."""
    deadline = time.monotonic() + within_s
    while not predicate():
        assert time.monotonic() < deadline, f"not true within {within_s} s"
        await asyncio.sleep(0.001)


async def becomes(ask: Callable[[], Awaitable[T]], wanted: T, *, within_s: float = 30.0) -> None:
    """Wait until `await ask()` equals `wanted`."""
    deadline = time.monotonic() + within_s
    while (got := await ask()) != wanted:
        assert time.monotonic() < deadline, f"{got!r}, not {wanted!r}, after {within_s} s"
        await asyncio.sleep(0.001)
