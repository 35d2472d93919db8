"""`perdure check` and `perdure replay`: whether changed code fits what is stored, before it is deployed."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ..cluster.codecs import load_codec
from ..cluster.postgres.sessions import SessionSettings
from ..cluster.postgres.store import PostgresStore
from ..entities.definition import Registry
from ..entities.errors import InvalidArguments
from ..entities.export import is_export, read_export
from ..entities.schema_lock import compare, read_lock, write_lock
from ..entities.store.encoded import EncodedStore
from ..entities.store.rows import Loaded
from ..entities.testing.replay import decode_recording, encode_recording, recorded_runs, replay
from .database import reach
from .exits import Exit
from .failures import Failure
from .target import load_target, put_on_path

Say = Callable[[str], None]


class Recorded(NamedTuple):
    """Where recorded runs come from: an export, or a namespace of a database."""

    file: Path | None
    dsn: str
    namespace: str
    type_name: str
    limit: int
    codec: str = ""
    """`module:factory` of what encrypts the namespace."""
    is_pooled: bool = False
    """There is a pooler between here and the database."""


def check_module(module: str, lock: Path, *, write: bool, force: bool, say: Say) -> None:
    """Compare the state schemas of a module's entities with the lock file. Raises Failure if something is amiss."""
    registry = _registry(module)
    try:
        locked = read_lock(lock)
    except ValueError as error:
        raise Failure("bad_lock_file", str(error), Exit.USAGE) from None
    findings = compare(registry, locked)
    for finding in findings:
        if finding.kind != "same":
            say(f"{finding.name}: {finding.text}")
    breaking = [one for one in findings if one.is_breaking]
    if breaking and not (write and force):
        names = ", ".join(one.name for one in breaking)
        raise Failure(
            "schema_changed",
            f"stored states of {names} would not fit (bump the version and add the upgrade; before a first release, "
            "--write --force)",
            Exit.CONFLICT,
        )
    if write:
        write_lock(lock, registry)
        say(f"wrote {lock}: {len(registry)} entity classes")
    elif any(one.is_problem for one in findings):
        raise Failure("lock_file_stale", f"{lock} is not up to date (write it with --write, commit it)", Exit.CONFLICT)
    else:
        say(f"{len(registry)} entity classes, their states fit {lock}")


def replay_module(module: str, source: Recorded, *, export: Path | None, say: Say) -> None:
    """Replay recorded live runs against a module's code, executing nothing. Raises Failure if some do not fit."""
    registry = _registry(module)
    recorded = _recorded(source)
    if export is not None:
        export.write_bytes(encode_recording(recorded))
        say(f"wrote {export}: {len(recorded)} entities")
    report = replay(registry, recorded)
    for misfit in report.misfits:
        say(str(misfit))
    if report.misfits:
        raise Failure(
            "replay_mismatch",
            f"{len(report.misfits)} of {report.runs} live runs do not fit this code and would be parked "
            "(keep the old branch under `patched(...)`)",
            Exit.CONFLICT,
        )
    say(str(report))


def _registry(module: str) -> Registry:
    put_on_path(Path.cwd())
    return load_target(module).registry


def _recorded(source: Recorded) -> list[Loaded]:
    if source.file is None:
        reach(source.dsn)
        return asyncio.run(_read(source))
    try:
        return [
            loaded for loaded in _read_file(source.file.read_bytes()) if source.type_name in ("", loaded.entity.type)
        ][: source.limit]
    except (OSError, ValueError, InvalidArguments) as error:
        raise Failure("bad_recording", f"{source.file}: {error}", Exit.USAGE) from None


def _read_file(data: bytes) -> list[Loaded]:
    """What `--export` wrote, or what `perdure export` and the console gave. Raises ValueError, InvalidArguments."""
    return [read_export(data)] if is_export(data) else decode_recording(data)


async def _read(source: Recorded) -> list[Loaded]:
    codec = load_codec(source.codec)
    async with PostgresStore(
        SessionSettings(dsn=source.dsn, is_pooled=source.is_pooled), namespace=source.namespace
    ) as plain:
        store = plain if codec is None else EncodedStore(plain, codec, namespace=source.namespace)
        return [loaded async for loaded in recorded_runs(store, source.type_name, limit=source.limit)]
