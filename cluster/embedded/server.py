"""The life of the embedded server: who starts it, who is responsible for it, who ends it.

One process at a time *owns* the server: it holds `owner.lock`, starts the server (or takes over one that runs without
an owner) and stops it. Any other process that calls `start()` meanwhile *attaches*: it waits until the server is ready,
uses it, and leaves it alone. If the owner stops it, an attached process may call `start()` again and becomes owner.

    start():  lock free  -> owner:     postmaster runs, its guard is dead  -> adopt it
                                       a guard is alive                    -> it is ending the server: wait, then start
                                       no postmaster                       -> end orphans, initdb if new, start
              lock held  -> attached:  server ready                        -> use it
                                       not ready yet, or on its way out    -> wait, try again from the top

The server must not outlive an owner that was killed. Postgres therefore runs as the child of a *guard* process, which
holds one end of a pipe to the owner and stops the server when the kernel closes the other end. See guard.py for what it
does and why it is not PR_SET_PDEATHSIG. Only if guard and owner are both killed does a server run on; the next start in
the same directory adopts it.
"""

import contextlib
import json
import logging
import os
import select
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Generator
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
import psycopg
from psycopg import pq

from .account import environment
from .binaries import Binaries, Provider, choose_binaries
from .errors import DataDirectoryUnusable, DiskFull, PostgresUnavailable, StartFailed
from .initialize import create_data_directory, data_major
from .locks import FileLock, is_locked
from .place import Place, choose_socket_directory, clear_socket_directory, is_disk_full, remove_socket_directory, settle
from .processes import (
    POLL_S,
    clear_stale_pid_file,
    end_orphans,
    end_postmaster,
    find_postmaster,
    is_gone,
    read_pid_file,
    server_processes,
)
from .settings import DATABASE, connection_url, server_command

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
GUARD_ANSWERS_S = 20.0
GUARD_LEAVES_S = 15.0
_STILL_WAITING_S = 10.0
_LOG_LINES_MAX = 15
_LOG_BYTES_MAX = 16_384

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def open_postgres(dsn: str | None, directory: Path, *, provider: Provider | Path = "auto") -> Generator[str]:
    """The database to work with, as a DSN: the caller's own if there is one, else an embedded server for the time of
    the block.

    Raises PostgresUnavailable (one of its subclasses) if an embedded server is needed and cannot be had. A DSN that is
    given is passed on untouched and unchecked.
    """
    if dsn:
        yield dsn
        return
    with EmbeddedPostgres(directory, provider=provider) as server:
        yield server.dsn


