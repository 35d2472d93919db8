"""Options and arguments that the verbs share, and how arguments for handlers are written."""

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from ..exits import Exit
from ..failures import Failure
from .output import Format

Url = Annotated[str, typer.Option("--url", help="The gateway; PERDURE_URL, else http://127.0.0.1:8000.")]
Output = Annotated[Format, typer.Option("--output", "-o", help="How to print.")]
Address = Annotated[str, typer.Argument(help="Type/key, for example Order/order-42.", show_default=False)]
Member = Annotated[str, typer.Argument(help="Handler, query, workflow or mailbox.", show_default=False)]
Values = Annotated[
    list[str] | None,
    typer.Argument(
        help="name=value … The value is JSON, or else text: amount=12 who=Ada tags='[1,2]'.", show_default=False
    ),
]
Json = Annotated[str, typer.Option("--json", help="All arguments as one JSON text instead.")]
Key = Annotated[str, typer.Option("--idempotency-key", help="Repeats with this key get the first outcome.")]
Wait = Annotated[float, typer.Option("--timeout", min=0, help="Seconds to wait for the answer.")]
Reason = Annotated[str, typer.Option("--reason", help="Why: kept in the history.")]
Operator = Annotated[str, typer.Option("--operator", help="Who, if the gateway does not know you by your key.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def value_of(text: str) -> Any:
    """JSON if it is that, else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def arguments_of(values: Sequence[str] | None, whole: str) -> Any:
    """Arguments as written on the command line. Raises Failure."""
    if whole:
        if values:
            raise Failure("bad_arguments", "give either name=value or --json, not both", Exit.USAGE)
        try:
            return json.loads(whole)
        except ValueError as error:
            raise Failure("bad_arguments", f"--json is not JSON: {error}", Exit.USAGE) from None
    found: dict[str, Any] = {}
    for value in values or ():
        name, equals, text = value.partition("=")
        if not equals or not name:
            raise Failure("bad_arguments", f"{value!r} is not name=value (or use --json)", Exit.USAGE)
        if name in found:
            raise Failure("bad_arguments", f"`{name}` is given twice", Exit.USAGE)
        found[name] = value_of(text)
    return found


def why(reason: str, operator: str, **more: Any) -> dict[str, Any]:
    """The body of an operator's action; what is None or empty is left out."""
    given = {"reason": reason, "operator": operator, **more}
    return {name: value for name, value in given.items() if value not in (None, "")}


def confirm(what: str, *, yes: bool) -> None:
    """Ask a person; refuse where there is none to ask."""
    if yes:
        return
    if not typer.get_text_stream("stdin").isatty():
        raise Failure("not_confirmed", f"{what}: say --yes where nobody can be asked", Exit.USAGE)
    if not typer.confirm(f"{what}?", err=True):
        raise Failure("not_confirmed", "nothing was done", Exit.USAGE)
