"""Names in Postgres: namespaces, application names, and DSNs fit to be shown."""

import re

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ...entities.errors import StartRefused

_NAMESPACE = re.compile(r"[a-z][a-z0-9_]{0,47}")
# For what cannot be read as a DSN, so that nobody knows where a password in it ends: rather too much than too little.
_URL_PASSWORD = re.compile(r"(//[^:@/\s]*):.*@", re.DOTALL)
_QUERY_PASSWORD = re.compile(r"(password\s*=).*", re.IGNORECASE | re.DOTALL)
_SECRETS = frozenset({"password", "sslpassword"})
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
    parts = _read(dsn)
    if parts is None:
        return _QUERY_PASSWORD.sub(r"\1***", _URL_PASSWORD.sub(r"\1:***@", dsn))
    return make_conninfo("", **{name: "***" if name in _SECRETS else value for name, value in parts.items()})


def has_password(dsn: str) -> bool:
    """Whether the DSN names a password, as far as it can be read."""
    parts = _read(dsn)
    return (
        bool(_URL_PASSWORD.search(dsn) or _QUERY_PASSWORD.search(dsn))
        if parts is None
        else bool(_SECRETS & parts.keys())
    )


def without_password(text: str, dsn: str) -> str:
    """`text`, an error of the driver about `dsn`, without any part of the password."""
    parts = _read(dsn)
    if parts is None:
        # What the driver says about it may quote a piece of a password that it took for something else.
        return "it is no connection URL or key=value string (in a URL, write / as %2F and @ as %40 within a password)"
    for secret in _SECRETS & parts.keys():
        text = text.replace(dsn, masked(dsn)).replace(parts[secret], "***")
    return text


def _read(dsn: str) -> dict[str, str] | None:
    """The parts of a DSN, None if it is wrong or looks as if a password had been taken apart."""
    try:
        parts = {name: str(value) for name, value in conninfo_to_dict(dsn).items() if value}
    except Exception:  # noqa: BLE001 - whatever the driver dislikes about it
        return None
    ports = parts.get("port", "").replace(",", "")
    is_torn = "@" in parts.get("dbname", "") or "@" in parts.get("host", "") or not (ports.isdigit() or not ports)
    return None if is_torn else parts
