"""What an error of Postgres means to the caller of the store."""

import psycopg

from ...entities.store.port import StoreUnavailable
from .exchange import Refused

DIVISION_BY_ZERO = "22012"
UNIQUE_VIOLATION = "23505"
LOCK_NOT_AVAILABLE = "55P03"
PROBE_FITS = "2201F"
"""Square root of a negative number: how a probe says that everything before it went well (commit.py)."""

_REPEATABLE = {
    "40001",  # serialization failure
    "40P01",  # deadlock
    "26000",  # a prepared statement is unknown: somebody between us and the server changed the session
    "42P05",  # … or is there already
}
_DATA_CLASSES = ("22", "54")
"""Data exception; limit of the server exceeded (JSON nested too deeply, and the like)."""


def is_repeatable(error: Exception) -> bool:
    """Whether the same transaction may well succeed if it is simply repeated."""
    if not isinstance(error, Refused):
        return False
    return error.sqlstate in _REPEATABLE or (error.sqlstate == "0A000" and "cached plan" in str(error))


def is_about_data(error: Exception) -> bool:
    """Whether the rows are to blame rather than the database."""
    return isinstance(error, Refused) and (
        error.sqlstate == UNIQUE_VIOLATION or error.sqlstate.startswith(_DATA_CLASSES)
    )


def unavailable(error: Refused | psycopg.Error) -> StoreUnavailable:
    """The database failed. The transaction may have happened if the session broke before it was answered."""
    if isinstance(error, Refused):
        state = f" ({error.sqlstate})" if error.sqlstate else ""
        return StoreUnavailable(f"Postgres refused: {error}{state}", maybe_applied=error.is_fatal)
    return StoreUnavailable(f"the connection to Postgres broke: {str(error).strip()}", maybe_applied=True)
