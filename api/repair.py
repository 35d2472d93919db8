"""What people do to workflow runs over HTTP: bodies, checked, and the message that each becomes.

`run` (workflow)   GET /{key}/run/operations; POST /{key}/run/pause, resume, retry, complete, fail, restart, rerun
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import msgspec
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..entities.descriptors import Method
from ..entities.errors import ApplicationError, InvalidArguments
from ..entities.messages import encode_json
from ..entities.operate import TEXT_CHARS_MAX, Act, dump_value, outside_error
from ..entities.operate import Action as ActKind
from ..entities.signature import validation_problems
from .operations import Action

B = TypeVar("B", bound=BaseModel)


class Why(BaseModel):
    """Who does it, and why: kept in the history. A credential's subject takes the place of `operator`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    reason: str = Field(default="", max_length=TEXT_CHARS_MAX)
    operator: str = Field(default="", max_length=TEXT_CHARS_MAX)


class OperationChoice(Why):
    """Which operation: its number, as `operations` lists it."""

    operation: int = Field(ge=0)


class Completion(OperationChoice):
    """The result of an activity: must fit its declared type."""

    value: Any = None


class FailedAttempt(BaseModel):
    """An error from outside."""

    model_config = ConfigDict(extra="forbid", strict=True)

    message: str
    type: str = ""
    non_retryable: bool = False
    retry_after_s: float | None = Field(default=None, ge=0, le=366 * 86_400, allow_inf_nan=False)
    """The wait before the next attempt, in place of the policy's."""
    details: dict[str, Any] = {}

    def error(self) -> ApplicationError:
        """As the activity would have raised it."""
        names = ("type", "non_retryable", "retry_after")
        details = {name: value for name, value in self.details.items() if name not in names}
        retry_after = None if self.retry_after_s is None else timedelta(seconds=self.retry_after_s)
        return ApplicationError(
            self.message, type=self.type, non_retryable=self.non_retryable, retry_after=retry_after, **details
        )


class Failure(OperationChoice):
    """The error that the activity fails with, for good."""

    error: FailedAttempt


class Restart(Why):
    """The arguments of the new run; none: those of the last one."""

    arguments: dict[str, Any] | None = None


class Rerun(Why):
    """Where the new run goes on: number or name of an operation of the ended one; none: from the beginning."""

    from_operation: int | str | None = None
    keep_state: bool = False


class Applied(BaseModel):
    """It is done, and durable."""

    applied: bool
    idempotency_key: str


BODIES: dict[Action, type[Why]] = {
    Action.PAUSE: Why,
    Action.RESUME: Why,
    Action.RETRY: OperationChoice,
    Action.COMPLETE: Completion,
    Action.FAIL: Failure,
    Action.RESTART: Restart,
    Action.RERUN: Rerun,
}
"""What each action takes as its body."""


def needs_body(action: Action) -> bool:
    """Whether an empty body cannot do."""
    return any(field.is_required() for field in BODIES[action].model_fields.values())


def act_from(action: Action, method: Method[Any, Any], body: bytes, operator: Callable[[str], str]) -> bytes:
    """The arguments of the message. `operator`: from who the body says it is to who it is.

    Raises InvalidArguments, PayloadTooLarge.
    """
    asked = read_body(BODIES[action], body)
    more: dict[str, Any] = {}
    match asked:
        case Completion():
            more = {"operation": asked.operation, "value": msgspec.Raw(dump_value(asked.value))}
        case Failure():
            more = {"operation": asked.operation, "error": outside_error(asked.error.error())}
        case OperationChoice():
            more = {"operation": asked.operation}
        case Restart() if asked.arguments is not None:
            arguments = method.signature.load_arguments(encode_json(asked.arguments), is_foreign=True)
            more = {"value": msgspec.Raw(method.signature.dump_arguments((), arguments))}
        case Rerun():
            more = {"operation": asked.from_operation, "keep_state": asked.keep_state}
        case _:
            pass
    return encode_json(Act(ActKind(action.value), operator=operator(asked.operator), reason=asked.reason, **more))


def read_body(model: type[B], body: bytes) -> B:
    """Raises InvalidArguments, naming the fields."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        problems = validation_problems(error)
        text = "; ".join(f"{found['field'] or 'body'}: {found['message']}" for found in problems)
        raise InvalidArguments(f"the body does not fit: {text}", errors=problems) from None
