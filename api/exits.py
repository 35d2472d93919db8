"""Exit codes of the command line, and which one a gateway's problem calls for."""

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes."""

    OTHER = 1
    USAGE = 2
    UNREACHABLE = 3
    NOT_FOUND = 4
    CONFLICT = 5
    DENIED = 6
    TIMEOUT = 7
    INTERRUPTED = 130
    """Ctrl-C twice: ended at once, not in order."""


_EXITS = {
    401: Exit.DENIED,
    403: Exit.DENIED,
    404: Exit.NOT_FOUND,
    409: Exit.CONFLICT,
    412: Exit.CONFLICT,
    423: Exit.CONFLICT,
    503: Exit.UNREACHABLE,
    504: Exit.TIMEOUT,
}
_FAILED_CALLS = frozenset(
    {
        "activity_failed",
        "application_error",
        "handler_failed",
        "handler_timeout",
        "rejected",
        "saga_failed",
        "workflow_cancelled",
        "workflow_failed",
        "workflow_terminated",
    }
)
"""Problems with the answer of the user's own code: the request as such was right."""


def exit_of(code: str, status: int) -> Exit:
    """The exit code for a problem that a gateway answered with."""
    if code in _FAILED_CALLS:
        return Exit.OTHER
    return _EXITS.get(status, Exit.OTHER if status >= 500 else Exit.USAGE)
