"""Names in Postgres: namespaces, application names, and DSNs fit to be shown."""

import re

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ...entities.errors import StartRefused

_NAMESPACE = re.compile(r"[a-z][a-z0-9_]{0,47}")
_URL_PASSWORD = re.compile(r"(?<=://)([^/@\s:]*):[^/\s]*@")
_QUERY_PASSWORD = re.compile(r"(password\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&]+)", re.IGNORECASE)
_APPLICATION_NAME_MAX = 63
"""Postgres cuts longer names (NAMEDATALEN)."""


def check_namespace(namespace: str) -> str:
    """Return `namespace` if it can name a schema of ours; raise StartRefused saying what is wrong otherwise."""
    if not _NAMESPACE.fullmatch(namespace):
        raise StartRefused(
            f"{namespace!r} cannot be a namespace: use 1 to 48 lower-case letters, digits and underscores,"
            " beginning with a letter, for example `perdure` or `shop_staging`"
        )
    if namespace.startswith("pg_") or namespace in ("information_schema", "public"):
        raise StartRefused(
            f"{namespace!r} cannot be a namespace: that schema belongs to Postgres or to everybody; choose another name"
        )
    return namespace


def quoted(namespace: str) -> str:
    """The namespace as an SQL identifier. Raises StartRefused if it is not a valid one."""
    return f'"{check_namespace(namespace)}"'


def application_name(incarnation: str) -> str:
    """What a host's sessions are called in pg_stat_activity, so that whoever fences the host can find them."""
    return f"perdure:{incarnation}".encode()[:_APPLICATION_NAME_MAX].decode(errors="ignore")


def masked(dsn: str) -> str:
    """The DSN without its password, for messages."""
    try:
        parts = conninfo_to_dict(dsn)
    except Exception:  # noqa: BLE001 - it is unreadable, and may hold a password all the same
        return _QUERY_PASSWORD.sub(r"\1***", _URL_PASSWORD.sub(r"\1:***@", dsn))
    for secret in ("password", "sslpassword"):
        if parts.get(secret):
            parts[secret] = "***"
    return make_conninfo("", **{name: value for name, value in parts.items() if value is not None})


def without_password(text: str, dsn: str) -> str:
    """`text` (an error of the driver) without the password and the raw form of `dsn`."""
    text = text.replace(dsn, masked(dsn))
    try:
        parts = conninfo_to_dict(dsn)
    except Exception:  # noqa: BLE001 - as above
        return _QUERY_PASSWORD.sub(r"\1***", _URL_PASSWORD.sub(r"\1:***@", text))
    for secret in (parts.get("password"), parts.get("sslpassword")):
        if secret:
            text = text.replace(str(secret), "***")
    return text
