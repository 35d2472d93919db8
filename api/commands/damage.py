"""Verbs about damaged rows: `perdure db verify` looks for them, `perdure db accept` declares them right as they are."""

import asyncio

import psycopg
import typer

from ...cluster.postgres.damage import FOUND_MAX, accept, find_damage
from ...cluster.postgres.names import masked, without_password
from ...entities.errors import InvalidKey
from ...entities.ids import EntityId
from ..database import check_database, reach
from ..exits import Exit
from ..failures import Failure
from .options import confirm


def verify(dsn: str, namespace: str, *, is_pooled: bool = False) -> str:
    """Check every row that has a checksum. Raises Failure if any is damaged, having printed them."""
    check_database(dsn, namespace, is_pooled=is_pooled)
    try:
        found = asyncio.run(find_damage(dsn, namespace))
    except psycopg.Error as error:
        raise _failed(error, dsn) from None
    for one in found:
        typer.echo(f"{one.entity}  {one.table}  {one.row}")
    if found:
        count = f"{len(found)}{' or more' if len(found) >= FOUND_MAX else ''}"
        raise Failure(
            "damaged_rows",
            f"{count} rows of namespace {namespace!r} are not as they were written. Restore them from a backup, or "
            "accept an entity's rows as they are: perdure db accept Type/key",
            Exit.CONFLICT,
        )
    return f"namespace {namespace!r}: no row is damaged"


def accept_rows(dsn: str, namespace: str, address: str, *, everything: bool, yes: bool) -> str:
    """Accept the rows of one entity, or of all. Raises Failure."""
    if bool(address) == everything:
        raise Failure("bad_arguments", "name one entity as Type/key, or say --all", Exit.USAGE)
    try:
        entity = None if everything else EntityId.parse(address)
    except InvalidKey as error:
        raise Failure(error.code, error.message, Exit.USAGE) from None
    what = str(entity) if entity is not None else f"all entities of namespace {namespace!r}"
    confirm(f"take the rows of {what} for right, whatever has changed them", yes=yes)
    reach(dsn)
    try:
        count = asyncio.run(accept(dsn, namespace, entity))
    except psycopg.Error as error:
        raise _failed(error, dsn) from None
    return f"{what}: {count} rows accepted; the next call activates what was parked"


def _failed(error: psycopg.Error, dsn: str) -> Failure:
    reason = " ".join(without_password(str(error), dsn).split())
    return Failure("database_refused", f"{reason} (`{masked(dsn)}`)", Exit.CONFLICT)
