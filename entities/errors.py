"""The one error tree, sorted by what the caller should do.

* `Rejected`: the input is wrong; never retry. Nothing was acknowledged and nothing was changed.
* `Unavailable`: nothing was applied; retry later. `OutcomeUnknown`: it may or may not have been applied; retry with
  the same idempotency key to learn which.
* `Conflict`: clashes with something that exists (another payload under the same key, a live run).
* `HandlerFailed` / `WorkflowFailed` / `ActivityFailed`: user code raised; its state changes did not happen (handler)
  or are kept as it left them (workflow; docs/decisions/0003).
* `DefinitionError`: a class is written wrongly; raised at import with file, line and the fix.
* `Stop` is a `BaseException`: user code cannot swallow it.

Errors cross processes as `ErrorBody` values (a code, a message, details), never as pickles. Each class carries a
stable `code`; `ERRORS` maps codes back to classes, so a caller catches the class that the other side raised.
"""

import builtins
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, ClassVar, Self

import msgspec


class ErrorBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error as it is stored and sent: plain JSON."""

    code: str
    message: str
    type: str = ""
    """Name of the user's exception class, where user code raised it."""
    details: dict[str, Any] = {}
    """Anything machine-readable: limits, fields, chains."""
    non_retryable: bool = False
    cause: "ErrorBody | None" = None
    retry_after_s: float | None = None
    """When the next attempt is to be made, if whoever raised it says so."""
    traceback: str = ""
    """Where it was raised, for people (see traces.py): of failed attempts, of activities that failed for good, and in
    dead letters. No exception is made with it: code sees the same error live and in a replay."""


ERRORS: "dict[str, type[PerdureError]]" = {}


class PerdureError(Exception):
    """Anything that Perdure raises on purpose. `code` is stable; `details` is JSON."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str = "", /, **details: Any) -> None:
        super().__init__(message or (type(self).__doc__ or "").split("\n")[0])
        self.details = details

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "code" in cls.__dict__:
            known = ERRORS.setdefault(cls.code, cls)
            if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
                owner = f"{known.__module__}.{known.__qualname__}"
                raise TypeError(f"{cls.__qualname__}: the error code {cls.code!r} belongs to {owner}; choose another")
            ERRORS[cls.code] = cls

    @property
    def message(self) -> str:
        """What happened, to which entity, what to do."""
        return str(self.args[0]) if self.args else ""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.details)

    def body(self) -> ErrorBody:
        """This error as a value to store or send."""
        return ErrorBody(self.code, self.message, details=self.details, cause=_cause_body(self))

    @classmethod
    def from_body(cls, body: ErrorBody) -> Self:
        """Rebuild the error that `body` describes."""
        return cls(body.message, **body.details)


def _rebuild(cls: type[PerdureError], message: str, details: dict[str, Any]) -> PerdureError:
    return cls(message, **details)


def _cause_body(error: BaseException) -> ErrorBody | None:
    cause = error.__cause__
    return error_body(cause) if isinstance(cause, Exception) else None


# --- Rejected: never retry -------------------------------------------------------------------------------------------


class Rejected(PerdureError):
    """The request is wrong and was refused before anything was acknowledged; do not retry it unchanged."""

    code = "rejected"


class InvalidKey(Rejected):
    """The entity key is empty, too long, or holds characters that cannot be stored."""

    code = "bad_key"


class UnknownType(Rejected):
    """No entity class of this name is served here."""

    code = "unknown_type"


class UnknownHandler(Rejected):
    """The entity class has no handler, query, workflow or mailbox of this name."""

    code = "unknown_handler"


class InvalidArguments(Rejected):
    """The arguments do not fit the handler's signature. `errors` lists field and reason."""

    code = "invalid_argument"


class PayloadTooLarge(Rejected):
    """Arguments, result or state are larger than the limit."""

    code = "payload_too_large"


class InvalidReminder(Rejected):
    """A reminder's name, time or handler is not usable."""

    code = "bad_reminder"


class DurableAwaitInHandler(Rejected):
    """A handler awaited something durable (another entity, an activity, a mailbox); only workflows can."""

    code = "durable_await_in_handler"


class NotInWorkflow(Rejected):
    """The function only works inside a running workflow (or, where it says so, inside a turn)."""

    code = "not_in_workflow"


class NotDurable(Rejected):
    """Workflow code used something that cannot be durable; the message names the alternative."""

    code = "not_durable"


class ReadOnlyViolation(Rejected):
    """A query tried to change state, send, set a reminder or start something. Nothing was changed."""

    code = "read_only"


class StateNotSerialisable(Rejected):
    """The state after the turn cannot be stored, or would not load again. The turn changed nothing."""

    code = "unserialisable_state"


class ResultNotSerialisable(Rejected):
    """The returned value does not fit the declared return type or cannot be written as JSON. Nothing was changed."""

    code = "unserialisable_result"


class NoSuchRun(Rejected):
    """The workflow was never started on this entity."""

    code = "no_such_run"


class NoSuchOperation(Rejected):
    """The run has never asked for this operation, or nothing waits under this token."""

    code = "no_such_operation"


