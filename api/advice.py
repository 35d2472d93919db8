"""What follows from an error: what the system does next, and what whoever meets it can do. By code.

Meaning, status and title stand with the error classes and in `problems`; this table adds what neither knows, and
`explain` puts them together. docs/errors.md, the gateway's error page and its JSON are made of the result, so that
nobody has to remember to keep three texts alike. No promise hangs on it. It fails, in the tests, if a code of the
framework is missing here or is here without being one.
"""

from typing import NamedTuple


class Advice(NamedTuple):
    """For one code. Inline Markdown; links are relative to docs/."""

    do: str
    """What you can do."""
    then: str = ""
    """What the system does next, where it differs from the rest of the section."""
    meaning: str = ""
    """In place of the first lines of the class, or of what `problems` says."""


class Section(NamedTuple):
    """Codes that call for the same kind of action."""

    title: str
    then: str
    codes: dict[str, Advice]


ENTITY_SECTIONS: tuple[Section, ...] = (
    Section(
        "The request is wrong",
        "Nothing was accepted and nothing is tried again.",
        {
            "rejected": Advice("Read the message; change the request before you repeat it."),
            "bad_key": Advice(
                "Fix the key.",
                meaning="The entity key is empty, blank, longer than 512 bytes, or holds control characters.",
            ),
            "unknown_type": Advice("The message lists the types that there are; serve the class, or fix the name."),
            "unknown_handler": Advice("The message lists the members that there are; fix the name."),
            "invalid_argument": Advice("`errors` names each field and the reason; fix those."),
            "payload_too_large": Advice("Send less (2 MiB at most), or a reference to where it is stored."),
            "bad_reminder": Advice(
                "Give it a name, one time and a handler of the same entity; the message says what is amiss."
            ),
            "no_such_run": Advice("Check type, key and workflow; start it first."),
            "no_such_operation": Advice("Pass tokens on unchanged. `…/run/operations` lists what waits."),
            "no_such_entity": Advice("Check type and key: every entity has an address before it has a state."),
            "no_such_letter": Advice("List the dead letters again: this one was replayed or discarded, or never was."),
            "no_such_schedule": Advice("Check the name; `perdure schedule list` has them all."),
            "version_not_retained": Advice("History marks the versions whose state is kept."),
            "too_many_children": Advice(
                'Await some of them, or start them with `parent_close="abandon"`.',
                then="The run goes on: the start raises in it.",
                meaning="The run has 1,000 live children with a parent-close policy.",
            ),
            "outbox_limit": Advice(
                "Spread the work over several turns: send to yourself, or let a workflow do it in steps.",
                then="A call gets the error; a one-way message becomes a dead letter.",
            ),
            "bad_transaction": Advice(
                "Name each entity once and no more than the limit; not in a handler, and no other entity in the block."
            ),
            "bad_statement": Advice("Stage statements inside a handler, with values that Postgres takes."),
        },
    ),
    Section(
        "It clashes with what is there",
        "Nothing was changed and nothing is tried again.",
        {
            "conflict": Advice("Look at what is there, then decide."),
            "idempotency_mismatch": Advice("A new request needs a new key; repeat the old one unchanged."),
            "already_started": Advice(
                "`.result()` joins the run that there is; `.options(restart=True)` begins anew once it has ended."
            ),
            "schedule_exists": Advice("`replace=True`, or delete it first."),
            "operation_settled": Advice("There is nothing left to do."),
            "version_conflict": Advice("Look at the state as it is now and edit again."),
            "entity_exists": Advice("Choose an address that is not in use."),
            "run_ended": Advice("Ask for its result; start it again with `restart=True` if it should live on."),
            "already_committed": Advice("There is nothing left to do."),
            "transaction_conflict": Advice("Run it again; `@atomic` does."),
            "call_cycle": Advice("Break the ring that the message names: send instead of waiting at one place."),
            "call_too_deep": Advice(
                "Start the run and wait for it elsewhere, or make the recursion flat.",
                meaning="More than 100 runs would wait for one another in a row. Nothing was sent.",
            ),
            "message_loop": Advice(
                "Entities that send to each other for ever on purpose use a delay, a reminder or a workflow.",
                then="The message that went round becomes a dead letter; the ring has ended.",
                meaning="10,000 messages of entities each caused the next one (`hops_max`). The turn changed nothing.",
            ),
        },
    ),
    Section(
        "Set aside until somebody mends it",
        "What is stored stays as it is. All other entities go on.",
        {
            "run_parked": Advice(
                "Deploy code that fits the journal (`patched`); with `why: host_killed` fix what kills, then `resume` "
                "([repair](guide.md#repair)).",
                then="Handlers and queries of the entity go on. Every host that gains its shard tries it once, so a "
                "fixed deploy resumes it; one that killed hosts waits for `resume`.",
                meaning="The run's code no longer fits its journal, or it ended the hosts that ran it.",
            ),
            "entity_parked": Advice(
                "Deploy a class, or an `@upgrade`, that reads the stored state. With `why: damaged_row` restore or "
                "accept its rows ([operations](operations.md)).",
                then="Its messages wait. The next one after a deploy tries to load it again.",
            ),
            "payload_unreadable": Advice(
                "Give the hosts the key that it was sealed with ([encryption](encryption.md)).",
                then="Its messages wait; it is read again once the hosts run with other keys.",
            ),
            "damaged_row": Advice(
                "Restore the row from a backup, or take it for right: `perdure db accept Type/key`.",
                then="The entity or run is parked; a damaged message becomes a dead letter that was not applied.",
            ),
        },
    ),
    Section(
        "Nothing was applied: try later",
        "A client in Python repeats it with the same id until its deadline; this is what it says then.",
        {
            "unavailable": Advice("Try again later. `perdure doctor` says what is out of order."),
            "store_unavailable": Advice(
                "See whether Postgres is up and takes connections.",
                then="Hosts connect again by themselves; commits whose answer was lost are looked up first.",
                meaning="The database cannot be reached, or refuses for now.",
            ),
            "busy": Advice(
                "Try later, with back-off. A mailbox that is always full needs fewer senders or quicker handlers.",
                then="Nothing is queued for you: what is refused is forgotten.",
            ),
            "transaction_timeout": Advice("Try again; hold fewer entities, for less time."),
            "not_connected": Advice("`connect(...)` in a script, `lifespan=lifespan([...])` in a FastAPI application."),
            "host_fenced": Advice(
                "Nothing, if it is rare: the shard has another host by now.",
                then="This host ends itself; survivors take over, and clients repeat at them.",
            ),
            "write_conflict": Advice(
                "Nothing, if it is rare. If not, something else writes to Perdure's tables.",
                then="The host reloads those entities and runs their messages again, once.",
                meaning="The store has other versions of some entities than the host believed. Nothing was written.",
            ),
        },
    ),
    Section(
        "Nobody knows whether it was applied",
        "It may still be applied; never twice.",
        {
            "outcome_unknown": Advice("Repeat it with the same idempotency key: you get the first outcome."),
            "timeout": Advice("Repeat it with the same idempotency key, and perhaps a longer timeout."),
        },
    ),
    Section(
        "Your code said no, or ended",
        "The answer is kept: the same idempotency key gets it again.",
        {
            "application_error": Advice(
                "It is yours: callers see its message, `type` and details.",
                then="A handler's turn is undone; a run ends with it; an activity is tried again by its policy.",
                meaning="Your code raised `ApplicationError` on purpose.",
            ),
            "workflow_failed": Advice(
                "The cause is attached. `rerun(from_operation=…)` goes on from there once it is mended.",
                then="The run has ended; the state is as its code left it.",
                meaning="The workflow raised. `error_type` names your exception class.",
            ),
            "workflow_cancelled": Advice("Nothing, if it was meant. `rerun()` begins it again."),
            "workflow_terminated": Advice("Nothing, if it was meant. `rerun()` begins it again."),
            "journal_too_long": Advice(
                "`continue_as_new` long before; it warns early.", then="The run has ended; its state is kept."
            ),
            "activity_failed": Advice(
                "The cause is the last error. Catch it in the workflow, allow more attempts, or "
                '`on_exhausted="pause"` to let a person decide.',
                then="It is raised at the workflow's await.",
            ),
            "activity_timeout": Advice(
                "`timeout` in the details says which bound: `attempt`, `total` or `heartbeat`. Raise it, or do less.",
                then="It is raised at the workflow's await.",
            ),
            "activity_host_lost": Advice(
                "Ask the outside, by the idempotency key, whether it took effect; allow more than one attempt.",
                then="It is raised at the workflow's await.",
            ),
            "decision_overdue": Advice(
                "Catch it in the workflow and go on without the decision, or let it fail.",
                then="It is raised at the workflow's await; the decision leaves the work list.",
            ),
            "saga_failed": Advice(
                "Somebody has to look: `failed` and `unknown` name the steps that may still stand, the cause is why.",
                then="The other steps are undone; nothing more is tried.",
                meaning="A saga failed, and not everything could be undone.",
            ),
        },
    ),
    Section(
        "Your code is broken",
        "A call gets the error. A one-way message is tried again with back-off, then becomes a dead letter.",
        {
            "handler_failed": Advice(
                "Fix the handler; `error_type` names the exception, the host's log has its traceback."
            ),
            "handler_timeout": Advice("Do less in a turn; what takes long belongs into an activity."),
            "host_killed": Advice(
                "Move blocking or crashing work into an activity. The message says where it blocked.",
                then="It is refused for good; a run that does it is parked. The hosts are replaced.",
            ),
            "staged_sql_failed": Advice("The message has the database's reason; mend the statement or its values."),
            "staged_refused": Advice(
                "As for `staged_sql_failed`.", then="Between store and engine; callers see `staged_sql_failed`."
            ),
            "not_storable": Advice("Report it: values are checked before they get here.", then="The turn is undone."),
            "durable_await_in_handler": Advice("Use `.send(...)`, or make it a workflow."),
            "not_in_workflow": Advice("Call it where the message says: inside a workflow, or inside a turn."),
            "not_durable": Advice(
                "Do it in an activity. The message names the alternative.", then="The run fails with it."
            ),
            "read_only": Advice("Make it a handler, or change nothing.", then="What the query changed was undone."),
            "unserialisable_state": Advice("The message names the field; give it a type that pydantic writes as JSON."),
            "unserialisable_result": Advice("Return what the signature declares; the message names the field."),
            "error": Advice(
                "Read the message; report it if it says nothing.", meaning="The base of all errors of Perdure."
            ),
        },
    ),
)
"""In the order of the documentation."""
