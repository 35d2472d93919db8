"""How the embedded server is configured.

Everything is passed on the command line at every start, so that `postgresql.conf` stays what initdb wrote and a new
release of Perdure brings its settings along to old data directories.
"""

import hashlib
from pathlib import Path
from urllib.parse import quote

import psutil

ROLE = "perdure"
DATABASE = "perdure"
PORT = 5432  # only part of the socket's file name: the server never listens on TCP
CONNECTIONS_MAX = 200
SHARED_BUFFERS_MAX_MB = 256
SHARED_BUFFERS_MIN_MB = 32
MEMORY_SHARE = 8  # shared buffers take at most an eighth of the memory
_MB = 1024 * 1024


def server_command(postgres: Path, *, data: Path, socket_directory: Path) -> list[str]:
    """The command line of the postmaster. `-D` comes first: it is what identifies the process later."""
    settings = {
        # Who may connect: whoever may enter the directory of the socket, and nobody else
        "listen_addresses": "",
        "unix_socket_directories": f'"{socket_directory}"',
        "unix_socket_permissions": "0700",
        "port": str(PORT),
        "max_connections": str(CONNECTIONS_MAX),
        # An acknowledged commit survives a power cut, in development too
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "shared_buffers": f"{shared_buffers_mb()}MB",
        # The name in the process titles, by which orphaned children are recognised
        "cluster_name": cluster_name(data),
        # Standard error is the log file, opened by the guard
        "logging_collector": "off",
        "log_destination": "stderr",
        "log_line_prefix": "%m [%p] ",
        "log_timezone": "UTC",
        "lc_messages": "C",
        "timezone": "UTC",
    }
    command = [str(postgres), "-D", str(data)]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    return command


def cluster_name(data: Path) -> str:
    """A name that only the server of this data directory has."""
    return f"perdure-{hashlib.sha256(bytes(data)).hexdigest()[:12]}"


def shared_buffers_mb() -> int:
    """256 MB, less where memory is small or limited."""
    share = memory_limit_bytes() // MEMORY_SHARE // _MB
    return max(SHARED_BUFFERS_MIN_MB, min(SHARED_BUFFERS_MAX_MB, share))


def memory_limit_bytes() -> int:
    """The memory of the machine, or of the container when that has less."""
    total = int(psutil.virtual_memory().total)
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdecimal() else total


def connection_url(socket_directory: Path, *, database: str = DATABASE) -> str:
    """A libpq URL; SQLAlchemy reads it as well once its scheme is `postgresql+psycopg`."""
    return f"postgresql://{ROLE}@/{database}?host={quote(str(socket_directory), safe='/')}&port={PORT}"
