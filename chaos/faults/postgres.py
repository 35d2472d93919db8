"""Postgres dies, restarts, throws everybody out, is full, is slow."""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import psycopg

from campaigns.processes import strike, until_gone
from chaos.world import World

from .injury import Injury

DOWN_S = (0.0, 3.0)
STORM_S = 2.0
HELD_S = 4.0
ALL_TAKEN_S = 60.0
FULL_S = 5.0
_NEEDS_SPACE = "create table needs_space as select md5(n::text) from generate_series(1, 1000000) n"
SLOW_MS = 300
FULL = "No space left on device"
_THROW_OUT = """
select count(pg_terminate_backend(pid)) as ended from pg_stat_activity
where pid <> pg_backend_pid() and backend_type = 'client backend' and application_name like 'perdure:%%'
"""


async def kill_postgres(world: World, injury: Injury) -> None:
    """The postmaster and all its children are killed; a moment later it is started again, and recovers."""
    before = len(world.proofs.get("postgres", []))
    injury.at = time.time()
    await world.kill_postgres()
    injury.shows(world.proofs["postgres"][before])
    await world.until_whole()


async def restart_postgres(world: World, injury: Injury) -> None:
    """A fast restart, with some time in between."""
    pid = world.postgres.postmaster_pid
    assert pid is not None
    postmaster = psutil.Process(pid)
    strike([postmaster], signal.SIGINT)
    await until_gone([postmaster])
    injury.at = time.time()
    await asyncio.sleep(world.rng.uniform(*DOWN_S))
    await asyncio.to_thread(world.postgres.start)
    injury.shows(f"postmaster {pid} shut down, now {world.postgres.postmaster_pid}")
    await world.until_whole()


async def kill_backend(world: World, injury: Injury) -> None:
    """One backend is killed, so Postgres resets all of them."""
    rows = await world.sql("select pid from pg_stat_activity where application_name like %s order by 1", "perdure:0%")
    pid = int(world.rng.choice(rows)["pid"])
    log = _LogTail(world.postgres.log_path)
    injury.at = strike([psutil.Process(pid)])

    async def is_seen() -> bool:
        return "terminating any other active server processes" in log.news()

    await world.until("Postgres resets itself", is_seen)
    await world.until_whole()
    injury.shows(f"backend {pid} killed, all others were terminated")


async def terminate_backends(world: World, injury: Injury) -> None:
    """`pg_terminate_backend` for every session of ours, again and again."""
    ended = 0
    until = time.monotonic() + STORM_S
    while time.monotonic() < until:
        [row] = await world.sql(_THROW_OUT)
        ended += row["ended"]
        injury.undone_at = time.time()
        await asyncio.sleep(0.1)
    injury.shows(f"{ended} sessions terminated" if ended else "")
    await world.until_whole()


async def exhaust_connections(world: World, injury: Injury) -> None:
    """All connections are taken by somebody else, and ours are thrown out."""
    taken: list[psycopg.AsyncConnection[tuple[object, ...]]] = []
    refusals = 0
    until = time.monotonic() + ALL_TAKEN_S
    first = await psycopg.AsyncConnection.connect(world.dsn, autocommit=True)
    try:
        while time.monotonic() < until:
            try:
                taken.append(await psycopg.AsyncConnection.connect(world.dsn, autocommit=True))
            except psycopg.OperationalError as error:
                if not refusals:
                    injury.at = time.time()
                    until = time.monotonic() + HELD_S
                refusals += "too many clients" in str(error) or "remaining connection slots" in str(error)
                await first.execute(_THROW_OUT.replace("%%", "%").encode())
                await asyncio.sleep(0.1)
    finally:
        for connection in [first, *taken]:
            await connection.close()
        injury.undone_at = time.time()
    injury.shows(f"{len(taken)} connections taken, {refusals} times none was left" if refusals else "")
    await world.until_whole()


async def fill_disk(world: World, injury: Injury) -> None:
    """No space is left where the database is; later there is again. Postgres may stop meanwhile: then it is started."""
    assert world.disk is not None
    log = _LogTail(world.postgres.log_path)
    taken = world.disk.fill()
    seen = refused = ""
    try:
        until = time.monotonic() + FULL_S
        while time.monotonic() < until and FULL not in seen:
            await asyncio.sleep(0.2)
            seen += log.news()
        if FULL not in seen:  # all that was written went into files that were long enough, or a checkpoint made room
            taken = world.disk.fill()
            refused = await _refused_space(world.dsn)
        await asyncio.sleep(2.0)
    finally:
        world.disk.free()
        injury.undone_at = time.time()
    stopped = ""
    if world.postgres.postmaster_pid is None:
        await asyncio.to_thread(world.postgres.start)
        stopped = ", Postgres had stopped and was started"
    errors = (seen + log.news()).count(FULL)  # the log is on that disk, too: it may not have had room for them
    told = f"{errors} times `{FULL}` in its log{refused}{stopped}"
    injury.shows(f"{taken >> 20} MB taken, {told}" if errors or refused or stopped else "")
    await world.until_whole()


async def _refused_space(dsn: str) -> str:
    """What it says to somebody who needs some, or nothing."""
    try:
        async with await psycopg.AsyncConnection.connect(dsn) as connection:
            await connection.execute(_NEEDS_SPACE)
            await connection.rollback()
    except psycopg.errors.DiskFull as error:
        return f", {error.sqlstate} to a client"
    except psycopg.Error:
        pass
    return ""


async def slow_fsync(world: World, injury: Injury) -> None:
    """Every fsync of every process of Postgres takes 300 ms more."""
    pid = world.postgres.postmaster_pid
    assert pid is not None
    pids = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    trace = world.directory / "fsync.trace"
    command = ["strace", "-f", "-qq", "-o", str(trace), "-e", "trace=fsync,fdatasync",
               "-e", f"inject=fsync,fdatasync:delay_enter={SLOW_MS * 1000}"]  # fmt: skip
    for one in pids:
        command += ["-p", str(one)]
    tracer = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        await asyncio.sleep(HELD_S)
    finally:
        tracer.send_signal(signal.SIGINT)  # it lets go of them
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(tracer.wait, 20)
        injury.undone_at = time.time()
    slowed = trace.read_text(errors="replace").count("DELAYED") if trace.exists() else 0
    trace.unlink(missing_ok=True)
    injury.shows(f"{slowed} fsyncs took {SLOW_MS} ms more" if slowed else "")
    await world.until_whole()


class _LogTail:
    """What is added to a file from now on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size

    def news(self) -> str:
        """Since the last look."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            text = file.read()
        self._offset += len(text)
        return os.fsdecode(text)