class NoSuchEntity(Rejected):
    """Nothing has been committed for this address yet."""

    code = "no_such_entity"


class NoSuchLetter(Rejected):
    """There is no such dead letter (any more): it was replayed or discarded, or never was one."""

    code = "no_such_letter"


class VersionNotRetained(Rejected):
    """The state of this version is not kept: too old, too large, or kept off by the class."""

    code = "version_not_retained"


class CallCycle(Rejected):
    """The call would wait for itself. The message names the chain."""

    code = "call_cycle"


class InvalidTransaction(Rejected):
    """A transaction over these entities, or at this place, is not possible."""

    code = "bad_transaction"


class InvalidStatement(Rejected):
    """A staged statement, or its values, cannot be executed; or it was staged where there is no turn."""

    code = "bad_statement"


# --- Conflict ---------------------------------------------------------------------------------------------------------


class Conflict(PerdureError):
    """The request clashes with something that already exists. Nothing was changed."""

    code = "conflict"


class IdempotencyMismatch(Conflict):
    """The idempotency key was used before with another payload."""

    code = "idempotency_mismatch"


class AlreadyStarted(Conflict):
    """The workflow was started before with other arguments."""

    code = "already_started"


class TransactionConflict(Conflict):
    """An entity of the transaction was changed or moved meanwhile. Nothing was changed; run the transaction again."""

    code = "transaction_conflict"


class AlreadyCommitted(Conflict):
    """The transaction of this idempotency key was committed before: there is nothing left to do."""

    code = "already_committed"


class VersionConflict(Conflict):
    """The entity is at another version than the one that was expected. Nothing was changed; look again."""

    code = "version_conflict"


class EntityExists(Conflict):
    """The address that was to be created is in use."""

    code = "entity_exists"


class RunEnded(Conflict):
    """The run has reached a terminal state; what was sent to it cannot be applied any more."""

    code = "run_ended"


class RunParked(Conflict):
    """The run is parked: its code no longer fits its journal. A fixed deploy resumes it."""

    code = "run_parked"


class OperationSettled(Conflict):
    """The operation has its outcome already, or the run does not wait for it any more. Nothing was changed."""

    code = "operation_settled"


class EntityParked(Conflict):
    """The stored state of this entity cannot be loaded by the current code; its bytes are untouched."""

    code = "entity_parked"


class PayloadUnreadable(EntityParked):
    """What is stored cannot be decoded here: the key is missing, or the row was tampered with. It was not touched."""

    code = "payload_unreadable"


class DamagedRow(Conflict):
    """A stored row is not as it was written. It is left as it is, and nothing was changed."""

    code = "damaged_row"


# --- Unavailable ------------------------------------------------------------------------------------------------------


class Unavailable(PerdureError):
    """Not applied; try again later."""

    code = "unavailable"


class Busy(Unavailable):
    """A bound was reached (mailbox, calls in flight); refused before it was accepted."""

    code = "busy"


class TransactionTimeout(Unavailable):
    """The transaction did not get or keep its entities for long enough. Nothing was changed."""

    code = "transaction_timeout"


class NotConnected(Unavailable):
    """There is no Perdure client in this process or context."""

    code = "not_connected"


class OutcomeUnknown(PerdureError):
    """No answer in time: the request may or may not have been applied. Repeat it with the same idempotency key."""

    code = "outcome_unknown"


class CallTimeout(OutcomeUnknown):
    """The caller's deadline passed before an answer came."""

    code = "timeout"


# --- User code failed -------------------------------------------------------------------------------------------------


class HandlerFailed(PerdureError):
    """The handler raised; nothing that it did happened. `error_type` names the user's exception class."""

    code = "handler_failed"

    @property
    def error_type(self) -> str:
        """Class name of the exception that user code raised."""
        return str(self.details.get("error_type", ""))


class StagedSqlFailed(HandlerFailed):
    """The database refused a statement that the handler staged; the turn changed nothing."""

    code = "staged_sql_failed"


class HandlerTimeout(HandlerFailed):
    """The handler ran longer than its time limit and was cancelled; nothing that it did happened."""

    code = "handler_timeout"


class HostKilled(PerdureError):
    """The message blocked or killed the hosts that ran it and is refused for good; nothing that it did happened."""

    code = "host_killed"


class WorkflowFailed(PerdureError):
    """The workflow raised. `error_type` names the user's exception class."""

    code = "workflow_failed"

    @property
    def error_type(self) -> str:
        """Class name of the exception that user code raised."""
        return str(self.details.get("error_type", ""))


class WorkflowCancelled(WorkflowFailed):
    """The workflow ended because it was cancelled."""

    code = "workflow_cancelled"


class JournalTooLong(WorkflowFailed):
    """The run's journal reached its limit; the run was ended. Use `continue_as_new` long before."""

    code = "journal_too_long"


class WorkflowTerminated(WorkflowFailed):
    """The workflow was terminated by an operator."""

    code = "workflow_terminated"


class ActivityFailed(PerdureError):
    """An activity failed for good: its policy allows no further attempt."""

    code = "activity_failed"


