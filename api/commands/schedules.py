"""`perdure schedule …`: what runs by the clock."""

from typing import Annotated

import typer

from .gateway import Gateway, entity_path
from .look import After, Limit
from .options import Output, Reason, Url, Yes, arguments_of, confirm
from .output import Format
from .output import show as print_out
from .whole import listed

BUILT_IN = "PerdureSchedule"

Name = Annotated[str, typer.Argument(help="The schedule's name.", show_default=False)]
Overlap = Annotated[str, typer.Option(help="What to do if a run is still going on; else as the schedule says.")]


def _path(name: str, member: str) -> str:
    return entity_path(f"{BUILT_IN}/{name}", member)


def _do(name: str, member: str, url: str, **body: str) -> None:
    with Gateway(url) as gateway:
        gateway.post(_path(name, member), {key: value for key, value in body.items() if value})
    typer.echo(f"{member}: {name}")


def show(name: Name, *, url: Url = "", output: Output = Format.TABLE) -> None:
    """What a schedule does, its next times and its last runs.

    Example: perdure schedule show nightly
    """
    with Gateway(url) as gateway:
        print_out(gateway.get(_path(name, "describe")), output)


def create(
    name: Name,
    spec: Annotated[list[str], typer.Argument(help="Fields of the specification: name=value, values as JSON.")],
    *,
    replace: Annotated[bool, typer.Option("--replace", help="Even if there is another of that name.")] = False,
    url: Url = "",
) -> None:
    """Make a schedule.

    Example: perdure schedule create nightly type=Report key=nightly name=run cron="0 3 * * *"
    """
    with Gateway(url) as gateway:
        gateway.post(_path(name, "create"), {"spec": arguments_of(spec, ""), "replace": replace})
    typer.echo(f"created: {name}")


def pause(name: Name, *, note: Reason = "", url: Url = "") -> None:
    """Start nothing until `unpause`; what would have been due is left out.

    Example: perdure schedule pause nightly --reason "holidays"
    """
    _do(name, "pause", url, note=note)


def unpause(name: Name, *, note: Reason = "", url: Url = "") -> None:
    """Go on.

    Example: perdure schedule unpause nightly
    """
    _do(name, "unpause", url, note=note)


def trigger(name: Name, *, overlap: Overlap = "", url: Url = "") -> None:
    """Start once now, beside the regular times.

    Example: perdure schedule trigger nightly
    """
    _do(name, "trigger", url, overlap=overlap)


def backfill(
    name: Name,
    begin: Annotated[str, typer.Argument(help="A time with zone, such as 2026-11-01T00:00:00Z.", show_default=False)],
    end: Annotated[str, typer.Argument(help="A later one.", show_default=False)],
    *,
    overlap: Overlap = "",
    url: Url = "",
) -> None:
    """Start what would have been due in between, one after the other.

    Example: perdure schedule backfill nightly 2026-11-01T00:00:00Z 2026-11-05T00:00:00Z
    """
    body = {"start": begin, "end": end} | ({"overlap": overlap} if overlap else {})
    with Gateway(url) as gateway:
        count = gateway.post(_path(name, "backfill"), body)
    typer.echo(f"backfill: {name}: {count} times")


def delete(name: Name, *, url: Url = "", yes: Yes = False) -> None:
    """End a schedule. What it has started goes on.

    Example: perdure schedule delete nightly --yes
    """
    confirm(f"delete the schedule {name}", yes=yes)
    _do(name, "delete", url)


def list_(*, limit: Limit = 50, after: After = "", url: Url = "", output: Output = Format.TABLE) -> None:
    """List the schedules.

    Example: perdure schedule list
    """
    columns = ("name", "when", "target", "is_paused", "next_at", "last_at", "last_status")
    listed("/schedules", "schedules", columns, url, output, limit, after)
