"""What cannot be durable is refused while workflow code runs, by Python's audit events (promise P7).

The hook is process-wide, for ever, and free for everybody else: one look into a small set per audit event. Only if the
event is one of those below does it ask whether the code of a workflow run is what caused it. Threads, sockets,
subprocesses and `time.sleep` raise NotDurable there (threads and `time.sleep` from Python 3.13 on, which tells of
them; before, `repeatable` finds them at definition). Not refused: files (imports, logging and templates read them) and
whatever an import or a logging handler does on its own account.
"""

import sys
from types import FrameType
from typing import Any

from ..context import current
from ..errors import NotDurable

_ACTIVITY = "do it in an @activity and await that"
_EVENTS = {
    "time.sleep": ("time.sleep", "use `await asyncio.sleep(...)`, which is durable and blocks nobody"),
    "_thread.start_new_thread": ("a thread", _ACTIVITY),
    "_thread.start_joinable_thread": ("a thread", _ACTIVITY),
    "subprocess.Popen": ("a subprocess", _ACTIVITY),
    "os.system": ("a subprocess (os.system)", _ACTIVITY),
    "os.fork": ("a process (os.fork)", _ACTIVITY),
    "os.forkpty": ("a process (os.forkpty)", _ACTIVITY),
    "os.posix_spawn": ("a subprocess (os.posix_spawn)", _ACTIVITY),
    "os.exec": ("os.exec", _ACTIVITY),
    "socket.__new__": ("a socket", _ACTIVITY),
    "socket.connect": ("a socket", _ACTIVITY),
    "socket.bind": ("a socket", _ACTIVITY),
    "socket.getaddrinfo": ("a DNS look-up", _ACTIVITY),
    "socket.gethostbyname": ("a DNS look-up", _ACTIVITY),
    "sqlite3.connect": ("a database (sqlite3)", _ACTIVITY),
}
_ON_THEIR_OWN = ("importlib", "logging")

_is_installed = False


def install() -> None:
    """Watch from now on. Idempotent; there is no way to remove an audit hook."""
    global _is_installed  # noqa: PLW0603 - as the hook: one per process
    if not _is_installed:
        _is_installed = True
        sys.addaudithook(_look)


def _look(event: str, _args: tuple[Any, ...]) -> None:
    if event in _EVENTS:
        _refuse_in_workflow(event)


def _refuse_in_workflow(event: str) -> None:
    turn = current.get()
    if turn is None or turn.mode != "workflow" or _is_of_others(sys._getframe(2)):  # noqa: SLF001 - the stack is asked
        return
    what, alternative = _EVENTS[event]
    raise NotDurable(f"{turn.entity}: workflow code tried to use {what}, which cannot survive a crash; {alternative}")


def _is_of_others(frame: FrameType | None) -> bool:
    """Whether an import or a logging handler is what does it."""
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] in _ON_THEIR_OWN:
            return True
        if module == "asyncio.events":  # below: the event loops
            return False
        frame = frame.f_back
    return False