class ActivityTimeout(ActivityFailed):
    """An activity ran out of time (one attempt, all of them together, or it sent no heartbeat)."""

    code = "activity_timeout"


class ActivityHostLost(ActivityFailed):
    """The host died during the attempt, and the policy allows no further one; it may have taken effect."""

    code = "activity_host_lost"


class SagaFailed(PerdureError):
    """A saga failed, and not everything could be undone. `failed` and `unknown` name the steps left; the cause is why
    the saga failed.
    """

    code = "saga_failed"


class ApplicationError(PerdureError):
    """Raise it in your own code: a business failure that callers see by its message and `type`.

    `non_retryable=True` tells retry policies to stop; `retry_after` is the wait before an activity's next attempt, in
    place of its policy's. Extra keyword arguments travel as details (JSON values).
    """

    code = "application_error"

    def __init__(
        self,
        message: str = "",
        /,
        *,
        type: str = "",
        non_retryable: bool = False,
        retry_after: timedelta | None = None,
        **details: Any,
    ) -> None:
        super().__init__(message, **details)
        self.type = type or self.__class__.__name__
        self.non_retryable = non_retryable
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (
            ApplicationError,
            self.message,
            self.details | {"type": self.type, "non_retryable": self.non_retryable, "retry_after": self.retry_after},
        )

    def body(self) -> ErrorBody:
        return ErrorBody(
            self.code,
            self.message,
            self.type,
            self.details,
            self.non_retryable,
            cause=_cause_body(self),
            retry_after_s=None if self.retry_after is None else self.retry_after.total_seconds(),
        )

    @classmethod
    def from_body(cls, body: ErrorBody) -> Self:
        return cls(
            body.message,
            type=body.type,
            non_retryable=body.non_retryable,
            retry_after=_retry_after(body),
            **body.details,
        )


def _retry_after(body: ErrorBody) -> timedelta | None:
    return None if body.retry_after_s is None else timedelta(seconds=body.retry_after_s)


# --- Definition errors ------------------------------------------------------------------------------------------------


class DefinitionError(PerdureError, TypeError):
    """An entity class, handler or activity is written wrongly. The message names file, line and the fix."""

    code = "bad_definition"


# --- Start-up ---------------------------------------------------------------------------------------------------------


class StartRefused(PerdureError):
    """Perdure does not start: the database or the configuration would break its promises."""

    code = "start_refused"


# --- Control flow that user code must not swallow ---------------------------------------------------------------------


class Stop(BaseException):
    """Base of signals from the engine to the code it runs."""


class ContinueAsNew(Stop):
    """Raised by `continue_as_new`: ends the run's journal; the run begins again with these arguments (JSON)."""

    def __init__(self, args: bytes) -> None:
        super().__init__("this run begins again with new arguments")
        self.arguments = args


class RunEvicted(Stop):
    """This run is leaving memory: the operation has no effect and will be repeated by the run's next activation."""


class CompleteLater(Stop):
    """Raise it in an activity: its result comes from outside, by `activity_info().token`."""


def error_body(error: BaseException) -> ErrorBody:
    """Any exception as a value: Perdure's own by code, a user's exception by class name and text."""
    if isinstance(error, PerdureError):
        return error.body()
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a broken __str__ must not hide that something failed
        text = "<the exception's __str__ raised>"
    text = text[:8_000].encode(errors="replace").decode().replace("\x00", "\N{REPLACEMENT CHARACTER}")
    return ErrorBody("user_error", text, type=type(error).__name__, cause=_cause_body(error))


def error_from_body(body: ErrorBody) -> PerdureError:
    """The exception to raise for a stored or received error."""
    if body.code == "user_error":
        error: PerdureError = ApplicationError(body.message or body.type, type=body.type)
    else:
        error = ERRORS.get(body.code, PerdureError).from_body(body)
    if body.cause is not None:
        error.__cause__ = error_from_body(body.cause)
    return error


def user_error(body: ErrorBody, namespaces: Iterable[Mapping[str, Any]]) -> Exception | None:
    """The exception of a user's own class that `body` tells of, so that `except CardDeclined` works across a journal.

    The class is looked up by name in `namespaces` (globals of the code that raises and of the code that catches) and
    among the built-in exceptions; nothing is imported. None if it is none of those, or not a user's exception.
    Its `__init__` is not run: its text is its only argument.
    """
    if body.code not in ("user_error", ApplicationError.code) or body.type == ApplicationError.__name__:
        return None
    for namespace in (*namespaces, vars(builtins)):
        cls = namespace.get(body.type)
        if isinstance(cls, type) and issubclass(cls, Exception):
            try:
                error = cls.__new__(cls, body.message)
            except Exception:  # noqa: BLE001 - a class that needs more than a text: ExceptionGroup, users' own
                return None
            if isinstance(error, ApplicationError):
                ApplicationError.__init__(
                    error,
                    body.message,
                    type=body.type,
                    non_retryable=body.non_retryable,
                    retry_after=_retry_after(body),
                    **body.details,
                )
            elif isinstance(error, PerdureError):
                return None
            else:
                error.args = (body.message,)
            if body.cause is not None:
                error.__cause__ = error_from_body(body.cause)
            return error
    return None
