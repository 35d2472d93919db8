"""Stand-ins for activities: checked against the signature they replace, idempotent by key, and they remember.

A fake behaves like a service that honours idempotency keys: a key that has succeeded gets the same result again and
has no second effect. What it does for a *new* key is its behaviour: a value, a function with the activity's own
parameters, an exception (class or instance) to raise, `fails(...)` or `in_turn(...)`.
"""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ParamSpec, TypeVar, overload

from ..activity import Activity, activity_info
from ..errors import ApplicationError, PerdureError
from ..ids import EntityId

P = ParamSpec("P")
R = TypeVar("R")
Raises = BaseException | type[BaseException]


class WrongFake(TypeError):
    """The fake does not fit the activity that it replaces."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One attempt of an activity, faked or not, as the world saw it."""

    entity: EntityId
    activity: str
    arguments: dict[str, Any]
    attempt: int
    """From 1."""
    idempotency_key: str
    at: datetime
    """Virtual time at which it began."""


@dataclass(frozen=True)
class Fails:
    """See `fails`."""

    times: int
    error: Raises
    then: Any


@dataclass(frozen=True)
class InTurn:
    """See `in_turn`."""

    behaviours: tuple[Any, ...]


def fails(times: int, error: Raises = ConnectionError, *, then: Any = None) -> Any:
    """Behaviour: the first `times` attempts of each operation raise `error`, later ones do as `then` says."""
    return Fails(times, error, then)


def in_turn(*behaviours: Any) -> Any:
    """Behaviour: each attempt takes the next of these; there must be enough of them."""
    return InTurn(behaviours)


@dataclass(eq=False)
class Fake:
    """A stand-in for one activity. Made by `fake`."""

    activity: Activity[Any, Any]
    behaviour: Any
    calls: list[Attempt] = field(default_factory=list[Attempt])
    """Every attempt that reached it."""
    results: dict[str, Any] = field(default_factory=dict[str, Any])
    """What has succeeded, by idempotency key: its effects."""
    _failed: dict[str, int] = field(default_factory=dict[str, int])
    _turn: int = 0

    async def __call__(self, **arguments: Any) -> Any:
        """One attempt."""
        key = activity_info().idempotency_key
        if key not in self.results:
            self.results[key] = await self._do(self.behaviour, key, arguments)
        return self.results[key]

    async def _do(self, behaviour: Any, key: str, arguments: dict[str, Any]) -> Any:
        match behaviour:
            case Fails():
                count = self._failed.get(key, 0)
                self._failed[key] = count + 1
                return await self._do(behaviour.error if count < behaviour.times else behaviour.then, key, arguments)
            case InTurn():
                self._turn += 1
                if self._turn > len(behaviour.behaviours):
                    raise ApplicationError(
                        f"{self!r}: in_turn(...) has {len(behaviour.behaviours)} items, this is attempt {self._turn}",
                        type="WrongFake",
                        non_retryable=True,
                    )
                return await self._do(behaviour.behaviours[self._turn - 1], key, arguments)
            case BaseException():
                raise behaviour
            case type() if issubclass(behaviour, BaseException):
                raise behaviour(f"from the fake of {self.activity.name}")
            case _ if callable(behaviour):
                result = behaviour(**arguments)
                return await result if inspect.isawaitable(result) else result
            case _:
                return behaviour

    def __repr__(self) -> str:
        return f"<fake of {self.activity.name}: {len(self.calls)} attempts, {len(self.results)} effects>"


@overload
def fake(activity: Activity[P, None], /) -> Fake: ...
@overload
def fake(activity: Activity[P, R], does: Callable[P, Awaitable[R]] | Callable[P, R] | Raises | R, /) -> Fake: ...
def fake(activity: Activity[Any, Any], does: Any = None, /) -> Any:
    """A stand-in for `activity` that `does` this: a value, a function, an exception, `fails(...)`, `in_turn(...)`.

    Raises WrongFake at once if a function's parameters or a value's type are not the activity's.
    """
    if not isinstance(activity, Activity):
        raise WrongFake(f"fake() takes an @activity, not {activity!r}")
    _check(activity, does)
    return Fake(activity, does)


def _check(activity: Activity[Any, Any], behaviour: Any) -> None:
    match behaviour:
        case Fails():
            _check(activity, behaviour.error)
            _check(activity, behaviour.then)
        case InTurn():
            for part in behaviour.behaviours:
                _check(activity, part)
        case BaseException():
            pass
        case type() if issubclass(behaviour, BaseException):
            pass
        case _ if callable(behaviour):
            _check_function(activity, behaviour)
        case _:
            try:
                activity.signature.load_result(activity.signature.dump_result(behaviour))
            except PerdureError as error:
                raise WrongFake(f"fake of {activity.name}: it cannot return {behaviour!r}: {error}") from None


def _check_function(activity: Activity[Any, Any], function: Callable[..., Any]) -> None:
    wanted, given = inspect.signature(activity.fn), inspect.signature(function)
    try:
        given.bind(**dict.fromkeys(wanted.parameters))
    except TypeError as problem:
        raise WrongFake(
            f"fake of {activity.name}: {problem}. The activity is {activity.name}{wanted}, the fake takes {given}; "
            "arguments are passed by name"
        ) from None
