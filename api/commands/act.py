"""Verbs that do something: calls, messages, and an operator's repairs. Each is one request, done once or not at all."""

from typing import Annotated, Any

import typer

from .gateway import Gateway, entity_path
from .options import (
    Address,
    Json,
    Key,
    Member,
    Operator,
    Output,
    Reason,
    Url,
    Values,
    Wait,
    Yes,
    arguments_of,
    confirm,
    value_of,
    why,
)
from .output import Format, show

Workflow = Annotated[str, typer.Argument(help="The workflow's name.", show_default=False)]
Number = Annotated[
    int, typer.Argument(min=0, help="The operation, as `perdure operations` lists it.", show_default=False)
]


def call(
    address: Address,
    member: Member,
    values: Values = None,
    *,
    whole: Json = "",
    idempotency_key: Key = "",
    timeout: Wait = 30.0,
    url: Url = "",
    output: Output = Format.TABLE,
) -> None:
    """Call a handler and print its result; for a mailbox: put an item.

    Example: perdure call Account/ada deposit amount=12
    """
    body = arguments_of(values, whole)
    with Gateway(url, timeout_s=timeout) as gateway:
        path = entity_path(address, member)
        show(gateway.post(path, body, idempotency_key=idempotency_key, prefer=f"wait={timeout:g}"), output)


def send(
    address: Address,
    member: Member,
    values: Values = None,
    *,
    whole: Json = "",
    idempotency_key: Key = "",
    url: Url = "",
) -> None:
    """Send a message to a handler or mailbox; returns once it is durable.

    Example: perdure send Order/order-42 pick_up
    """
    body = arguments_of(values, whole)
    with Gateway(url) as gateway:
        gateway.post(entity_path(address, member), body, idempotency_key=idempotency_key, prefer="respond-async")
    typer.echo(f"accepted: {address} {member}")


def start(
    address: Address,
    workflow: Workflow,
    values: Values = None,
    *,
    whole: Json = "",
    wait: Annotated[bool, typer.Option("--wait", help="Wait for its result.")] = False,
    timeout: Wait = 30.0,
    url: Url = "",
    output: Output = Format.TABLE,
) -> None:
    """Start a workflow. Starting it again with equal arguments is the same run.

    Example: perdure start Order/order-42 run product_id=3 --wait
    """
    body = arguments_of(values, whole)
    with Gateway(url, timeout_s=timeout) as gateway:
        started = gateway.post(entity_path(address, workflow, "start"), body)
        show(_result(gateway, address, workflow, timeout) if wait else started, output)


def result(
    address: Address, workflow: Workflow, *, timeout: Wait = 30.0, url: Url = "", output: Output = Format.TABLE
) -> None:
    """Wait for the result of a workflow; exit code 7 if it is still running then.

    Example: perdure result Order/order-42 run --timeout 60
    """
    with Gateway(url, timeout_s=timeout) as gateway:
        show(_result(gateway, address, workflow, timeout), output)


def _result(gateway: Gateway, address: str, workflow: str, timeout: float) -> Any:
    return gateway.get(entity_path(address, workflow, "result"), timeout=f"{timeout:g}")


def _do(verb: str, address: str, workflow: str, url: str, body: dict[str, Any]) -> None:
    with Gateway(url) as gateway:
        gateway.post(entity_path(address, workflow, verb), body)
    typer.echo(f"{verb}: {address} {workflow}")


def pause(address: Address, workflow: Workflow, *, reason: Reason = "", operator: Operator = "", url: Url = "") -> None:
    """Let a workflow rest: it executes nothing until `resume`; messages and results are kept for it.

    Example: perdure pause Order/order-42 run --reason "bank is down"
    """
    _do("pause", address, workflow, url, why(reason, operator))


def resume(
    address: Address, workflow: Workflow, *, reason: Reason = "", operator: Operator = "", url: Url = ""
) -> None:
    """Let a paused or parked workflow go on.

    Example: perdure resume Order/order-42 run
    """
    _do("resume", address, workflow, url, why(reason, operator))


def retry(
    address: Address,
    workflow: Workflow,
    operation: Number,
    *,
    reason: Reason = "",
    operator: Operator = "",
    url: Url = "",
) -> None:
    """Try an activity again now that waits for its next attempt or for a person.

    Example: perdure retry Order/order-42 run 3 --reason "fixed the address"
    """
    _do("retry", address, workflow, url, why(reason, operator, operation=operation))


def complete(
    address: Address,
    workflow: Workflow,
    operation: Number,
    value: Annotated[str, typer.Argument(help="JSON, or else text.")] = "null",
    *,
    reason: Reason = "",
    operator: Operator = "",
    url: Url = "",
) -> None:
    """Give a waiting activity its result, in place of an attempt.

    Example: perdure complete Order/order-42 run 3 '"pay-77"'
    """
    body = why(reason, operator, operation=operation) | {"value": value_of(value)}
    _do("complete", address, workflow, url, body)


