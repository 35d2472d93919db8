"""Verbs that look: nothing here changes anything, and all of it works while no host runs, but for `query`."""

import time
from typing import Annotated, Any

import typer

from .gateway import Gateway, entity_path, type_path
from .options import Address, Json, Member, Output, Url, Values, Wait, arguments_of
from .output import Format, show

WATCH_S = 1.0
SENT = ("sent_at", "to", "kind", "name", "status", "settled_at", "receiver_version", "version", "message_id")
EVENTS = ("version", "at", "what", "name", "ok", "operation", "input", "output", "error")

Limit = Annotated[int, typer.Option(min=1, max=1_000, help="At most so many.")]
After = Annotated[str, typer.Option(help="Go on from here: `next` of the page before.")]
Where = Annotated[
    list[str] | None,
    typer.Option("--where", help="field=value, or field__ge=value (ne, lt, le, gt, ge, in); may be repeated."),
]


def ls(
    type_name: Annotated[str, typer.Argument(metavar="[TYPE]", help="A class of entities.", show_default=False)] = "",
    *,
    where: Where = None,
    limit: Limit = 50,
    after: After = "",
    url: Url = "",
    output: Output = Format.TABLE,
) -> None:
    """List the types of entities, or the entities of a type by fields of their state.

    Example: perdure ls Order --where status=Paid --where amount__ge=100
    """
    with Gateway(url) as gateway:
        if not type_name:
            types = gateway.get("/entities")["types"]
            show(types, output, columns=("type", "handlers", "queries", "workflows", "mailboxes"), rows=types)
            return
        conditions: dict[str, Any] = {}
        for condition in where or ():
            name, _, value = condition.partition("=")
            conditions.setdefault(name, []).append(value)
        found = gateway.get(type_path(type_name), limit=limit, after=after or None, **conditions)
    show(found, output, columns=("key", "version", "updated_at", "state"), rows=found["matches"])
    if output is Format.TABLE and found["next"]:
        typer.echo(f"more: --after {found['next']}", err=True)


def get(address: Address, *, url: Url = "", output: Output = Format.TABLE) -> None:
    """Everything about an entity now: state, workflows, messages that wait, reminders.

    Example: perdure get Order/order-42
    """
    with Gateway(url) as gateway:
        stored = gateway.get(entity_path(address, "-", "export"))
    entity = stored["entity"]
    told = {
        "entity": address,
        "version": entity.get("version"),
        "state": stored.get("state"),
        "workflows": {
            run["workflow"]: {
                name: run.get(name) for name in ("status", "run_id", "waiting", "outcome") if run.get(name)
            }
            for run in stored["runs"]
        },
        "inbox": len(stored["inbox"]),
        "reminders": [reminder.get("name") for reminder in stored["reminders"]],
        "mailboxes": _counts(stored["mailboxes"], "mailbox"),
    }
    show(told, output)


def state(
    address: Address,
    *,
    at: Annotated[int | None, typer.Option("--at", min=0, help="At this version; else the present one.")] = None,
    url: Url = "",
    output: Output = Format.TABLE,
) -> None:
    """The state of an entity, now or at a version that is retained.

    Example: perdure state Order/order-42 --at 7
    """
    with Gateway(url) as gateway:
        show(gateway.get(entity_path(address, "-", "state"), version=at), output)


def diff(
    address: Address,
    older: Annotated[int, typer.Argument(min=0, help="A version.")],
    newer: Annotated[int, typer.Argument(min=0, help="A later one.")],
    *,
    url: Url = "",
    output: Output = Format.TABLE,
) -> None:
    """What changed in the state between two versions.

    Example: perdure diff Order/order-42 7 9
    """
    with Gateway(url) as gateway:
        changes = gateway.get(entity_path(address, "-", "diff"), **{"from": older, "to": newer})["changes"]
    show(changes, output, columns=("op", "path", "old", "value"), rows=changes)


def history(
    address: Address,
    *,
    limit: Limit = 100,
    after: Annotated[int | None, typer.Option(min=0, help="After this version.")] = None,
    newest_first: Annotated[bool, typer.Option("--newest-first", help="The other way round.")] = False,
    url: Url = "",
    output: Output = Format.TABLE,
) -> None:
    """What happened to an entity: messages, operations, attempts, timers, operators' actions.

    Example: perdure history Order/order-42 --newest-first
    """
    with Gateway(url) as gateway:
        page = gateway.get(
            entity_path(address, "-", "history"), limit=limit, after=after, newest_first=newest_first or None
        )
    show(page, output, columns=EVENTS, rows=page["events"])