class EmbeddedPostgres:
    """A Postgres server with one database, `perdure`, whose files live in `directory`.

    `directory` is made if needed; as root the files may have to go elsewhere (a warning says where, see place.py).
    `provider` is "auto" (system programs, then the wheel), "system", "wheel", or a directory with the programs.
    `start_timeout_s` bounds, in seconds, how long `start` waits without progress; while the server reports that it is
    recovering, the time starts anew.

    All methods may be called from any thread; they block.
    """

    def __init__(
        self, directory: Path, *, provider: Provider | Path = "auto", start_timeout_s: float = START_TIMEOUT_S
    ) -> None:
        self._directory = Path(directory).expanduser().absolute()
        self._provider: Provider | Path = provider
        self._start_timeout_s = start_timeout_s
        self._mutex = threading.RLock()
        self._place: Place | None = None
        self._postmaster: psutil.Process | None = None
        self._socket_directory: Path | None = None
        self._owner_lock: FileLock | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        _instances.add(self)

    @property
    def dsn(self) -> str:
        """Where to connect: a libpq URL with the path of the socket. Raises RuntimeError before the first start."""
        if self._socket_directory is None:
            raise RuntimeError("the embedded Postgres was not started: call start() or use it as a context manager")
        return connection_url(self._socket_directory)

    @property
    def postmaster_pid(self) -> int | None:
        """The process of the server, None unless it is alive."""
        postmaster = self._postmaster
        return None if postmaster is None or is_gone(postmaster) else postmaster.pid

    @property
    def is_owner(self) -> bool:
        """Whether `stop` would stop the server; False for a server that another live process is responsible for."""
        return self._owner_lock is not None

    @property
    def data_directory(self) -> Path:
        """The Postgres data directory. Raises RuntimeError before the first start."""
        return self._settled().data

    @property
    def log_path(self) -> Path:
        """The server's log. Raises RuntimeError before the first start."""
        return self._settled().log

    def is_alive(self) -> bool:
        """Whether the process of the server lives; cheap, asks no server. A zombie does not live."""
        return self.postmaster_pid is not None

    def start(self) -> Self:
        """Return once the database answers; without effect while it is alive. May be called again after it died or was
        stopped, by whomever: committed data is there again.

        Raises BinariesNotFound, DataDirectoryUnusable, DataDirectoryIncompatible, DiskFull or StartFailed, having left
        nothing running.
        """
        with self._mutex:
            if self.is_alive():
                return self
            self._let_go()
            try:
                self._own_or_attach()
            except BaseException as error:
                self.stop(immediate=True)
                if isinstance(error, OSError):
                    raise self._explain(error) from error
                if isinstance(error, psycopg.errors.DiskFull):
                    raise DiskFull(_disk_full(self._settled())) from error
                raise
            return self

    def stop(self, *, immediate: bool = False) -> None:
        """Stop the server if it is ours to stop, else only detach. Without effect when there is nothing to stop.

        The server ends in order: running transactions are rolled back, a checkpoint is written. `immediate` skips that
        and leaves it to the next start to recover; committed data is as safe, the call is faster. Takes at most a bit
        more than STOP_TIMEOUT_S seconds; a server that does not follow by then is killed.
        """
        with self._mutex:
            if self._owner_lock is not None and self._postmaster is not None:
                data = self._settled().data
                if not end_postmaster(self._postmaster, fast_s=STOP_TIMEOUT_S, immediate=immediate, data=data):
                    logger.error("processes of the Postgres in %s do not end, not even by SIGKILL", data)
            self._let_go()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # -------------------------------------------------------------------------------------------- owner or attached

    def _own_or_attach(self) -> None:
        self._place = place = settle(self._resolved())
        waiting = _Waiting(self._start_timeout_s)
        while True:
            self._owner_lock = FileLock.try_acquire(place.owner_lock)
            if self._owner_lock is not None:
                self._own(place)
                return
            if self._attach(place, waiting):
                return
            if not waiting.pause():
                raise StartFailed(
                    f"Another process holds {place.owner_lock} but has no server ready after"
                    f" {self._start_timeout_s:g} s. End that process and start again.{_log_tail(place.log)}"
                )

    def _attach(self, place: Place, waiting: "_Waiting") -> bool:
        hint = read_pid_file(place.data)
        postmaster = find_postmaster(place.data)
        if hint is None or postmaster is None or hint.socket_directory is None or hint.is_stopping:
            return False
        if _ping(hint.socket_directory) is pq.Ping.REJECT:
            waiting.renew()
            return False
        try:
            _connect(hint.socket_directory).close()
        except psycopg.OperationalError:
            return False  # the owner may be about to create the database
        self._postmaster, self._socket_directory = postmaster, hint.socket_directory
        logger.info("using the Postgres in %s, which another process started", place.data)
        return True

    def _own(self, place: Place) -> None:
        self._wait_for_former_guard(place)
        if not self._adopt(place):
            self._launch(place)
        assert self._socket_directory is not None
        _create_database(self._socket_directory)

    def _wait_for_former_guard(self, place: Place) -> None:
        """The owner before us was killed; its guard, if still there, is ending the server just now."""
        waiting = _Waiting(self._start_timeout_s)
        while is_locked(place.guard_lock) and server_processes(place.data):
            if not waiting.pause():
                self._end_unusable(place)
                return

    def _adopt(self, place: Place) -> bool:
        """Take over a server that lost both its owner and its guard."""
        postmaster, hint = find_postmaster(place.data), read_pid_file(place.data)
        if postmaster is None:
            return False
        waiting = _Waiting(self._start_timeout_s)
        while not is_gone(postmaster):
            if hint is not None and hint.socket_directory is not None and not hint.is_stopping:
                self._postmaster, self._socket_directory = postmaster, hint.socket_directory
                if self._is_ready(place, waiting):
                    logger.info("took over the running Postgres in %s", place.data)
                    return True
            if not waiting.pause():
                self._end_unusable(place)
                break
            hint = read_pid_file(place.data)
        self._postmaster = self._socket_directory = None
        return False

    def _end_unusable(self, place: Place) -> None:
        """End a server that nobody is responsible for and that is of no use: it hangs, or its guard does."""
        postmaster = find_postmaster(place.data)
        if postmaster is not None:
            logger.warning("ending a Postgres in %s that does not answer, process %d", place.data, postmaster.pid)
            if not end_postmaster(postmaster, fast_s=0.0, immediate=True, data=place.data):
                raise StartFailed(
                    f"Process {postmaster.pid}, a Postgres on {place.data}, neither answers nor ends, not even by"
                    f" SIGKILL.{_log_tail(place.log)}"
                )

    # -------------------------------------------------------------------------------------------------- launching

    def _launch(self, place: Place) -> None:
        if not end_orphans(place.data):
            raise StartFailed(f"Processes of a former server in {place.data} do not end, not even by SIGKILL.")
        clear_stale_pid_file(place.data)
        major = data_major(place)
        binaries = choose_binaries(self._provider, account=place.account, copies=place.binaries, data_major=major)
        if major is None:
            create_data_directory(place, binaries)
        log_start = place.log.stat().st_size if place.log.exists() else 0
        self._socket_directory = choose_socket_directory(place)
        clear_socket_directory(self._socket_directory)
        self._guard = guard = _start_guard(place, binaries, self._socket_directory)
        pid = _postmaster_of(guard, place)
        with contextlib.suppress(psutil.NoSuchProcess):  # it may have ended already
            self._postmaster = psutil.Process(pid)
        waiting = _Waiting(self._start_timeout_s)
        while not self._is_ready(place, waiting):
            if self._postmaster is None or is_gone(self._postmaster):
                self._postmaster = None
                raise _start_failure(place, f"Postgres {binaries.version} ended while starting.", log_start)
            if not waiting.pause():
                raise _start_failure(
                    place, f"Postgres {binaries.version} gave no answer for {self._start_timeout_s:g} s.", log_start
                )
        logger.debug("started Postgres %s in %s, process %d", binaries.version, place.data, pid)

    def _is_ready(self, place: Place, waiting: "_Waiting") -> bool:
        assert self._socket_directory is not None
        match _ping(self._socket_directory):
            case pq.Ping.REJECT:  # it says itself that it is starting up, recovering, or shutting down
                waiting.renew()
                waiting.tell(place)
                return False
            case pq.Ping.OK:
                try:
                    with _connect(self._socket_directory, database="postgres") as connection:
                        connection.execute("select 1")
                except psycopg.OperationalError:
                    return False
                return True
            case _:
                return False

    # ------------------------------------------------------------------------------------------------- letting go

    def _let_go(self) -> None:
        """Forget the server. As its owner: end the guard (and thereby a server it may still have), free the lock."""
        if self._guard is not None:
            assert self._guard.stdin is not None
            assert self._guard.stdout is not None
            self._guard.stdin.close()
            self._guard.stdout.close()
            try:
                self._guard.wait(timeout=GUARD_LEAVES_S)
            except subprocess.TimeoutExpired:
                logger.error("the guard of Postgres, process %d, does not end: killing it", self._guard.pid)  # noqa: TRY400
                self._guard.kill()
                self._guard.wait()
            self._guard = None
        if self._owner_lock is not None:
            if self._socket_directory is not None and self._place is not None:
                remove_socket_directory(self._place, self._socket_directory)
            self._owner_lock.release()
            self._owner_lock = None
        self._postmaster = None

    def _disown_after_fork(self) -> None:
        """In a forked child: nothing here is ours, and our copies of pipe and lock must not keep them open."""
        self._mutex = threading.RLock()
        if self._guard is not None:
            for pipe in (self._guard.stdin, self._guard.stdout):
                if pipe is not None:
                    pipe.close()
            self._guard.returncode = 0  # it is the parent's child: never wait for it, never complain about it
            self._guard = None
        if self._owner_lock is not None:
            self._owner_lock.close()
            self._owner_lock = None

    def _resolved(self) -> Path:
        return self._directory.resolve()

    def _settled(self) -> Place:
        if self._place is None:
            raise RuntimeError("the embedded Postgres was not started: where its files are is not known yet")
        return self._place

    def _explain(self, error: OSError) -> PostgresUnavailable:
        where = self._directory if error.filename is None else error.filename
        if is_disk_full(error):
            return DiskFull(f"No space left on the device of {where}. Free some and start again.")
        return DataDirectoryUnusable(
            f"Cannot keep a database in {self._directory}: {error.strerror or error} ({where})."
            " Correct that, or choose another directory."
        )