def fail(
    address: Address,
    workflow: Workflow,
    operation: Number,
    message: Annotated[str, typer.Argument(help="The error.", show_default=False)],
    *,
    reason: Reason = "",
    operator: Operator = "",
    url: Url = "",
) -> None:
    """Give up a waiting activity: the workflow gets this error.

    Example: perdure fail Order/order-42 run 3 "card was stolen"
    """
    _do("fail", address, workflow, url, why(reason, operator, operation=operation) | {"error": {"message": message}})


def cancel(address: Address, workflow: Workflow, *, url: Url = "", yes: Yes = False) -> None:
    """Ask a workflow to end; it may clean up first.

    Example: perdure cancel Order/order-42 run --yes
    """
    confirm(f"cancel {workflow} of {address}", yes=yes)
    _do("cancel", address, workflow, url, {})


def terminate(address: Address, workflow: Workflow, *, reason: Reason = "", url: Url = "", yes: Yes = False) -> None:
    """End a workflow without running any more of its code.

    Example: perdure terminate Order/order-42 run --yes --reason "duplicate"
    """
    confirm(f"terminate {workflow} of {address}", yes=yes)
    _do("terminate", address, workflow, url, why(reason, ""))


def edit(
    address: Address,
    values: Values = None,
    *,
    expect: Annotated[int | None, typer.Option("--expect", min=0, help="Only if this is still the version.")] = None,
    reason: Reason = "",
    operator: Operator = "",
    url: Url = "",
    yes: Yes = False,
) -> None:
    """Give fields of the state new values, checked by the class; one turn, kept in the history.

    Example: perdure edit Order/order-42 status=Paid --expect 7 --reason "paid by phone"
    """
    fields = arguments_of(values, "")
    with Gateway(url) as gateway:
        version = expect
        if version is None:
            version = gateway.get(entity_path(address, "-", "history"), limit=1, newest_first=True)["version"]
        confirm(f"set {', '.join(fields)} of {address} (version {version})", yes=yes)
        body = why(reason, operator) | {"fields": fields, "expected_version": version}
        done = gateway.post(entity_path(address, "-", "edit"), body)
    typer.echo(f"edited: {address} is at version {done['version']}")


def fork(
    address: Address,
    new_key: Annotated[str, typer.Argument(help="Key of the new entity.", show_default=False)],
    *,
    at: Annotated[int | None, typer.Option("--at", min=0, help="From this version; else the present one.")] = None,
    reason: Reason = "",
    operator: Operator = "",
    url: Url = "",
) -> None:
    """Make a new entity with the state that this one had.

    Example: perdure fork Order/order-42 order-42-copy --at 7
    """
    body = why(reason, operator) | {"new_key": new_key, "version": at}
    with Gateway(url) as gateway:
        made = gateway.post(entity_path(address, "-", "fork"), body)
    typer.echo(f"forked: {made['type']}/{made['key']}")


def letters(
    *,
    type_name: Annotated[str, typer.Option("--type", help="Only of this type.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1_000)] = 100,
    url: Url = "",
    output: Output = Format.TABLE,
) -> None:
    """Messages that were given up, with the reason.

    Example: perdure letters --type Order
    """
    with Gateway(url) as gateway:
        page = gateway.get("/dead-letters", type=type_name or None, limit=limit)
    rows = page["letters"] if isinstance(page, dict) and "letters" in page else page
    columns = tuple(dict.fromkeys(name for row in rows for name in row))
    show(page, output, columns=columns, rows=rows)


def resend(
    address: Address,
    message_id: Annotated[str, typer.Argument(help="As `perdure letters` lists it.", show_default=False)],
    *,
    reason: Reason = "",
    operator: Operator = "",
    url: Url = "",
) -> None:
    """Send a dead letter again, once, under a new id.

    Example: perdure resend Order/order-42 0192… --reason "fixed"
    """
    with Gateway(url) as gateway:
        done = gateway.post(entity_path(address, "-", "replay"), why(reason, operator, message_id=message_id))
    typer.echo(f"sent again: {address} {done['message_id']}")


def discard(
    address: Address,
    message_id: Annotated[str, typer.Argument(help="As `perdure letters` lists it.", show_default=False)],
    *,
    reason: Reason = "",
    operator: Operator = "",
    url: Url = "",
    yes: Yes = False,
) -> None:
    """Delete a dead letter.

    Example: perdure discard Order/order-42 0192… --yes
    """
    confirm(f"delete the dead letter {message_id} of {address}", yes=yes)
    with Gateway(url) as gateway:
        gateway.post(entity_path(address, "-", "discard"), why(reason, operator, message_id=message_id))
    typer.echo(f"discarded: {address} {message_id}")
