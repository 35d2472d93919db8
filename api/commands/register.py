"""Puts the verbs into the command `perdure`, in the order in which `--help` lists them."""

import functools
from collections.abc import Callable
from typing import Any

import typer

from . import act, hosts, look, schedules, whole, worklist

Run = Callable[[Callable[[], None]], None]
"""Runs a command; errors become one line and an exit code."""

VERBS: tuple[Callable[..., None], ...] = (
    whole.overview,
    whole.entities,
    look.ls,
    look.get,
    look.state,
    look.diff,
    look.history,
    look.watch,
    look.inbox,
    look.outbox,
    look.reminders,
    look.operations,
    look.query,
    act.call,
    act.send,
    act.start,
    act.result,
    act.pause,
    act.resume,
    act.retry,
    act.complete,
    act.fail,
    act.cancel,
    act.terminate,
    act.edit,
    act.fork,
    act.letters,
    act.resend,
    act.discard,
    look.export,
    whole.types,
    whole.hosts,
    hosts.drain,
    whole.audit,
    look.openapi,
)
SCHEDULE_VERBS: tuple[Callable[..., None], ...] = (
    schedules.list_,
    schedules.show,
    schedules.create,
    schedules.pause,
    schedules.unpause,
    schedules.trigger,
    schedules.backfill,
    schedules.delete,
)
WORKLIST_VERBS: tuple[Callable[..., None], ...] = (worklist.list_, worklist.decide)


def add_verbs(app: typer.Typer, run: Run) -> None:
    """Add everything that talks to a gateway."""
    _add(app, VERBS, run)
    schedule = typer.Typer(help="What runs by the clock.", no_args_is_help=True, rich_markup_mode=None)
    _add(schedule, SCHEDULE_VERBS, run)
    app.add_typer(schedule, name="schedule")
    decisions = typer.Typer(help="Decisions that workflows wait for.", no_args_is_help=True, rich_markup_mode=None)
    _add(decisions, WORKLIST_VERBS, run)
    app.add_typer(decisions, name="worklist")


def name_of(verb: Callable[..., None]) -> str:
    """Of the command; a function may have an underscore more, where Python has the word."""
    return verb.__name__.removesuffix("_")


def _add(app: typer.Typer, verbs: tuple[Callable[..., None], ...], run: Run) -> None:
    for verb in verbs:
        app.command(name_of(verb))(_guarded(verb, run))


def _guarded(verb: Callable[..., None], run: Run) -> Callable[..., None]:
    @functools.wraps(verb)
    def guarded(*args: Any, **kwargs: Any) -> None:
        run(lambda: verb(*args, **kwargs))

    return guarded
