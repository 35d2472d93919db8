"""Staged SQL in the group commit (`perdure.entities.staged`): how it is sent, and who is to blame if it is refused.

It is executed last, under limits of its own and with the planner's usual settings (ours are for our tables). Deferred
constraints are checked at once, so that a refusal shows before the commit.
"""

from collections.abc import Iterable

from ...entities.staged import NAME
from ...entities.store.rows import EntityWrite, Staged
from .exchange import Statement

_SETTINGS = {
    "lock_timeout": "500ms",
    "statement_timeout": "5s",
    "enable_seqscan": "on",
    "enable_hashjoin": "on",
    "enable_mergejoin": "on",
    "plan_cache_mode": "auto",
}
_LIMITS: Statement = (
    "select " + ", ".join(f"set_config('{name}', '{value}', true)" for name, value in _SETTINGS.items()),
    (),
)
_CHECK_NOW: Statement = ("set constraints all immediate", ())


def statements(writes: Iterable[EntityWrite]) -> list[Statement]:
    """What these writes stage; nothing if they stage nothing."""
    staged = [_statement(staged) for write in writes for staged in write.staged]
    return [_LIMITS, *staged, _CHECK_NOW] if staged else []


def _statement(staged: Staged) -> Statement:
    values = dict(staged.values)
    numbers = {name: number for number, name in enumerate(values, 1)}
    sql = NAME.sub(lambda found: f"${numbers[found[1]]}", staged.sql)
    return sql, tuple(values.values())
