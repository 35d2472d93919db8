"""Warnings at the start about what others in the network could reach or read. They stop nothing.

Ray runs whatever it is sent by whoever reaches its ports, unless its token authentication is on (Ray 2.52 and later).
Sessions with Postgres are in the clear unless the DSN asks for TLS.
"""

from collections.abc import Mapping
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from .loopback import is_loopback

RAY_MODE = "RAY_AUTH_MODE"
_RAY_TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
_TLS_MODES = frozenset({"require", "verify-ca", "verify-full"})


def is_here(host: str) -> bool:
    """Whether it is this machine: a loopback name, or a directory of sockets."""
    return is_loopback(host) or host.startswith(("/", "@"))


def has_ray_token(environ: Mapping[str, str], home: Path) -> bool:
    """Whether Ray asks for its token in this process: a mode that says so, or a token and no mode."""
    mode = environ.get(RAY_MODE, "").lower()
    if mode:
        return mode == "token"
    return any(environ.get(name) for name in _RAY_TOKENS) or (home / ".ray" / "auth_token").is_file()


def open_ray(gcs_address: str, environ: Mapping[str, str], home: Path) -> str:
    """What is wrong with a Ray cluster at this address; empty: nothing."""
    host = gcs_address.rpartition(":")[0]
    if is_here(host) or has_ray_token(environ, home):
        return ""
    return (
        f"the Ray cluster at {gcs_address} can be reached from other machines and its token authentication is off: "
        "whoever reaches its ports can run code in it, and read this database's password. Set RAY_AUTH_MODE=token and "
        "RAY_AUTH_TOKEN for every node and client, and keep the ports closed (docs/security.md)"
    )


def plain_postgres(dsn: str) -> str:
    """What is wrong with the transport to Postgres; empty: nothing. Never shows more than hosts."""
    try:
        parts = conninfo_to_dict(dsn)
    except Exception:  # noqa: BLE001 - connecting says what is wrong with it
        return ""
    hosts = [host for host in str(parts.get("host") or parts.get("hostaddr") or "").split(",") if host]
    far = [host for host in hosts if not is_here(host)]
    if not far or str(parts.get("sslmode", "")) in _TLS_MODES:
        return ""
    return (
        f"the sessions with Postgres at {', '.join(far)} may be in the clear: add sslmode=verify-full (and "
        "sslrootcert) to the DSN"
    )
