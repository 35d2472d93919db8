"""Where an exception came from, as text that may be stored for people.

Names of files and functions and numbers of lines only: no values of variables, no source text, no message (which stands
beside it). Nothing is read from disk for it, so that an engine whose every attempt fails is not slowed down.
"""

import traceback

TRACE_BYTES_MAX = 4_000
FRAMES_MAX = 12
"""Of each exception, the innermost."""
CAUSES_MAX = 4
_NAME_MAX = 200
_BELOW_USERS = frozenset({__name__.partition(".")[0], "asyncio", "concurrent", "threading"})
"""Packages that call user code: their frames before its first one tell nothing."""


def trace_of(error: BaseException) -> str:
    """The last frames of `error`, then those of its causes; empty if none is of user code."""
    parts: list[str] = []
    one: BaseException | None = error
    for _ in range(1 + CAUSES_MAX):
        if one is None:
            break
        frames = _frames(one)
        if frames:
            parts.append(f"{type(one).__name__[:_NAME_MAX]}, raised in (innermost last):\n" + "\n".join(frames))
        one = one.__cause__
    text = "\nbecause of ".join(parts)
    data = text.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode(errors="replace")
    return data[:TRACE_BYTES_MAX].decode(errors="ignore")


def _frames(error: BaseException) -> list[str]:
    found: list[str] = []
    for frame, line in traceback.walk_tb(error.__traceback__):
        if not found and str(frame.f_globals.get("__name__", "")).partition(".")[0] in _BELOW_USERS:
            continue
        code = frame.f_code
        found.append(f'  File "{code.co_filename[-_NAME_MAX:]}", line {line}, in {code.co_qualname[-_NAME_MAX:]}')
    return found[-FRAMES_MAX:]
