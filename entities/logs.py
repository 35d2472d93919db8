"""Log records of user code: told which turn they belong to, and silent where the code only repeats what it did before.

Every record that is made inside a turn or an activity gets an attribute `perdure`: a dictionary with the entity and
whatever else is known of `version`, `handler`, `workflow`, `run`, `activity`, `operation`, `attempt`, `trace_id`. One
attribute, not many: user code may pass `extra={"version": ...}` itself.

While a run's code is repeated to rebuild it (P7: executing nothing), or closed because it leaves memory, its records
reach no handler, whatever handlers there are: they were written the first time. That is done by the record factory,
which chains to the one before; a record that nobody is to see gets a level below all handlers'. Who sets a record
factory later and does not chain to this one does without both.

`configure` is for processes of Perdure's own (hosts, supervisor, command line): one handler on stderr. A user's
application configures its logging as it likes, with `JsonFormatter` if it likes that.
"""

import json
import logging
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Protocol, runtime_checkable

from .activity import running_attempt
from .context import current
from .errors import StartRefused
from .messages import OperationAddress
from .tracing import current_traceparent, trace_id_of

FORMAT, LEVEL = "PERDURE_LOG_FORMAT", "PERDURE_LOG_LEVEL"
VARIABLES = frozenset({FORMAT, LEVEL})
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_FORMATS = ("text", "json")
_UNSEEN = -1
"""A level below those of all handlers, also of those that take everything."""
_OWN = "perdure"


@runtime_checkable
class LoggedTurn(Protocol):
    """A turn that can tell about itself."""

    @property
    def is_silent(self) -> bool:
        """Its code repeats what it has done before, or leaves memory: nobody is to read what it says."""
        ...

    def log_fields(self) -> dict[str, Any]:
        """What is known of it, beside the entity."""
        ...


def log_context() -> dict[str, Any]:
    """What the records of the running turn or activity attempt say about it; empty outside. For other log libraries."""
    turn = current.get()
    fields: dict[str, Any] = {}
    if turn is not None:
        fields["entity"] = str(turn.entity)
        if isinstance(turn, LoggedTurn):
            fields |= turn.log_fields()
    elif (info := running_attempt()) is not None:
        address = OperationAddress.parse(info.operation) if info.operation.count("/") == 2 else None
        fields = {"entity": str(info.entity), "activity": info.activity}
        if address is not None:
            fields |= {"workflow": address.workflow, "run": address.run_id, "operation": address.number}
        fields["attempt"] = info.attempt
    else:
        return fields
    if trace := current_traceparent():
        fields["trace_id"] = trace_id_of(trace)
    return fields


def is_replaying() -> bool:
    """Whether the running workflow code only repeats what it did before: for what should happen once, like printing."""
    turn: object = current.get()
    return isinstance(turn, LoggedTurn) and turn.is_silent


def install() -> None:
    """From now on records know their turn, in this process. Idempotent."""
    before = logging.getLogRecordFactory()
    if isinstance(before, _Factory):
        return
    logging.setLogRecordFactory(_Factory(before))


class _Factory:
    """Makes log records."""

    def __init__(self, before: Any) -> None:
        self._before = before

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record: logging.LogRecord = self._before(*args, **kwargs)
        if is_replaying():
            record.levelno = _UNSEEN
        elif fields := log_context():
            setattr(record, _OWN, fields)
        return record


# --- For processes of our own -----------------------------------------------------------------------------------------


def fields_of(record: logging.LogRecord) -> Mapping[str, Any]:
    """What it says of its turn; empty if it was not made in one."""
    found: Mapping[str, Any] = getattr(record, _OWN, {})
    return found


_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", _OWN}


class JsonFormatter(logging.Formatter):
    """One JSON object in one line: time, level, logger, message, what is known of the turn, `extra`, a traceback."""

    def __init__(self, **always: str) -> None:
        """`always`: what every line says, such as which process wrote it."""
        super().__init__()
        self._always = always

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._always,
        }
        given = vars(record).items()
        extra = {name: value for name, value in given if name not in _STANDARD and name[0] != "_"}  # Ray adds some
        line = {**extra, **line, **fields_of(record)}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        return json.dumps(line, default=str, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """`WARNING shop: text [entity=Order/o-1 version=7 handler=pay]`."""

    def __init__(self, *, with_time: bool) -> None:
        super().__init__(("%(asctime)s " if with_time else "") + "%(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        text = super().formatMessage(record)
        fields = fields_of(record)
        return f"{text} [{' '.join(f'{name}={value}' for name, value in fields.items())}]" if fields else text


def configure(*, level: int = logging.WARNING, with_time: bool = True, **always: str) -> None:
    """Log to stderr as PERDURE_LOG_FORMAT (`text`, `json`) and PERDURE_LOG_LEVEL (`debug` … `error`) say.

    level: if the environment names none. always: what every JSON line says. Raises StartRefused for other words.
    """
    chosen = os.environ.get(FORMAT) or _FORMATS[0]
    if chosen not in _FORMATS:
        raise StartRefused(f"{FORMAT} is one of {', '.join(_FORMATS)}, not {chosen[:40]!r}")
    named = os.environ.get(LEVEL, "").lower()
    if named and named not in _LEVELS:
        raise StartRefused(f"{LEVEL} is one of {', '.join(_LEVELS)}, not {named[:40]!r}")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(**always) if chosen == "json" else TextFormatter(with_time=with_time))
    logging.basicConfig(level=_LEVELS.get(named, level), handlers=[handler])
    install()
