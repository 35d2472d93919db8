"""Transactions over several entities: read and change them together, all or nothing, in one commit.

```python
async with transaction(Account.ref("a"), Account.ref("b")) as (a, b):
    await a.withdraw(10)
    await b.deposit(10)
```

Promises
--------
P1, P2: states, history rows, messages and reminders of all its entities are one Postgres transaction, written once.
P3: nothing leaves before that. P4: every version is compared and set, whoever else believes to own the entity.
P5: messages carry their entity's own clock. P8: from the commit on, no query answers from before it, on any of its
entities: one that is held answers nobody, and goes on from the store.

Parties: the *caller* (any process: script, route, activity), the *owners* of the entities, and the *coordinator*: the
owner of the first entity. There is no state of a transaction anywhere but in its commit.

Protocol
--------
1. HOLD goes to the owner of each entity, one after the other in order of address, so that transactions cannot wait
   for each other in a ring. It waits in the mailbox like a message. When it is reached, the entity makes no more turns;
   once what went before is durable the owner answers with the state, its version and its shard's epoch.
2. With an idempotency key the coordinator is now asked whether this transaction was committed before. Not earlier: an
   attempt that is still under way somewhere ends before the entity can be held again.
3. The block runs in the caller, on instances of the entities. What their handlers send is recorded.
4. COMMIT goes to the coordinator: the store compares all versions and epochs, and writes everything at once.
5. RELEASE goes to all owners. After a commit they load the entity again.

A hold is never what protects anything: it keeps conflicts away, and stale answers. Versions decide.

Failures
--------
* The caller dies, or is slow: each hold expires by its owner's clock. The owner then commits an empty turn before it
  goes on (turns/holding.py), after which the transaction can only be refused; or it finds that it has been committed.
* An owner dies, or gives its shard away: the new owner's epoch is another one, and the commit is refused. The commit
  locks the shards' rows, so a new owner comes either before it (refused) or after it (and reads what it wrote).
* The coordinator dies: COMMIT is sent again to the next owner, who finds the record, or is refused by the epoch.
* An answer is lost: the same request is answered again. COMMIT without any answer: `OutcomeUnknown`; the same call with
  the same idempotency key settles it. `run_transaction` does so by itself.
* Something else wrote an entity: `TransactionConflict`, nothing was changed. `run_transaction` runs it again; a `with`
  block cannot be run again, so it is for the caller to do so.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterable
from contextvars import Token
from datetime import timedelta
from types import TracebackType
from typing import Any, Generic, ParamSpec, TypeVar, TypeVarTuple, cast, get_type_hints, overload

from pydantic import TypeAdapter
from pydantic_core import to_json

from .calls import CallOptions, Target, check_reply, deliver, entity_class, reserve_position
from .client import Caller, ambient
from .context import TurnContext, current
from .entity import Entity
from .errors import (
    AlreadyCommitted,
    InvalidTransaction,
    OutcomeUnknown,
    PerdureError,
    TransactionConflict,
    TransactionTimeout,
)
from .ids import EntityId, fingerprint, new_message_id
from .messages import Envelope, Kind, Reply
from .transaction_messages import Commit, Held, Hold, Part, Recorded, Release, Step, decode, encode
from .transaction_scope import BlockContext, Participant

ENTITIES_MAX = 100
"""Entities in one transaction."""
TIMEOUT_MAX_S = 50.0
DEFAULT_TIMEOUT = timedelta(seconds=5)
COMMIT_MARGIN_S = 5.0
"""How much longer than the block may last the entities are held: for the commit."""
RELEASE_S = 2.0
ATTEMPTS_MAX = 20
"""How often `run_transaction` runs its function."""

E1 = TypeVar("E1", bound=Entity)
E2 = TypeVar("E2", bound=Entity)
E3 = TypeVar("E3", bound=Entity)
E4 = TypeVar("E4", bound=Entity)
Es = TypeVarTuple("Es")
P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Transaction(Generic[T]):
    """What `transaction(...)` returns: enter it once."""

    def __init__(
        self, refs: Iterable[Any], *, timeout: timedelta | float, idempotency_key: str, name: str = ""
    ) -> None:
        """Raises InvalidTransaction."""
        self._targets = _targets(refs)
        self._ordered = sorted(self._targets, key=lambda target: target.entity_id)
        self._first = self._ordered[0].entity_id
        self._timeout_s = timeout.total_seconds() if isinstance(timeout, timedelta) else float(timeout)
        if not 0.0 < self._timeout_s <= TIMEOUT_MAX_S:
            raise InvalidTransaction(f"a transaction's time limit is above 0 and at most {TIMEOUT_MAX_S:g} s")
        CallOptions.of(idempotency_key=idempotency_key)
        self.name = name
        self.result = b"null"
        """JSON to be recorded with the commit."""
        self._attempt = new_message_id()
        self._id = f"transaction/{idempotency_key or self._attempt}"
        self._is_checked = bool(idempotency_key)
        self._fingerprint = self._fingerprint_of({})
        self._caller: Caller
        self._held: dict[EntityId, Participant] = {}
        self._asked: list[EntityId] = []
        self._deadline = 0.0
        self._is_entered = False
        self._scope: asyncio.Timeout
        self._block: BlockContext
        self._token: Token[TurnContext | None]

    def identify(self, key: str, payload: object, *, is_checked: bool) -> None:
        """It is an attempt at the transaction of this key. `is_checked`: another attempt may have been committed."""
        self._id = f"transaction/{key}"
        self._is_checked = is_checked
        self._fingerprint = self._fingerprint_of(payload)

    def _fingerprint_of(self, payload: object) -> bytes:
        arguments = to_json(payload, fallback=lambda value: type(value).__qualname__)
        return fingerprint(self.name.encode(), arguments, *(str(t.entity_id).encode() for t in self._ordered))

    async def __aenter__(self) -> T:
        """Hold the entities. Raises InvalidTransaction, TransactionTimeout, AlreadyCommitted, or what keeps an entity
        from being loaded; then nothing is held and nothing was changed.
        """
        self._check_place()
        self._caller = ambient()
        self._is_entered = True
        self._deadline = asyncio.get_running_loop().time() + self._timeout_s
        try:
            for target in self._ordered:
                self._held[target.entity_id] = Participant(target, await self._hold(target.entity_id))
            if self._is_checked:
                await self._check_record()
        except BaseException:
            await self._release(is_aborted=True)
            raise
        self._block = BlockContext([self._held[target.entity_id] for target in self._targets])
        self._token = current.set(self._block)
        self._scope = asyncio.timeout(max(0.0, self._deadline - asyncio.get_running_loop().time()))
        await self._scope.__aenter__()
        return cast("T", tuple(self._held[target.entity_id].instance for target in self._targets))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Commit, or if the block raised let everything be as it was.

        Raises TransactionConflict, TransactionTimeout, StateNotSerialisable, Unavailable: nothing was changed; and
        OutcomeUnknown.
        """
        current.reset(self._token)
        self._block.close()
        is_aborted = True
        try:
            await self._leave_scope(kind, error, trace)
            if error is None:
                commit = self._commit_message([self._held[t.entity_id].part() for t in self._ordered])
                is_aborted = False
                await self._commit(commit)
        except OutcomeUnknown:
            raise
        except PerdureError:
            is_aborted = True
            raise
        finally:
            await self._release(is_aborted=is_aborted)

    async def _leave_scope(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._scope.__aexit__(kind, error, trace)
        except TimeoutError as late:
            raise TransactionTimeout(
                f"transaction over {self._names()}: its block took longer than {self._timeout_s:g} s; nothing was "
                "changed"
            ) from late

    def _check_place(self) -> None:
        turn = current.get()
        if turn is not None:
            raise InvalidTransaction(
                f"{turn.entity}: a {turn.mode} cannot run a transaction, because it holds its entity itself or is run "
                "again after a crash. In a workflow, run it in an @activity, with "
                "idempotency_key=activity_info().idempotency_key"
            )
        if self._is_entered:
            raise InvalidTransaction(f"transaction over {self._names()}: enter it once; make a new one")

    def _names(self) -> str:
        return ", ".join(str(target.entity_id) for target in self._ordered[:5])

    async def _hold(self, entity: EntityId) -> Held:
        left_s = self._deadline - asyncio.get_running_loop().time()
        self._asked.append(entity)
        request = Hold(self._attempt, left_s + COMMIT_MARGIN_S)
        try:
            reply = await self._request(entity, Step.HOLD, encode(request), timeout_s=max(0.01, left_s))
        except OutcomeUnknown as late:
            raise TransactionTimeout(
                f"transaction over {self._names()}: {entity} was not free within {self._timeout_s:g} s; nothing was "
                "changed"
            ) from late
        return decode(reply.body, Held)

    async def _check_record(self) -> None:
        reply = await self._request(
            self._first, Step.OUTCOME, encode(self._commit_message([])), timeout_s=self._caller.default_timeout_s
        )
        recorded = decode(reply.body, Recorded)
        if recorded.is_committed:
            self.result = recorded.result
            raise AlreadyCommitted(
                f"transaction over {self._names()}: it was committed before ({self._id}); nothing is left to do"
            )

    def _commit_message(self, parts: list[Part]) -> Commit:
        return Commit(self._id, self.name, self._fingerprint, self.result, self._caller.session, self._first, parts)

    async def _commit(self, commit: Commit) -> None:
        try:
            reply = await self._request(
                self._first, Step.COMMIT, encode(commit), timeout_s=self._caller.default_timeout_s
            )
        except OutcomeUnknown as unknown:
            raise OutcomeUnknown(
                f"transaction over {self._names()}: no answer to its commit; it may or may not have been applied. "
                "Run it again with the same idempotency key to learn which"
            ) from unknown
        self.result = decode(reply.body, Recorded).result

    async def _release(self, *, is_aborted: bool) -> None:
        """Let the entities go. If that gets lost their holds expire."""
        body = encode(Release(self._attempt, is_aborted))
        await asyncio.gather(
            *(self._request(entity, Step.RELEASE, body, timeout_s=RELEASE_S) for entity in self._asked),
            return_exceptions=True,
        )

    async def _request(self, entity: EntityId, step: Step, body: bytes, *, timeout_s: float) -> Reply:
        envelope = Envelope(
            id=f"{self._attempt}:{step}",
            type=entity.type,
            key=entity.key,
            kind=Kind.TRANSACTION,
            name=step,
            args=body,
            sender=self._caller.session,
            position=reserve_position(),
            timeout_us=round(timeout_s * 1e6),
        )
        return check_reply(await deliver(self._caller, envelope, timeout_s=timeout_s), envelope)


def _targets(refs: Iterable[Any]) -> list[Target]:
    targets: list[Target] = []
    for ref in refs:
        if not isinstance(ref, Target):
            raise InvalidTransaction(f"a transaction is over refs such as Account.ref('a'), not {ref!r}")
        if ref in targets:
            raise InvalidTransaction(f"{ref.entity_id} is in the transaction twice; name each entity once")
        if entity_class(ref).perdure_.hosting is not None:
            raise InvalidTransaction(
                f"{ref.entity_id} has `hosting=Dedicated(...)`; transactions over it are not possible"
            )
        targets.append(ref)
    if not 1 <= len(targets) <= ENTITIES_MAX:
        raise InvalidTransaction(f"a transaction is over 1 to {ENTITIES_MAX} entities, not {len(targets)}")
    return targets


@overload
def transaction(
    first: E1, /, *, timeout: timedelta | float = ..., idempotency_key: str = ...
) -> Transaction[tuple[E1]]: ...
@overload
def transaction(
    first: E1, second: E2, /, *, timeout: timedelta | float = ..., idempotency_key: str = ...
) -> Transaction[tuple[E1, E2]]: ...
@overload
def transaction(
    first: E1, second: E2, third: E3, /, *, timeout: timedelta | float = ..., idempotency_key: str = ...
) -> Transaction[tuple[E1, E2, E3]]: ...
@overload
def transaction(
    first: E1, second: E2, third: E3, fourth: E4, /, *, timeout: timedelta | float = ..., idempotency_key: str = ...
) -> Transaction[tuple[E1, E2, E3, E4]]: ...
@overload
def transaction(
    *refs: E1, timeout: timedelta | float = ..., idempotency_key: str = ...
) -> Transaction[tuple[E1, ...]]: ...
def transaction(
    *refs: Any, timeout: timedelta | float = DEFAULT_TIMEOUT, idempotency_key: str = ""
) -> Transaction[Any]:
    """Change several entities together.

    `async with transaction(Account.ref("a"), Account.ref("b")) as (a, b): ...`

    Inside the block a and b are ordinary instances with their committed state; change fields, await their handlers,
    `.send` to anybody. Nobody else changes them meanwhile, and their queries wait. At the end of the block everything
    is committed at once; if the block raises, nothing is.

    timeout: for getting the entities and running the block, together (seconds or timedelta, at most 50 s).
    idempotency_key: entering again with the key of a committed transaction raises AlreadyCommitted.
    Raises InvalidTransaction at once; see `Transaction.__aenter__` and `__aexit__` for the rest. For a block that may
    be run again by itself use `run_transaction` or `@atomic`.
    """
    return Transaction(refs, timeout=timeout, idempotency_key=idempotency_key)


async def run_transaction(
    fn: Callable[[*Es], Coroutine[Any, Any, R]],
    *refs: *Es,
    timeout: timedelta | float = DEFAULT_TIMEOUT,
    idempotency_key: str = "",
) -> R:
    """Run `fn(a, b, ...)` on the entities of `refs` in a transaction; again if that conflicts. Returns its result.

    The result must be JSON by its return annotation: with an idempotency key, a repeat returns the first result and
    does not run `fn`. `fn` may run several times; only one of its runs has an effect on the entities.
    Raises what `fn` raises, and as `transaction`; TransactionConflict only after many attempts; OutcomeUnknown only if
    the outcome cannot be learned either.
    """
    run: Callable[..., Coroutine[Any, Any, R]] = fn
    return await _run(fn, refs, {}, lambda entities: run(*entities), timeout=timeout, idempotency_key=idempotency_key)


async def _run(
    fn: Callable[..., Any],
    refs: Iterable[Any],
    payload: object,
    call: Callable[[tuple[Any, ...]], Coroutine[Any, Any, R]],
    *,
    timeout: timedelta | float,
    idempotency_key: str,
) -> R:
    refs = tuple(refs)
    result_type = TypeAdapter[Any](get_type_hints(fn).get("return", Any))
    key = idempotency_key or new_message_id()
    unknown: OutcomeUnknown | None = None
    for attempt in range(1, ATTEMPTS_MAX + 1):
        this = Transaction[Any](refs, timeout=timeout, idempotency_key="", name=getattr(fn, "__qualname__", ""))
        this.identify(key, payload, is_checked=bool(idempotency_key) or unknown is not None)
        try:
            async with this as entities:
                result = await call(entities)
                this.result = result_type.dump_json(result)
        except AlreadyCommitted:
            return cast("R", result_type.validate_json(this.result))
        except OutcomeUnknown as problem:
            unknown = problem
            if attempt >= 3:
                raise
        except TransactionConflict as conflict:
            if conflict.details.get("is_final") or attempt == ATTEMPTS_MAX:
                raise
        except PerdureError:
            if unknown is not None:
                raise unknown from None
            raise
        else:
            # Another caller with the same key may have been first: its result is the one.
            return cast("R", result_type.validate_json(this.result)) if idempotency_key else result
        await asyncio.sleep(random.uniform(0.5, 1.0) * min(0.5, 0.01 * 2**attempt))  # noqa: S311 - spreads the load
    raise AssertionError("unreachable")


class Atomic(Generic[P, R]):
    """A function that runs in a transaction over the entities among its arguments."""

    def __init__(
        self, fn: Callable[P, Coroutine[Any, Any, R]], timeout: timedelta | float, idempotency_key: str = ""
    ) -> None:
        self.fn = fn
        self._timeout = timeout
        self._key = idempotency_key
        self.__doc__ = fn.__doc__
        self.__name__ = getattr(fn, "__name__", "")
        self.__wrapped__ = fn

    def options(self, *, timeout: timedelta | float | None = None, idempotency_key: str = "") -> "Atomic[P, R]":
        """The same function with options for this use (see `run_transaction`)."""
        return Atomic(self.fn, self._timeout if timeout is None else timeout, idempotency_key)

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it. Arguments that are refs arrive as instances. On instances only it is the plain function."""
        given = [*args, *kwargs.values()]
        refs = [value for value in given if isinstance(value, Target)]
        if not refs and any(isinstance(value, Entity) for value in given):
            return await self.fn(*args, **kwargs)
        payload = [value for value in given if not isinstance(value, Target)]
        run: Callable[..., Coroutine[Any, Any, R]] = self.fn

        async def call(entities: tuple[Any, ...]) -> R:
            instances = dict(zip(refs, entities, strict=True))

            def of(value: Any) -> Any:
                return instances[value] if isinstance(value, Target) else value

            return await run(*map(of, args), **{name: of(value) for name, value in kwargs.items()})

        return await _run(self.fn, refs, payload, call, timeout=self._timeout, idempotency_key=self._key)


def atomic(fn: Callable[P, Coroutine[Any, Any, R]], /) -> Atomic[P, R]:
    """Declare a function over several entities that is one transaction; called with refs, written for instances.

    ```python
    @atomic
    async def transfer(source: Account, target: Account, amount: int) -> None:
        await source.withdraw(amount)
        await target.deposit(amount)

    await transfer(Account.ref("a"), Account.ref("b"), 10)
    await transfer.options(idempotency_key="order-7")(Account.ref("a"), Account.ref("b"), 10)
    ```

    It may run several times; only one of its runs has an effect on the entities. See `run_transaction`.
    """
    return Atomic(fn, DEFAULT_TIMEOUT)
