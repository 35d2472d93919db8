"""`perdure drain`: take a host out in order, and wait until it is gone."""

import time
from typing import Annotated, Any
from urllib.parse import quote

import typer

from ...entities.store.survey import HOST
from ..exits import Exit
from ..failures import Failure
from .gateway import Gateway
from .options import Operator, Output, Reason, Url, why
from .output import Format, show

POLL_S = 0.5
_GONE = ("stopped", "fenced")
_DRAIN = ("host", "status", "shards", "next")


def drain(
    host: Annotated[str, typer.Argument(help="As `perdure hosts` lists it, or how it begins.", show_default=False)],
    *,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is gone.")] = True,
    timeout: Annotated[float, typer.Option("--timeout", min=0, help="Seconds to wait for that.")] = 120.0,
    reason: Reason = "",
    operator: Operator = "",
    url: Url = "",
    output: Output = Format.TABLE,
) -> None:
    """Take a host out: its successor starts, then it hands its shards over and ends. No call fails for it.

    The order stands in the database: it is carried out although nobody waits. Exit code 7 if it is still there then.

    Example: perdure drain 0192f3a1 --reason "node-7 gets a new disk"
    """
    with Gateway(url) as gateway:
        name = _whole(gateway, host)
        told = gateway.post(f"/hosts/{quote(name, safe='')}/drain", why(reason, operator))
        if not wait:
            row = {"host": name, "status": told["host"]["status"], "shards": told["host"]["shards"]}
            show(told, output, columns=_DRAIN, rows=[row | {"next": told["next"]}])
            return
        if output is Format.TABLE:
            typer.echo(f"ordered out: {name}; {told['next']}", err=True)
        gone = _until_gone(gateway, name, told, timeout)
    if output is not Format.TABLE:
        show(gone, output)
    elif gone["status"] == "stopped":
        typer.echo(f"drained: {name} has left in order")
    else:
        typer.echo(f"ended: {name} did not leave in time or died; others have its shards, nothing acknowledged is lost")


def _hosts(gateway: Gateway) -> Any:
    return gateway.get("/hosts", type=HOST)  # so `PerdureHost:read,operate` is all that this command needs


def _whole(gateway: Gateway, start: str) -> str:
    """The id that begins so. As it is if nothing does: then the gateway has the words for it. Raises Failure."""
    hosts = _hosts(gateway)["hosts"]
    if any(one["id"] == start for one in hosts):
        return start
    found = [one["id"] for one in hosts if one["id"].startswith(start) and one["status"] not in _GONE]
    found = found or [one["id"] for one in hosts if one["id"].startswith(start)]
    if len(found) > 1:
        raise Failure(
            "ambiguous_host", f"{start!r} is how {len(found)} hosts begin: {', '.join(found[:5])}", Exit.USAGE
        )
    return found[0] if found else start


def _until_gone(gateway: Gateway, name: str, told: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    """The row of the host, once it is gone. Raises Failure."""
    deadline = time.monotonic() + timeout_s
    row: dict[str, Any] = told["host"]
    while row["status"] not in _GONE:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise Failure("still_draining", _why_not(gateway, name), Exit.TIMEOUT)
        time.sleep(min(POLL_S, left_s))
        row = next(one for one in _hosts(gateway)["hosts"] if one["id"] == name)
    return row


def _why_not(gateway: Gateway, name: str) -> str:
    found = _hosts(gateway)
    active = sum(one["status"] == "alive" for one in found["hosts"])
    wanted = found["hosts_wanted"]
    place = f"{active} of the {wanted} hosts that are wanted are active" if wanted is not None else "no `up` was said"
    return f"host {name} has not left yet ({place}); the order stands and is carried out without this command"
