"""The command `perdure`. What goes wrong is one line, `error[code]: message (hint)`, and an exit code.

Exit codes: 0 done, 2 the command or its input is wrong, 3 something cannot be reached, 4 there is no such thing, 5 it
clashes with what is there, 6 not allowed, 7 no answer in time, so the outcome is unknown, 1 anything else, 130
interrupted twice.
"""

import atexit
import gc
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import SecretStr, ValidationError
from pydantic_settings import SettingsError

from ..entities import logs
from ..entities.errors import StartRefused
from .commands.options import Output, Yes
from .commands.output import Format
from .commands.register import add_verbs
from .exits import Exit
from .failures import Failure, failure_of
from .settings import PREFIX, Settings, unknown_variables
from .variables import origin

if TYPE_CHECKING:
    from ..cluster.postgres.sessions import SessionSettings

app = typer.Typer(
    name="perdure",
    help="Durable entities for Python, on Ray and Postgres.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=True,
)
db = typer.Typer(
    help="The database: its tables, and whether it keeps our promises.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(db, name="db")

Dsn = Annotated[
    str,
    typer.Option("--dsn", help="Postgres, as postgresql://… (better in PERDURE_DSN: others see command lines)"),
]
Namespace = Annotated[str, typer.Option("--namespace", help="Postgres schema; PERDURE_NAMESPACE.")]
RayAddress = Annotated[
    str, typer.Option("--address", help="Ray cluster, as Ray writes it; PERDURE_RAY_ADDRESS, else `auto`.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and more of what happens.")]


_SELF = "from perdure.api.cli import main; main()"
"""This command, in another process."""


@app.command()
def dev(
    module: Annotated[str, typer.Argument(help="Module with entity classes, and perhaps `app`: package.module[:app]")],
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 = any free one.")] = 8000,
    hosts: Annotated[int, typer.Option(min=1, max=64, help="Host processes.")] = 2,
    data_dir: Annotated[Path, typer.Option(help="Where the state is kept.")] = Path(".perdure"),
    dsn: Dsn = "",
    namespace: Namespace = "",
    insecure_bind: Annotated[
        bool, typer.Option("--insecure-bind", help="Let others reach a gateway without API keys.")
    ] = False,
    reload: Annotated[bool, typer.Option("--reload", help="Start again when Python files here change.")] = False,
    debug: Debug = False,
) -> None:
    """Run everything here: Postgres, Ray, hosts and the gateway. Ctrl-C stops it, the state stays.

    Example: perdure dev examples.food_delivery.app
    """
    if reload:
        from .reload import run as run_again  # noqa: PLC0415 - nobody else needs it

        command = [sys.executable, "-c", _SELF, *(word for word in sys.argv[1:] if word != "--reload")]
        raise typer.Exit(run_again(command, Path.cwd(), _say))

    def work() -> None:
        # Ray reads it when it is imported: a paragraph for every host that ends, in order or not
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "A worker died or was killed while executing a task")
        from .dev import Options, run  # noqa: PLC0415 - importing Ray takes a second, and `--help` does without

        changes: dict[str, Any] = {"host": host, "port": port}
        changes |= {"insecure_bind": True} if insecure_bind else {}
        settings = _settings(dsn=dsn, namespace=namespace, **changes)
        options = Options(module, settings, hosts=hosts, data_dir=data_dir.expanduser().absolute(), debug=debug)
        run(options, _say)

    _guarded(work, debug=debug)


@app.command()
def check(
    module: Annotated[str, typer.Argument(help="Module with entity classes.")],
    *,
    lock: Annotated[Path, typer.Option(help="The lock file, to be committed.")] = Path("perdure.schemas.json"),
    write: Annotated[bool, typer.Option("--write", help="Write the present schemas into it.")] = False,
    force: Annotated[bool, typer.Option("--force", help="With --write: even if stored states would not fit.")] = False,
    debug: Debug = False,
) -> None:
    """Whether stored states fit this code: fails if a state's schema changed without a version and an upgrade.

    Example: perdure check shop.entities --write
    """

    def work() -> None:
        from .changes import check_module  # noqa: PLC0415 - as above

        check_module(module, lock, write=write, force=force, say=_say)

    _guarded(work, debug=debug)


