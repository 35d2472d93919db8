"""Verbs that look at a whole namespace. All of it works while no host runs."""

from typing import Annotated, Any

import typer

from .gateway import Gateway
from .look import After, Limit
from .options import Output, Url
from .output import Format, show

TypeName = Annotated[str, typer.Option("--type", help="Only of this class.")]

_ATTENTION = ("kind", "entity", "since", "name", "attempts", "reason")
_ENTITY = ("entity", "status", "waiting", "version", "updated_at")
_HOST = ("id", "status", "node", "shards", "activations", "turns_per_s", "heartbeat_age_s", "started_at")
_TYPE = ("type", "entities", "version", "pending_upgrades", "handlers", "indexed")
_AUDIT = ("at", "operator", "action", "entity", "target", "reason")


def overview(*, url: Url = "", output: Output = Format.TABLE) -> None:
    """What needs a person first, then how many of what there are, hosts, and the last hour.

    Example: perdure overview
    """
    with Gateway(url) as gateway:
        found = gateway.get("/overview")
    if output is not Format.TABLE:
        show(found, output)
        return
    hosts, hour = found["hosts"], found["last_hour"]
    counts = {kind: _number(count) for kind, count in found["attention_counts"].items() if count["value"]}
    typer.echo(", ".join(f"{count} {kind}" for kind, count in counts.items()) or "nothing needs attention")
    if found["attention"]:
        show(found, output, columns=_ATTENTION, rows=map(_named, found["attention"]))
    rows = [
        {"type": one["type"], "entities": _number(one["entities"])}
        | {"runs": ", ".join(f"{_number(count)} {status}" for status, count in one["runs"].items())}
        for one in found["types"]
    ]
    typer.echo("")
    show(found, output, columns=("type", "entities", "runs"), rows=rows)
    p99 = "" if hour["commit_ms_p99"] is None else f", commits within {hour['commit_ms_p99']:g} ms (99 %)"
    typer.echo(
        f"\nhosts: {hosts['alive']} alive, {hosts['draining']} draining, {hosts['lost']} lost; "
        f"{hosts['shards_without_host']} of {hosts['shards']} shards without one\n"
        f"last hour: {hour['turns_per_s']:g} turns/s{p99}\n"
        f"decisions open: {_number(found['decisions_open'])}"
    )


def entities(
    *,
    type_name: TypeName = "",
    prefix: Annotated[str, typer.Option(help="Whose key begins so.")] = "",
    status: Annotated[str, typer.Option(help="idle, running, parked, failed, damaged, …")] = "",
    waiting: Annotated[str, typer.Option(help="Whose run waits for something with this text.")] = "",
    since: Annotated[str, typer.Option(help="Changed at this time or later: 2026-11-21T09:00:00Z.")] = "",
    limit: Limit = 50,
    after: After = "",
    url: Url = "",
    output: Output = Format.TABLE,
) -> None:
    """List entities of all types by what they do. (By fields of their state: `perdure ls TYPE --where …`.)

    Example: perdure entities --status parked
    """
    given = {"type": type_name, "prefix": prefix, "status": status, "waiting": waiting, "since": since}
    listed("/all-entities", "entities", _ENTITY, url, output, limit, after, **given)


def hosts(*, url: Url = "", output: Output = Format.TABLE) -> None:
    """List the hosts, what they own and how they are.

    Example: perdure hosts
    """
    with Gateway(url) as gateway:
        found = gateway.get("/hosts")
    show(found, output, columns=_HOST, rows=found["hosts"])


def types(*, url: Url = "", output: Output = Format.TABLE) -> None:
    """List the types with their schema versions, and how many entities of which version there are.

    Example: perdure types -o yaml
    """
    with Gateway(url) as gateway:
        found = gateway.get("/types")
    rows = [
        one
        | {name: _number(one[name]) for name in ("entities", "pending_upgrades")}
        | {"handlers": ", ".join(member["name"] for member in one["members"])}
        for one in found["types"]
    ]
    show(found, output, columns=_TYPE, rows=rows)


def audit(
    *,
    type_name: TypeName = "",
    key: Annotated[str, typer.Option(help="Only of this entity of the type.")] = "",
    who: Annotated[str, typer.Option("--operator", help="Only by this operator.")] = "",
    action: Annotated[str, typer.Option(help="edit, pause, retry, decide, terminate, …")] = "",
    since: Annotated[str, typer.Option(help="At this time or later.")] = "",
    limit: Limit = 50,
    after: After = "",
    url: Url = "",
    output: Output = Format.TABLE,
) -> None:
    """List what operators did, newest first: who, what, to which entity, why.

    Example: perdure audit --operator ann --since 2026-11-21T00:00:00Z
    """
    given = {"type": type_name, "key": key, "operator": who, "action": action, "since": since}
    listed("/audit", "actions", _AUDIT, url, output, limit, after, **given)


def listed(  # noqa: PLR0917 - what a list is asked for, and how it is shown
    path: str, name: str, columns: tuple[str, ...], url: str, output: Format, limit: int, after: str, **given: str
) -> None:
    """Ask for a page of a list and print it."""
    with Gateway(url) as gateway:
        parameters = {name: value for name, value in given.items() if value}
        found = gateway.get(path, limit=limit, after=after or None, **parameters)
    show(found, output, columns=columns, rows=map(_named, found[name]))
    if output is Format.TABLE and found["next"]:
        typer.echo(f"more: --after {found['next']}", err=True)


def _named(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"entity": f"{row['type']}/{row['key']}"} if "key" in row else row


def _number(count: dict[str, Any]) -> str:
    value = f"{count['value']:,}"
    return f"{value}+" if count["is_at_least"] else value if count["is_exact"] else f"about {value}"
