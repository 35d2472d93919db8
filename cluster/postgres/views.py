"""A view for each entity type, with a typed column for each field of its state: for people, and for joins with their
own tables.

`select key, status, amount from perdure.order_view where status = 'Paid'`. A view is a query: it always shows committed
states (promise P8), and costs a turn nothing. A field that a state lacks, because it is older, shows the class's
default; `perdure_schema` says which version of the class wrote the state (upgrades run when an entity is loaded, not
here). A value that is not of its column's type, for the same reason, is NULL: one odd state fails no query. Of
encrypted states the searchable fields are shown, all others are NULL.

Views are made by `perdure db views`, by `perdure up` and by `perdure dev`. One whose class has changed is replaced,
all in one transaction; columns that were added leave it in place. What others have built on a view keeps it from being
replaced in any other way: that is refused, and says so.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable
from hashlib import blake2b
from typing import Any

from ...entities.columns import ColumnKind, FieldColumn, columns_of
from ...entities.definition import EntityDefinition
from .exchange import Refused, Session, Statement

log = logging.getLogger("perdure.store")

OWN = ("key", "perdure_version", "perdure_updated_at", "perdure_schema")
"""Columns of every view that are no fields."""
_NAME_BYTES_MAX = 63

_COMMENTS = """
select c.relname::text, coalesce(obj_description(c.oid, 'pg_class'), '') from pg_class c
join pg_namespace n on n.oid = c.relnamespace where n.nspname = $1::text and c.relkind = 'v'"""

_DATE = r"^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])"

Run = Callable[[Callable[[Session], Awaitable[Any]]], Awaitable[Any]]


def view_name(type_name: str) -> str:
    """Of the view of a type, within the namespace's schema: lower case, so that nobody has to quote it."""
    name = f"{type_name.lower()}_view"
    if len(name.encode()) <= _NAME_BYTES_MAX:
        return name
    return f"{name.encode()[:40].decode(errors='ignore')}_{blake2b(type_name.encode(), digest_size=6).hexdigest()}_view"


def view_sql(schema: str, definition: EntityDefinition) -> str:
    """The query of a view. `schema`: quoted."""
    fields = [column for column in columns_of(definition) if column.name not in OWN]
    shown = "".join(f',\n    {_expression(column)} as "{column.name}"' for column in fields)
    return (
        "select key, version as perdure_version, updated_at as perdure_updated_at, schema_version as perdure_schema"
        f"{shown}\nfrom {schema}.entities where type = {_literal(definition.name)}"
    )


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _expression(column: FieldColumn) -> str:
    name = _literal(column.name)
    # A sealed state is a text, or has a list where a plain one has its key: what it lacks is hidden, not old.
    value = (
        f"(case when jsonb_typeof(state) = 'object' and jsonb_typeof(state->'key') is distinct from 'array'"
        f" then coalesce(state->{name}, {_literal(column.default.decode())}::jsonb) else state->{name} end)"
    )
    text = f"({value} #>> '{{}}')"
    match column.kind:
        case ColumnKind.TEXT:
            return text
        case ColumnKind.NUMBER:
            return f"case when jsonb_typeof({value}) = 'number' then {text}::numeric end"
        case ColumnKind.DECIMAL:
            return rf"case when {text} ~ '^-?\d+(\.\d+)?([eE][+-]?\d{{1,3}})?$' then {text}::numeric end"
        case ColumnKind.FLAG:
            return f"case when jsonb_typeof({value}) = 'boolean' then {text}::boolean end"
        case ColumnKind.TIME:
            zoned = rf"case when {text} ~ '(Z|[+-]\d\d:\d\d)$' then {text} else {text} || 'Z' end"
            return f"case when {text} ~ '{_DATE}T' then ({zoned})::timestamptz end"
        case ColumnKind.DATE:
            return f"case when {text} ~ '{_DATE}$' then {text}::date end"
        case ColumnKind.JSON:
            return f"nullif({value}, 'null')"


class Views:
    """The views of one namespace."""

    def __init__(self, run: Run, *, schema: str) -> None:
        self._run = run
        self._schema = schema

    async def make(self, definitions: Iterable[EntityDefinition]) -> list[str]:
        """Make or replace what is missing or differs. Returns the names of those that were made. Repeatable.

        Raises Refused if the role may not, or others have built on a view that would lose or retype a column.
        """
        existing: dict[str, str] = await self._run(self._existing)
        made: list[str] = []
        taken: dict[str, str] = {}
        for definition in definitions:
            name = view_name(definition.name)
            if name in taken:
                log.warning("no view of %s: its name %s is that of %s", definition.name, name, taken[name])
                continue
            taken[name] = definition.name
            sql = view_sql(self._schema, definition)
            comment = f"perdure:{definition.name}:{blake2b(sql.encode(), digest_size=8).hexdigest()}"
            if existing.get(name) != comment:
                await self._replace(name, sql, comment)
                made.append(name)
        return made

    async def _replace(self, name: str, sql: str, comment: str) -> None:
        full = f'{self._schema}."{name}"'
        lock: Statement = (f"select pg_advisory_xact_lock(hashtextextended({_literal(full)}, 0))::text", ())
        last: Statement = (f"comment on view {full} is {_literal(comment)}", ())
        in_place: list[Statement] = [lock, (f"create or replace view {full} as {sql}", ()), last]
        anew: list[Statement] = [lock, (f"drop view if exists {full}", ()), (f"create view {full} as {sql}", ()), last]
        try:
            await self._run(lambda session: _attempt(session, in_place))
        except _CannotReplaceError:
            await self._run(lambda session: session.transact(anew))

    async def _existing(self, session: Session) -> dict[str, str]:
        (rows,) = await session.transact([(_COMMENTS, (self._schema.strip('"'),))])
        return dict(rows)

    async def by_type(self) -> dict[str, str]:
        """Type → name of its view, with the schema."""
        existing: dict[str, str] = await self._run(self._existing)
        ours = ((name, comment.split(":")) for name, comment in existing.items() if comment.startswith("perdure:"))
        return {parts[1]: f"{self._schema.strip(chr(34))}.{name}" for name, parts in ours}


class _CannotReplaceError(Exception):
    """A column would go, or change its type or place."""


async def _attempt(session: Session, statements: list[Statement]) -> None:
    try:
        await session.transact(statements)
    except Refused as refused:
        if refused.sqlstate in ("42P16", "42809"):
            raise _CannotReplaceError from None
        raise
