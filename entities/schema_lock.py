"""The lock file of state schemas: a change of stored state needs a version and an upgrade, or it does not pass CI.

Upholds P9 ahead of time: the file holds, for each entity class, its schema version and the JSON schema of its state as
last released. `compare` tells harmless changes (a new field, a wider type: every stored state still loads and means
the same) from those that need `version=` and `@upgrade`. Reading JSON schemas is enough, because states are JSON.

The comparison is cautious: what it cannot prove harmless needs a version. A person who knows better bumps the version
and writes an upgrade that returns the state as it is.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from .definition import EntityDefinition, Registry
from .entity import Entity

FILE = "perdure.schemas.json"
FORMAT = 1
_WORDS_ONLY = ("title", "description", "examples", "default", "deprecated", "readOnly", "writeOnly", "$comment")
_LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")

Schema = dict[str, Any]


class LockedSchema(msgspec.Struct, frozen=True):
    """One entity class in the lock file."""

    version: int
    fingerprint: str
    schema: Schema


class _LockFile(msgspec.Struct):
    format: int
    entities: dict[str, LockedSchema]


class Finding(NamedTuple):
    """What is to be said about one class."""

    kind: Literal["same", "harmless", "new", "bumped", "gone", "breaking"]
    name: str
    text: str

    @property
    def is_problem(self) -> bool:
        """Whether a check fails: the state changed without its upgrade, or the file has to be written."""
        return self.kind in ("new", "bumped", "gone", "breaking")

    @property
    def is_breaking(self) -> bool:
        """Whether writing the file would hide that stored states no longer fit."""
        return self.kind == "breaking"


def state_schema(definition: EntityDefinition) -> LockedSchema:
    """The JSON schema of a class's stored state, without words for people."""
    schema: Schema = _bare(definition.cls.model_json_schema(mode="validation"))
    schema.get("properties", {}).pop("key", None)  # the address, not the state
    canonical = json.dumps(schema, sort_keys=True, separators=(",", ":")).encode()
    return LockedSchema(definition.version, hashlib.sha256(canonical).hexdigest()[:16], schema)


