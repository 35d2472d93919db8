"""Reading for people: one snapshot, without compiling.

The planner believes that a look into an index per shard is dear, and would compile such a statement (JIT) for longer
than it runs.
"""

from collections.abc import Sequence

from .exchange import Rows, Session, Statement

_INTERPRETED: Statement = ("select set_config('jit', 'off', true)", ())


async def read_plainly(session: Session, statements: Sequence[Statement]) -> list[Rows]:
    """The rows of each statement, all as of one moment."""
    return (await session.transact([_INTERPRETED, *statements], is_snapshot=True))[1:]
