"""Staged SQL: statements of a handler that are executed in its turn's own commit.

```python
@handler
async def place(self, total: int) -> None:
    self.total = total
    stage("insert into orders (id, total) values (:id, :total)", id=self.key, total=total)
```

Promises
--------
P2: state, replies, messages and what the statements write are one transaction. P9: a statement that the database
refuses fails its own turn with `StagedSqlFailed` and nobody else's.

So that the blame is certain, such a turn is the only one of its entity in its commit (`engine/turns/staging.py`): an
entity that stages in every turn makes one turn per commit. It shares the commit with other entities' turns, so it must
be quick: it waits for locks for at most 0.5 s and runs for at most 5 s. What needs an answer from the database, or
time, is a `@transactional` step of a workflow.
"""

import re
from datetime import date, datetime, time
from decimal import Decimal
from uuid import UUID

from .context import StagingContext, current
from .errors import InvalidStatement
from .messages import encode_json
from .store.rows import Staged

NAME = re.compile(r"(?<![:\w\\]):([A-Za-z_]\w*)")
"""A value's place in a statement, as in SQLAlchemy's `text()`."""
_KINDS = ("insert", "update", "delete", "merge", "with", "select")

Value = (
    str | int | float | bool | Decimal | datetime | date | time | UUID | bytes | dict[str, object] | list[object] | None
)
"""What a statement's values may be; dicts and lists become JSON."""


def stage(statement: str, /, **values: Value) -> None:
    """In a handler: execute this SQL statement in the turn's commit, after the entity has been written.

    statement: one insert, update, delete, merge, with or select; the same text every time, with `:name` where a value
    goes. Its result is not to be had. Raises InvalidStatement.
    """
    turn: object = current.get()
    if not isinstance(turn, StagingContext):
        what = "outside a turn" if turn is None else f"in a {getattr(turn, 'mode', '')}"
        raise InvalidStatement(f"stage() works in a handler, not {what}; a workflow has @transactional steps")
    if not statement.lstrip().lower().startswith(_KINDS):
        raise InvalidStatement(f"{turn.entity}: staged SQL begins with one of {', '.join(_KINDS)}: {statement[:80]!r}")
    wanted = set(NAME.findall(statement))
    if wanted != values.keys():
        raise InvalidStatement(
            f"{turn.entity}: the statement names {sorted(wanted)}, but the values given are {sorted(values)}"
        )
    turn.stage(Staged(statement, tuple((name, _as_text(turn.entity, name, values[name])) for name in sorted(wanted))))


def _as_text(entity: object, name: str, value: object) -> str | None:
    """As Postgres reads it."""
    match value:
        case None:
            return None
        case bool():
            return "true" if value else "false"
        case str() | int() | float() | Decimal() | UUID():
            text = str(value)
        case datetime() | date() | time():
            text = value.isoformat()
        case bytes():
            text = f"\\x{value.hex()}"
        case dict() | list():
            try:
                text = encode_json(value).decode()
            except TypeError as error:
                raise InvalidStatement(f"{entity}: value {name} is not JSON: {error}") from None
        case _:
            raise InvalidStatement(
                f"{entity}: value {name} is a {type(value).__name__}, which has no place in SQL here"
            )
    if "\0" in text or (not text.isprintable() and any("\ud800" <= char <= "\udfff" for char in text)):
        raise InvalidStatement(f"{entity}: value {name} holds a NUL or a lone surrogate, which cannot be stored")
    return text
