"""What differs between two JSON values, as changes after RFC 6902 (JSON Patch), each with the value it replaces."""

from collections.abc import Iterator
from typing import Any, Literal

import msgspec


class Change(msgspec.Struct, frozen=True, omit_defaults=True):
    """One change; applied in order to the one value they give the other."""

    op: Literal["add", "remove", "replace"]
    path: str
    """JSON Pointer (RFC 6901)."""
    value: Any = msgspec.UNSET
    """The new value; not set for `remove`."""
    old: Any = msgspec.UNSET
    """The value before; not set for `add`. (An addition to RFC 6902, which lets others ignore it.)"""


def changes_between(before: Any, after: Any) -> list[Change]:
    """From one JSON value to another. Lists are compared position by position."""
    return list(_changes("", before, after))


def _changes(path: str, before: Any, after: Any) -> Iterator[Change]:
    match before, after:
        case dict(), dict():
            for name in [name for name in before if name not in after]:
                yield Change("remove", path + _step(name), old=before[name])
            for name, value in after.items():
                if name in before:
                    yield from _changes(path + _step(name), before[name], value)
                else:
                    yield Change("add", path + _step(name), value=value)
        case list(), list():
            common = min(len(before), len(after))
            for index in range(common):
                yield from _changes(f"{path}/{index}", before[index], after[index])
            for index in reversed(range(common, len(before))):
                yield Change("remove", f"{path}/{index}", old=before[index])
            for value in after[common:]:
                yield Change("add", f"{path}/-", value=value)
        case _ if not _is_same(before, after):
            yield Change("replace", path, value=after, old=before)
        case _:
            pass


def _step(name: str) -> str:
    return "/" + name.replace("~", "~0").replace("/", "~1")


def _is_same(one: Any, other: Any) -> bool:
    """JSON's view: true is not 1, while 1 is 1.0."""
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)
