"""Changing code while runs and states of the old code live: patches of workflows, upgrades of state.

Promises P7 and P9: a run goes on as it began, or is parked with a reason; a stored state is upgraded in memory when its
entity wakes, or the entity is parked with its bytes untouched. Neither is ever guessed at.

* `patched("id")` is True for every run that reaches it first under the new code, and False, for the rest of its life,
  for a run that had gone past this point before. The answer of a run is a marker in its journal, without a number:
  so a recorded marker that the code does not ask for any more harms nobody.
* `@upgrade(from_version=n)` turns a state of schema version n into one of version n + 1. Upgrades run in sequence, on
  loading only, for snapshots and for the states in the journals of live runs alike.
"""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from .context import current
from .errors import DefinitionError, EntityParked, NotInWorkflow
from .signature import where

State = dict[str, Any]
PATCH_ID_MAX = 200


def patched(patch_id: str) -> bool:
    """In a workflow: whether this run takes the new branch. Outside any turn (a unit test): True.

    Write `if patched("fraud-check"): new() else: old()`. Runs that passed this point under the code before the patch
    take the old branch, all others the new one. Once no run of the old code lives, replace it by
    `deprecate_patch("fraud-check")`, and that by nothing when it has been deployed everywhere.
    Raises NotInWorkflow in handlers and queries (they need no patches), ValueError for an unusable id.
    """
    if not patch_id or len(patch_id) > PATCH_ID_MAX or not patch_id.isprintable():
        raise ValueError(f"a patch id is 1 to {PATCH_ID_MAX} printable characters, not {patch_id[:40]!r}")
    turn = current.get()
    if turn is None:
        return True
    if turn.mode != "workflow":
        raise NotInWorkflow(
            f"{turn.entity}: a {turn.mode} called patched(); only workflows are replayed, so only they need patches"
        )
    return turn.patched(patch_id)


def deprecate_patch(patch_id: str) -> None:
    """In a workflow: this patch has no old branch any more. Runs with and without its marker are welcome.

    New runs still get the marker, so that a rollback to the code with `patched()` finds them on the new branch.
    Raises NotInWorkflow, ValueError as `patched`.
    """
    patched(patch_id)


class Upgrade:
    """A declared upgrade function; called like the plain function."""

    def __init__(self, fn: Callable[[State], State], from_version: int) -> None:
        self.fn = fn
        self.from_version = from_version
        self.__doc__ = fn.__doc__

    def __call__(self, state: State) -> State:
        return self.fn(state)


class _UpgradeDecorator:
    def __init__(self, from_version: int) -> None:
        self._from_version = from_version

    def __call__(self, fn: Callable[[State], State], /) -> Upgrade:
        given: object = fn
        plain = given.__func__ if isinstance(given, staticmethod) else given
        if not inspect.isfunction(plain) or inspect.iscoroutinefunction(plain):
            raise DefinitionError(f"@upgrade decorates a plain function `def fn(state: dict) -> dict`, not {fn!r}")
        if len(inspect.signature(plain).parameters) != 1:
            raise DefinitionError(
                f"@upgrade on {plain.__qualname__} at {where(plain)}: it takes the stored state and nothing else "
                "(no `self`: there is no instance yet)"
            )
        if self._from_version < 1:
            raise DefinitionError(
                f"@upgrade(from_version={self._from_version}) at {where(plain)}: schema versions count from 1"
            )
        return Upgrade(plain, self._from_version)


def upgrade(*misplaced: object, from_version: int = 0) -> _UpgradeDecorator:
    """Declare, in the class body, how a stored state of this schema version becomes one of the next.

    ```python
    class Order(Entity, version=2):
        full_name: str = ""

        @upgrade(from_version=1)
        @staticmethod
        def name_is_split_no_more(state: dict[str, Any]) -> dict[str, Any]:
            state["full_name"] = state.pop("first") + " " + state.pop("last")
            return state
    ```

    It gets the state as JSON values and returns the new one; it must be pure: it runs whenever a state of that version
    is loaded, until a turn writes the entity again. Raises DefinitionError.
    """
    given: object = from_version
    if misplaced or not isinstance(given, int) or isinstance(given, bool):
        raise DefinitionError(f"write `@upgrade(from_version=1)`, with a whole number; not {misplaced or given!r}")
    return _UpgradeDecorator(from_version)


class Upgrades:
    """The upgrade functions of one class, by the version they start from."""

    def __init__(self, name: str, version: int, declared: Iterable[Upgrade]) -> None:
        """Raises DefinitionError for two upgrades of one version, or one of a version that is not older."""
        self._name = name
        self._version = version
        self.by_version: dict[int, Upgrade] = {}
        for one in declared:
            if one.from_version >= version:
                raise DefinitionError(
                    f"class {name}: @upgrade(from_version={one.from_version}) at {where(one.fn)}, but the class has "
                    f"version {version}; write `class {name}(Entity, version={one.from_version + 1})`"
                )
            other = self.by_version.setdefault(one.from_version, one)
            if other is not one:
                raise DefinitionError(
                    f"class {name}: two upgrades from version {one.from_version}, at {where(other.fn)} and "
                    f"{where(one.fn)}; keep one"
                )

    def missing(self, from_version: int) -> list[int]:
        """Versions from this one on that no upgrade leads away from."""
        return [version for version in range(from_version, self._version) if version not in self.by_version]

    def apply(self, key: str, data: bytes, from_version: int) -> bytes:
        """The state in the present version. Raises EntityParked: a missing step, a failing one, or newer than known."""
        if from_version > self._version:
            raise EntityParked(
                f"{self._name}/{key}: its state was written by schema version {from_version}, this code knows "
                f"{self._version}; deploy the newer code. Nothing was changed"
            )
        if from_version < 1:
            raise EntityParked(
                f"{self._name}/{key}: its state claims schema version {from_version}; they count from 1, so the row is "
                "damaged. Nothing was changed"
            )
        missing = self.missing(from_version)
        if missing:
            raise EntityParked(
                f"{self._name}/{key}: its state is of schema version {from_version}, this code has version "
                f"{self._version} but no @upgrade(from_version={missing[0]}); add it. Nothing was changed"
            )
        try:
            state: Any = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise EntityParked(
                f"{self._name}/{key}: its stored state is not JSON: {error}. Nothing was changed"
            ) from None
        for version in range(from_version, self._version):
            step = self.by_version[version]
            try:
                state = step.fn(state)
                if not isinstance(state, dict):
                    raise TypeError(f"it returned {type(state).__name__}, not a dict")
                data = msgspec.json.encode(state)
            except Exception as error:
                raise EntityParked(
                    f"{self._name}/{key}: @upgrade(from_version={version}) at {where(step.fn)} failed: {error!r}. "
                    "Nothing was changed"
                ) from error
        return data
