"""Puts the verbs into the command `perdure`, in the order in which `--help` lists them."""

import functools
from collections.abc import Callable
from typing import Any

import typer

from . import act, look, schedules

Run = Callable[[Callable[[], None]], None]
"""Runs a command; errors become one line and an exit code."""

VERBS: tuple[Callable[..., None], ...] = (
    look.ls,
    look.get,
    look.state,
    look.diff,
    look.history,
    look.watch,
    look.inbox,
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
    look.openapi,
)
SCHEDULE_VERBS: tuple[Callable[..., None], ...] = (
    schedules.show,
    schedules.create,
    schedules.pause,
    schedules.unpause,
    schedules.trigger,
    schedules.backfill,
    schedules.delete,
)


def add_verbs(app: typer.Typer, run: Run) -> None:
    """Add everything that talks to a gateway."""
    _add(app, VERBS, run)
    schedule = typer.Typer(help="What runs by the clock.", no_args_is_help=True, rich_markup_mode=None)
    _add(schedule, SCHEDULE_VERBS, run)
    app.add_typer(schedule, name="schedule")


def _add(app: typer.Typer, verbs: tuple[Callable[..., None], ...], run: Run) -> None:
    for verb in verbs:
        app.command(verb.__name__)(_guarded(verb, run))


def _guarded(verb: Callable[..., None], run: Run) -> Callable[..., None]:
    @functools.wraps(verb)
    def guarded(*args: Any, **kwargs: Any) -> None:
        run(lambda: verb(*args, **kwargs))

    return guarded