class _Waiting:
    """Waiting in small steps until there was no progress for `patience_s` seconds."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._since = time.monotonic()
        self._told_at = self._since
        self.renew()

    def renew(self) -> None:
        self._deadline = time.monotonic() + self._patience_s

    def pause(self) -> bool:
        """Wait a moment. False if patience is at its end."""
        if time.monotonic() > self._deadline:
            return False
        time.sleep(POLL_S)
        return True

    def tell(self, place: Place) -> None:
        """Say now and then that it takes time."""
        now = time.monotonic()
        if now - self._told_at > _STILL_WAITING_S:
            self._told_at = now
            logger.warning(
                "Postgres in %s is still recovering after %.0f s, see %s", place.data, now - self._since, place.log
            )


def _start_guard(place: Place, binaries: Binaries, socket_directory: Path) -> subprocess.Popen[bytes]:
    place.guard_lock.unlink(missing_ok=True)  # a former guard that hangs may keep the old file for ever
    lock = FileLock.try_acquire(place.guard_lock)
    if lock is None:
        raise StartFailed(f"{place.guard_lock}, made just now, is held by another process.")
    order = {
        "command": server_command(binaries.postgres, data=place.data, socket_directory=socket_directory),
        "cwd": str(place.data),
        "log": str(place.log),
        "uid": None if place.account is None else place.account.uid,
        "gid": None if place.account is None else place.account.gid,
    }
    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).with_name("guard.py")), json.dumps(order)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            cwd="/",
            env=environment(),
            start_new_session=True,  # Ctrl-C in the terminal reaches neither guard nor server
            pass_fds=(lock.descriptor,),
        )
    finally:
        lock.close()  # from now on the guard holds it


def _postmaster_of(guard: subprocess.Popen[bytes], place: Place) -> int:
    """The pid of the server, as reported by the guard."""
    assert guard.stdout is not None
    ready, _, _ = select.select([guard.stdout], [], [], GUARD_ANSWERS_S)
    line = guard.stdout.readline() if ready else b""
    if not line:
        raise StartFailed(
            f"The guard of the server in {place.data} gave no answer (exit status {guard.poll()}): {sys.executable}"
            " does not run as expected."
        )
    answer = json.loads(line)
    if "pid" in answer:
        return int(answer["pid"])
    if is_disk_full(OSError(answer["errno"], answer["error"])):
        raise DiskFull(_disk_full(place))
    raise StartFailed(f"The server in {place.data} could not be started: {answer['error']}.")


def _create_database(socket_directory: Path) -> None:
    with _connect(socket_directory, database="postgres") as connection:
        found = connection.execute("select from pg_database where datname = %s", (DATABASE,)).fetchone()
        if found is None:
            connection.execute(f"create database {DATABASE}")  # a constant of ours


def _connect(socket_directory: Path, *, database: str = DATABASE) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(connection_url(socket_directory, database=database), autocommit=True, connect_timeout=5)


def _ping(socket_directory: Path) -> pq.Ping:
    url = f"{connection_url(socket_directory, database='postgres')}&connect_timeout=2"
    return pq.Ping(pq.PGconn.ping(url.encode()))


def _start_failure(place: Place, what: str, log_start: int) -> PostgresUnavailable:
    tail = _log_tail(place.log, log_start)
    if "No space left on device" in tail:
        return DiskFull(_disk_full(place))
    return StartFailed(f"{what} Data directory: {place.data}.{tail}")


def _disk_full(place: Place) -> str:
    return f"No space left on the device of {place.server}. Free some and start again; committed data is intact."


def _log_tail(log: Path, start: int = 0) -> str:
    """The last lines of the log, from byte `start` on, ready to be appended to a message."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(start if start <= size else 0, size - _LOG_BYTES_MAX))
            lines = file.read().decode(errors="replace").splitlines()[-_LOG_LINES_MAX:]
    except OSError:
        return ""
    return f" Last lines of {log}:\n" + "\n".join(f"    {line}" for line in lines) if lines else ""


def _disown_all() -> None:
    for instance in list(_instances):
        instance._disown_after_fork()  # noqa: SLF001  (our own class)


_instances: "weakref.WeakSet[EmbeddedPostgres]" = weakref.WeakSet()
_after_fork: Callable[[], None] = _disown_all
os.register_at_fork(after_in_child=_after_fork)