def _bare(schema: Any, *, is_map: bool = False) -> Any:
    if isinstance(schema, list):
        return [_bare(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _bare(value, is_map=key in ("properties", "$defs") and not is_map)
        for key, value in schema.items()
        if is_map or key not in _WORDS_ONLY
    }


def read_lock(path: "str | PathLike[str]") -> dict[str, LockedSchema]:
    """The file's classes; none if there is no file. Raises ValueError if it is not such a file."""
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        return {}
    try:
        lock = msgspec.json.decode(data, type=_LockFile)
    except msgspec.DecodeError as error:
        raise ValueError(f"{path} is not a lock file of schemas: {error}") from None
    if lock.format != FORMAT:
        raise ValueError(f"{path} has format {lock.format}, this release reads {FORMAT}")
    return lock.entities


def write_lock(path: "str | PathLike[str]", registry: Registry) -> None:
    """Write the present schemas of all classes, in order of their names."""
    locked = {definition.name: state_schema(definition) for definition in registry}
    data = msgspec.to_builtins(_LockFile(FORMAT, dict(sorted(locked.items()))))
    Path(path).write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def compare(registry: Registry, locked: Mapping[str, LockedSchema]) -> list[Finding]:
    """What has changed since the file was written, by class."""
    findings = [_compare(definition, locked.get(definition.name)) for definition in registry]
    findings += [
        Finding("gone", name, "the class is gone: stored entities of it cannot be read (if that is meant, --write)")
        for name in sorted(locked)
        if registry.find(name) is None
    ]
    return findings


def check_schemas(entities: Iterable[type[Entity]], path: "str | PathLike[str]" = FILE) -> None:
    """For tests: raise AssertionError naming each class whose stored state changed without its upgrade."""
    problems = [one for one in compare(Registry(entities), read_lock(path)) if one.is_problem]
    if problems:
        raise AssertionError("; ".join(f"{one.name}: {one.text}" for one in problems))


def _compare(definition: EntityDefinition, locked: LockedSchema | None) -> Finding:
    name, now = definition.name, state_schema(definition)
    if locked is None:
        return Finding("new", name, "not in the lock file yet (--write)")
    if now.version < locked.version:
        return Finding(
            "breaking",
            name,
            f"version {now.version} is older than the locked {locked.version}; versions only grow",
        )
    if now.version > locked.version:
        missing = definition.upgrades.missing(locked.version)
        if missing:
            return Finding(
                "breaking",
                name,
                f"version {locked.version} became {now.version}, but there is no @upgrade(from_version={missing[0]})",
            )
        return Finding("bumped", name, f"version {locked.version} became {now.version}, with its upgrade (--write)")
    if now.fingerprint == locked.fingerprint:
        return Finding("same", name, "unchanged")
    narrowed = _narrowed(locked.schema, now.schema, _Definitions(locked.schema, now.schema), "")
    if narrowed:
        return Finding(
            "breaking",
            name,
            f"{'; '.join(narrowed)}. Give the class version={now.version + 1} and an "
            f"@upgrade(from_version={now.version})",
        )
    return Finding("harmless", name, "changed, and every stored state still fits (--write to note it)")


class _Definitions:
    """Both sides' named parts, and the pairs under comparison (schemas may be recursive)."""

    def __init__(self, old: Schema, new: Schema) -> None:
        self.old: Schema = old.get("$defs", {})
        self.new: Schema = new.get("$defs", {})
        self.open: set[tuple[str, str]] = set()


def _narrowed(old: Schema, new: Schema, named: _Definitions, at: str) -> list[str]:
    """Why a value that fits `old` might not fit `new`, or would lose something; empty if neither."""
    if old == new and not (named.old or named.new):
        return []
    pair = (str(old.get("$ref", "")), str(new.get("$ref", "")))
    if pair[0] or pair[1]:
        if pair in named.open:
            return []
        named.open.add(pair)
        try:
            return _narrowed(_resolved(old, named.old), _resolved(new, named.new), named, at)
        finally:
            named.open.discard(pair)
    place = at or "the state"
    olds, news = _alternatives(old), _alternatives(new)
    if len(olds) > 1 or len(news) > 1:
        lost = [one for one in olds if all(_narrowed(one, other, named, at) for other in news)]
        return [f"{place} may no longer be {_word(one)}" for one in lost]
    if not new:
        return []
    problems = _narrowed_kind(old, new, place)
    return problems or [
        *_narrowed_bounds(old, new, place),
        *_narrowed_fields(old, new, named, at),
        *_narrowed_items(old, new, named, at),
    ]


def _resolved(schema: Schema, named: Schema) -> Schema:
    reference = schema.get("$ref")
    return named.get(str(reference).rpartition("/")[2], {}) if reference else schema


def _alternatives(schema: Schema) -> list[Schema]:
    return schema.get("anyOf") or schema.get("oneOf") or [schema]


def _word(schema: Schema) -> str:
    return str(schema.get("$ref", "")).rpartition("/")[2] or str(schema.get("type") or schema.get("const") or schema)


def _values(schema: Schema) -> list[Any] | None:
    return [schema["const"]] if "const" in schema else schema.get("enum")


def _narrowed_kind(old: Schema, new: Schema, place: str) -> list[str]:
    before, after = old.get("type"), new.get("type")
    allowed, wanted = _values(new), _values(old)
    if allowed is not None:
        gone = [value for value in wanted or [] if value not in allowed]
        if wanted is None:
            return [f"{place} may only be one of {allowed} now"]
        return [f"{place} may no longer be {gone[0]!r}"] if gone else []
    if after is not None and before != after and not (before == "integer" and after == "number"):
        return [f"{place} was {before or 'anything'} and is {after}"]
    for key in ("pattern", "format", "multipleOf", "uniqueItems", "contentEncoding"):
        if new.get(key) not in (None, old.get(key)):
            return [f"{place} has another {key}"]
    if old.get("format") and not new.get("format"):
        return [f"{place} was a {old['format']} and is plain {after}"]
    return []


def _narrowed_bounds(old: Schema, new: Schema, place: str) -> list[str]:
    problems = [
        f"{place} has a higher {key}"
        for key in _LOWER
        if key in new and (key not in old or old[key] < new[key])
    ]  # fmt: skip
    return problems + [
        f"{place} has a lower {key}" for key in _UPPER if key in new and (key not in old or old[key] > new[key])
    ]


def _narrowed_fields(old: Schema, new: Schema, named: _Definitions, at: str) -> list[str]:
    before, after = old.get("properties", {}), new.get("properties", {})
    problems: list[str] = []
    for name, schema in before.items():
        place = f"{at}.{name}" if at else f"field `{name}`"
        if name in after:
            problems += _narrowed(schema, after[name], named, place)
        else:
            problems.append(f"{place} is gone, and what is stored in it would be lost")
    required = set(new.get("required", [])) - set(old.get("required", []))
    problems += [f"{at}.{name} is required now" for name in sorted(required)]
    return problems


def _narrowed_items(old: Schema, new: Schema, named: _Definitions, at: str) -> list[str]:
    problems: list[str] = []
    for key in ("items", "additionalProperties"):
        before, after = old.get(key, {}), new.get(key, {})
        if after is False and before is not False:
            problems.append(f"{at} takes no other fields now")
        elif isinstance(before, dict) and isinstance(after, dict):
            problems += _narrowed(before, after, named, f"{at}[]")
    before_items, after_items = old.get("prefixItems", []), new.get("prefixItems", [])
    if len(before_items) != len(after_items):
        problems.append(f"{at} has another length")
    for index, (one, other) in enumerate(zip(before_items, after_items, strict=False)):
        problems += _narrowed(one, other, named, f"{at}[{index}]")
    return problems