def watch(address: Address, *, url: Url = "", output: Output = Format.TABLE) -> None:
    """Follow what happens to an entity, line by line, until Ctrl-C.

    Example: perdure watch Order/order-42
    """
    with Gateway(url) as gateway:
        path = entity_path(address, "-", "history")
        seen = gateway.get(path, limit=1, newest_first=True)["version"]
        while True:
            page = gateway.get(path, after=seen, limit=100)
            for event in page["events"]:
                if event.get("version", 0) > seen:
                    _line(event, output)
            seen = max([seen, *(event.get("version", 0) for event in page["events"])])
            if page["next"] is None:
                time.sleep(WATCH_S)


def _line(event: dict[str, Any], output: Format) -> None:
    if output is Format.TABLE:
        typer.echo("  ".join(str(event[name]) for name in EVENTS if name in event))
    else:
        show(event, output)


def inbox(address: Address, *, url: Url = "", output: Output = Format.TABLE) -> None:
    """Messages that are stored and wait for their turn.

    Example: perdure inbox Order/order-42
    """
    _part(address, "inbox", ("id", "kind", "name", "sender", "args"), url, output)


def outbox(
    address: Address,
    *,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="Of so many turns.")] = 100,
    before: Annotated[int | None, typer.Option(min=0, help="Go on from here: `next` of the page before.")] = None,
    url: Url = "",
    output: Output = Format.TABLE,
) -> None:
    """What an entity has sent, and what became of it: all of its workflows; of handlers what waits or was given up.

    Example: perdure outbox Order/order-42
    """
    with Gateway(url) as gateway:
        page = gateway.get(entity_path(address, "-", "outbox"), limit=limit, before=before)
    rows = [{"to": f"{one['type']}/{one['key']}"} | one for one in page["messages"]]
    show(page, output, columns=SENT, rows=rows)
    if output is Format.TABLE:
        if page["is_cut"]:
            typer.echo("inboxes or dead letters are long: more of what handlers sent may wait", err=True)
        if page["next"] is not None:
            typer.echo(f"more: --before {page['next']}", err=True)


def reminders(address: Address, *, url: Url = "", output: Output = Format.TABLE) -> None:
    """Reminders and timers that are set.

    Example: perdure reminders Order/order-42
    """
    _part(address, "reminders", ("name", "kind", "due_us", "handler", "every_us", "cron"), url, output)


def _part(address: str, name: str, columns: tuple[str, ...], url: str, output: Format) -> None:
    with Gateway(url) as gateway:
        rows = gateway.get(entity_path(address, "-", "export"))[name]
    show(rows, output, columns=columns, rows=rows)


def _counts(rows: list[dict[str, Any]], by: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in rows:
        counts[row[by]] = counts.get(row[by], 0) + 1
    return counts


def export(address: Address, *, url: Url = "") -> None:
    """Everything that is retained of an entity, as JSON: for a bug report, a test, or `perdure replay`.

    Example: perdure export Order/order-42 > order-42.json
    """
    with Gateway(url) as gateway:
        show(gateway.get(entity_path(address, "-", "export")), Format.JSON)


def query(
    address: Address,
    member: Member,
    values: Values = None,
    *,
    whole: Json = "",
    timeout: Wait = 30.0,
    url: Url = "",
    output: Output = Format.TABLE,
) -> None:
    """Ask a query of an entity.

    Example: perdure query Order/order-42 state
    """
    body = arguments_of(values, whole)
    with Gateway(url, timeout_s=timeout) as gateway:
        show(gateway.post(entity_path(address, member), body, prefer=f"wait={timeout:g}"), output)


def operations(address: Address, workflow: Member, *, url: Url = "", output: Output = Format.TABLE) -> None:
    """What a workflow waits for: operations with their attempts, last error and next try.

    Example: perdure operations Order/order-42 run
    """
    with Gateway(url) as gateway:
        told = gateway.get(entity_path(address, workflow, "operations"))
    rows = told["operations"] if isinstance(told, dict) and "operations" in told else None
    columns = tuple(dict.fromkeys(name for row in rows or () for name in row))
    show(told, output, columns=columns, rows=rows)


def openapi(*, url: Url = "", output: Output = Format.JSON) -> None:
    """The gateway's OpenAPI description.

    Example: perdure openapi > openapi.json
    """
    with Gateway(url) as gateway:
        show(gateway.get("/openapi.json"), Format.JSON if output is Format.TABLE else output)
