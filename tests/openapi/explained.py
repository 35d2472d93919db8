"""Findings of Schemathesis that are no faults, each with its reason. Whatever is not here fails the examination."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """An answer that a check of Schemathesis objects to."""

    operation: str
    check: str
    message: str
    case: Any
    request: str
    status: int
    problem: dict[str, Any]


@dataclass(frozen=True)
class Explained:
    """A kind of finding, and why it is none."""

    name: str
    check: str
    is_it: Callable[[Answer], bool]
    reason: str

    def covers(self, answer: Answer) -> bool:
        """Whether this explains it."""
        return answer.check == self.check and self.is_it(answer)


def _refused_with(*codes: str) -> Callable[[Answer], bool]:
    return lambda answer: answer.problem.get("code") in codes


def _only(message: str) -> Callable[[Answer], bool]:
    def is_it(answer: Answer) -> bool:
        errors = answer.problem.get("errors") or [{}]
        return all(message in str(error.get("message")) for error in errors)

    return is_it


EXPLAINED: tuple[Explained, ...] = (
    Explained(
        "NUL in a string",
        "positive_data_acceptance",
        _refused_with("nul_not_allowed"),
        "Postgres cannot store U+0000 in jsonb. JSON Schema could say so only by a pattern on every string of every "
        "user's model.",
    ),
    Explained(
        "a delay without respond-async",
        "positive_data_acceptance",
        _refused_with("bad_preference"),
        "`delay` makes sense for one-way messages only. OpenAPI cannot say that a parameter needs a header's value.",
    ),
    Explained(
        "a key without a type",
        "positive_data_acceptance",
        _only("`key` needs a `type`"),
        "OpenAPI cannot say that one parameter needs another.",
    ),
    Explained(
        "a cursor that nobody gave out",
        "positive_data_acceptance",
        _refused_with("bad_cursor"),
        "Only the gateway makes cursors; a schema knows no more than that they are text.",
    ),
    Explained(
        "the application says no",
        "positive_data_acceptance",
        _refused_with("application_error", "workflow_failed"),
        "What a handler or a workflow raises on purpose is 422, documented as a problem; the examined class has such "
        "a handler.",
    ),
    Explained(
        "no answer in time",
        "not_a_server_error",
        _refused_with("timeout"),
        "The caller said how long it waits (`timeout=0` is a quarter of a second), and runs that wait are asked. 504 "
        "is the documented answer: the outcome is unknown.",
    ),
    Explained(
        "no answer in time, for a request that fits",
        "positive_data_acceptance",
        _refused_with("timeout"),
        "As above.",
    ),
    Explained(
        "a result that does not fit the activity of a token, or of an operation",
        "positive_data_acceptance",
        lambda answer: answer.operation.endswith("/complete") and _refused_with("invalid_argument")(answer),
        "Which result fits depends on the activity, which only the token or the operation's number tells.",
    ),
    Explained(
        "fields that the type of the path does not have",
        "positive_data_acceptance",
        lambda answer: answer.operation.endswith("/-/edit") and _refused_with("invalid_argument")(answer),
        "One route serves all types; which fields there are depends on the type in its path.",
    ),
    Explained(
        "a document that is no export of the type asked for",
        "positive_data_acceptance",
        lambda answer: answer.operation.endswith(" /replay") and _refused_with("invalid_argument")(answer),
        "The format of exports is described in words (entities/export.py): its rows are those of the store.",
    ),
    Explained(
        "a key with control characters in a route of the application",
        "positive_data_acceptance",
        lambda answer: "{order_id}" in answer.operation and _refused_with("bad_key")(answer),
        "The example's own route declares a plain `str`, as users' routes will.",
    ),
    Explained(
        "5.0 for an integer",
        "positive_data_acceptance",
        _only("Input should be a valid integer"),
        "JSON Schema calls 5.0 an integer. Arguments are validated strictly: who sends a float where an int is "
        "declared most likely did not mean to.",
    ),
)