@app.command()
def replay(
    module: Annotated[str, typer.Argument(help="Module with entity classes.")],
    *,
    file: Annotated[Path | None, typer.Option(help="Read an export instead of the database.")] = None,
    export: Annotated[Path | None, typer.Option(help="Write what was read there, for tests.")] = None,
    type_name: Annotated[str, typer.Option("--type", help="Only entities of this type.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="At most so many entities.")] = 1_000,
    dsn: Dsn = "",
    namespace: Namespace = "",
    debug: Debug = False,
) -> None:
    """Whether live runs fit this code: replays their journals, executing nothing. Reads only.

    Example: perdure replay shop.entities --dsn postgresql://… --type Order
    """

    def work() -> None:
        from .changes import Recorded, replay_module  # noqa: PLC0415 - as above

        settings = _settings(dsn=dsn, namespace=namespace)
        address = "" if file is not None else _needed(settings)
        source = Recorded(file, address, settings.namespace, type_name, limit, settings.codec, settings.pooled)
        replay_module(module, source, export=export, say=_say)

    _guarded(work, debug=debug)


@db.command("upgrade")
def db_upgrade(
    sql: Annotated[bool, typer.Option("--sql", help="Print the SQL of a new namespace instead.")] = False,
    dsn: Dsn = "",
    namespace: Namespace = "",
    debug: Debug = False,
) -> None:
    """Create the tables of a namespace, or bring them to this release. Safe to repeat."""

    def work() -> None:
        from .database import database_sql, upgrade_database  # noqa: PLC0415 - as above

        settings = _settings(dsn=dsn, namespace=namespace)
        if sql:
            typer.echo(database_sql(settings.namespace), nl=False)
            return
        upgrade_database(_needed(settings), settings.namespace, is_pooled=settings.pooled)
        _say(f"namespace {settings.namespace!r} is up to date")

    _guarded(work, debug=debug)


@db.command("check")
def db_check(dsn: Dsn = "", namespace: Namespace = "", debug: Debug = False) -> None:
    """Whether hosts could run on the database: reachable, durable, writable, and its tables fit this release."""

    def work() -> None:
        from .database import check_database  # noqa: PLC0415 - as above

        settings = _settings(dsn=dsn, namespace=namespace)
        check_database(_needed(settings), settings.namespace, is_pooled=settings.pooled)
        _say(f"namespace {settings.namespace!r} is in order")

    _guarded(work, debug=debug)


@db.command("views")
def db_views(
    module: Annotated[str, typer.Argument(help="Module with entity classes: package.module", show_default=False)],
    *,
    dsn: Dsn = "",
    namespace: Namespace = "",
    debug: Debug = False,
) -> None:
    """Make the SQL view of each entity type, with a typed column for each field of its state. Safe to repeat.

    Example: perdure db views shop.entities
    """

    def work() -> None:
        from .database import make_views  # noqa: PLC0415 - as above

        settings = _settings(dsn=dsn, namespace=namespace)
        made, views = make_views(_sessions(settings), settings.namespace, module)
        for type_name, view in views.items():
            _say(f"{type_name}: {view}{' (new)' if view.rpartition('.')[2] in made else ''}")

    _guarded(work, debug=debug)


@db.command("verify")
def db_verify(dsn: Dsn = "", namespace: Namespace = "", debug: Debug = False) -> None:
    """Look for rows that are not as they were written. Reads everything once; exit code 5 if there are any.

    Example: perdure db verify
    """

    def work() -> None:
        from .commands import damage  # noqa: PLC0415 - as above

        settings = _settings(dsn=dsn, namespace=namespace)
        _say(damage.verify(_needed(settings), settings.namespace, is_pooled=settings.pooled))

    _guarded(work, debug=debug)


@db.command("accept")
def db_accept(
    entity: Annotated[str, typer.Argument(help="Type/key, for example Order/order-42.", show_default=False)] = "",
    *,
    everything: Annotated[bool, typer.Option("--all", help="All entities: after a move to other hardware.")] = False,
    yes: Yes = False,
    dsn: Dsn = "",
    namespace: Namespace = "",
    debug: Debug = False,
) -> None:
    """Take damaged rows, or rows that were changed by hand, for right as they are.

    Example: perdure db accept Order/order-42 --yes
    """

    def work() -> None:
        from .commands import damage  # noqa: PLC0415 - as above

        settings = _settings(dsn=dsn, namespace=namespace)
        _say(damage.accept_rows(_needed(settings), settings.namespace, entity, everything=everything, yes=yes))

    _guarded(work, debug=debug)


@db.command("fence")
def db_fence(yes: Yes = False, dsn: Dsn = "", namespace: Namespace = "", debug: Debug = False) -> None:
    """After a restore: refuse the commits of every host that the restored database knows, before new ones start.

    Example: perdure db fence --yes
    """

    def work() -> None:
        from .commands import restored  # noqa: PLC0415 - as above

        settings = _settings(dsn=dsn, namespace=namespace)
        _say(restored.fence(_sessions(settings), settings.namespace, yes=yes))

    _guarded(work, debug=debug)


@app.command()
def up(
    module: Annotated[str, typer.Argument(help="Module with entity classes.", show_default=False)],
    *,
    hosts: Annotated[int, typer.Option(min=1, max=10_000, help="Host processes.")] = 2,
    address: RayAddress = "",
    release: Annotated[
        str, typer.Option(help="Version of the code: another one replaces every host, one by one.")
    ] = "",
    dsn: Dsn = "",
    namespace: Namespace = "",
    debug: Debug = False,
) -> None:
    """Have hosts run the classes of a module on a Ray cluster; returns when they do. Repeat it to change anything.

    Example: perdure up shop.entities --hosts 4 --address auto --release 2026-11-21
    """

    def work() -> None:
        from .commands import cluster  # noqa: PLC0415 - as above

        settings = _settings(dsn=dsn, namespace=namespace)
        _say(cluster.up(settings, module, hosts=hosts, address=address, release=release))

    _guarded(work, debug=debug)


@app.command()
def serve(
    module: Annotated[str, typer.Argument(help="Module with entity classes, and perhaps `app`: package.module[:app]")],
    *,
    host: Annotated[str, typer.Option(help="Address to listen on; PERDURE_HOST, else this machine only.")] = "",
    port: Annotated[int | None, typer.Option(min=0, max=65_535, help="PERDURE_PORT, else 8000; 0 = any.")] = None,
    address: RayAddress = "",
    dsn: Dsn = "",
    namespace: Namespace = "",
    debug: Debug = False,
) -> None:
    """Run a gateway for hosts that `perdure up` has started. SIGTERM ends it: for PERDURE_DRAIN_S seconds it goes on,
    not ready any more, then the requests under way finish.

    Example: perdure serve shop.app --host 0.0.0.0 --port 8000
    """

    def work() -> None:
        from .commands import serving  # noqa: PLC0415 - as above

        changes: dict[str, Any] = {"host": host} if host else {}
        changes |= {"port": port} if port is not None else {}
        changes |= {"ray_address": address} if address else {}
        settings = _settings(dsn=dsn, namespace=namespace, **changes)
        _needed(settings)
        serving.serve_module(settings, module, _say)

    _guarded(work, debug=debug)


@app.command()
def down(address: RayAddress = "", dsn: Dsn = "", namespace: Namespace = "", debug: Debug = False) -> None:
    """End all hosts of the namespace in order. Everything durable stays.

    Example: perdure down --address auto
    """

    def work() -> None:
        from .commands import cluster  # noqa: PLC0415 - as above

        _say(cluster.down(_settings(dsn=dsn, namespace=namespace), address=address))

    _guarded(work, debug=debug)


@app.command()
def status(dsn: Dsn = "", namespace: Namespace = "", output: Output = Format.TABLE, debug: Debug = False) -> None:
    """Which hosts should run and which do, from the database alone.

    Example: perdure status
    """

    def work() -> None:
        from .commands import cluster  # noqa: PLC0415 - as above

        cluster.status(_settings(dsn=dsn, namespace=namespace), output)

    _guarded(work, debug=debug)


@app.command()
def doctor(
    address: RayAddress = "",
    dsn: Dsn = "",
    namespace: Namespace = "",
    output: Output = Format.TABLE,
    debug: Debug = False,
) -> None:
    """Look for what is wrong: database and its settings, clock, hosts, Ray, access.

    Example: perdure doctor
    """

    def work() -> None:
        from .commands import cluster  # noqa: PLC0415 - as above

        cluster.doctor(_settings(dsn=dsn, namespace=namespace), output, address=address)

    _guarded(work, debug=debug)


def _settings(*, dsn: str, namespace: str, **changes: Any) -> Settings:
    """The environment's settings, with what the command line says on top. Raises Failure."""
    if dsn:
        from ..cluster.postgres.names import has_password  # noqa: PLC0415 - the driver is needed by few verbs

        changes["dsn"] = SecretStr(dsn)
        if has_password(dsn):
            typer.echo(
                "warning: others on this machine can read the password in --dsn; set PERDURE_DSN instead", err=True
            )
    if namespace:
        changes["namespace"] = namespace
    try:
        return Settings(**changes)
    except SettingsError as error:  # what should be JSON is none; its text names the field and shows no value
        raise Failure("bad_setting", f"{' '.join(str(error).split())} (it is JSON)", Exit.USAGE) from None
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)[0]
        name = PREFIX + "_".join(str(part) for part in found["loc"][:1]).upper()
        place = origin(name, os.environ, Path(".env"))
        raise Failure("bad_setting", f"{name}{place}: {found['msg']}", Exit.USAGE) from None


def _needed(settings: Settings) -> str:
    dsn = settings.dsn.get_secret_value()
    if not dsn:
        raise Failure(
            "no_dsn",
            "no database is named (set PERDURE_DSN, or give --dsn postgresql://user@host/database)",
            Exit.USAGE,
        )
    return dsn


def _sessions(settings: Settings) -> "SessionSettings":
    from ..cluster.postgres.sessions import SessionSettings  # noqa: PLC0415 - the driver is needed by few verbs

    return SessionSettings(dsn=_needed(settings), is_pooled=settings.pooled)


def _guarded(work: Callable[[], None], *, debug: bool) -> None:
    """Run a command; errors become one line and an exit code."""
    try:
        logs.configure(level=logging.INFO if debug else logging.WARNING, with_time=False, process="gateway")
    except StartRefused as error:
        typer.echo(str(Failure("bad_setting", error.message, Exit.USAGE)), err=True)
        raise typer.Exit(Exit.USAGE) from None
    for warning in unknown_variables():
        typer.echo(f"warning: {warning}", err=True)
    try:
        work()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains once more at its end
    except KeyboardInterrupt:
        raise typer.Exit(Exit.INTERRUPTED) from None
    except Exception as error:
        if debug:
            raise
        failure = failure_of(error)
        typer.echo(str(failure), err=True)
        raise typer.Exit(failure.exit_code) from None


def _say(text: str) -> None:
    typer.echo(text)
    sys.stdout.flush()


add_verbs(app, lambda work: _guarded(work, debug=False))


def main() -> None:
    """Entry point of the console script."""
    atexit.register(gc.freeze)  # else Python looks for cycles in all modules once more: half a second for nothing
    app()
