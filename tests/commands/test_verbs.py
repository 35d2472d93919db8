"""Every verb does what its help says, on entities that really run."""

import inspect
import json
import re
import socket
import time

import pytest
import yaml

from perdure.api.commands import register
from perdure.api.commands.gateway import entity_path
from perdure.api.commands.options import arguments_of
from perdure.api.failures import Failure

from .conftest import Perdure, told
from .shop import broken

JSON = ("-o", "json")


def test_types_and_entities_are_listed(perdure: Perdure) -> None:
    assert "Parcel" in perdure("ls").stdout
    for number in range(3):
        perdure("call", f"Parcel/ls-{number}", "pack", f"grams={100 + number}")
    found = told(perdure("ls", "Parcel", "--where", "status=packed", "--where", "grams__ge=101", *JSON))
    assert sorted(match["key"] for match in found["matches"]) == ["ls-1", "ls-2"]
    table = perdure("ls", "Parcel", "--where", "status=packed").stdout.splitlines()
    assert table[0].split()[:2] == ["KEY", "VERSION"]
    assert any(line.startswith("ls-0 ") for line in table)
    page = perdure("ls", "Parcel", "--limit", "1")
    assert "more: --after " in page.stderr


def test_a_call_answers_and_is_seen_in_state_history_and_diff(perdure: Perdure) -> None:
    assert perdure("call", "Parcel/one", "pack", "grams=12", "label=fragile").stdout == "fragile\n"
    perdure("call", "Parcel/one", "pack", "--json", '{"grams": 13}', "--idempotency-key", "k")
    perdure("call", "Parcel/one", "pack", "--json", '{"grams": 13}', "--idempotency-key", "k")
    assert perdure("query", "Parcel/one", "weight", "unit=grams").stdout == "13 grams\n"
    assert told(perdure("state", "Parcel/one", *JSON))["grams"] == 13
    assert told(perdure("state", "Parcel/one", "--at", "1", *JSON))["grams"] == 12
    (change,) = told(perdure("diff", "Parcel/one", "1", "2", *JSON))
    assert (change["path"], change["value"]) == ("/grams", 13)
    page = told(perdure("history", "Parcel/one", *JSON))
    assert [event["name"] for event in page["events"]] == ["pack", "pack"]
    assert "pack" in perdure("history", "Parcel/one", "--newest-first").stdout
    got = told(perdure("get", "Parcel/one", *JSON))
    assert (got["version"], got["state"]["status"]) == (2, "packed")
    assert yaml.safe_load(perdure("get", "Parcel/one", "-o", "yaml").stdout) == got
    assert told(perdure("export", "Parcel/one"))["perdure_export"] == 1


def test_a_workflow_is_started_repaired_and_awaited(perdure: Perdure) -> None:
    broken.add("two")
    perdure("start", "Parcel/two", "bring")
    perdure("result", "Parcel/two", "bring", "--timeout", "0.2", exit_code=7)
    waiting = perdure("operations", "Parcel/two", "bring")
    assert "nobody at home" in waiting.stdout
    perdure("retry", "Parcel/two", "bring", "0", exit_code=5 if "retrying" in waiting.stdout else 0)
    perdure("complete", "Parcel/two", "bring", "0", '"at the neighbour"', "--reason", "asked")
    assert perdure("result", "Parcel/two", "bring").stdout == "at the neighbour\n"
    assert perdure("start", "Parcel/three", "bring", "--wait").stdout == "three is there\n"
    broken.add("four")
    perdure("start", "Parcel/four", "bring")
    perdure("pause", "Parcel/four", "bring", "--reason", "look")
    perdure("resume", "Parcel/four", "bring")
    perdure("fail", "Parcel/four", "bring", "0", "it burned")
    assert "it burned" in perdure("result", "Parcel/four", "bring", exit_code=1).stderr


def test_messages_wait_in_mailboxes_and_runs_can_be_ended(perdure: Perdure) -> None:
    perdure("start", "Parcel/five", "read")
    assert perdure("send", "Parcel/five", "notes", "--json", '"hello"').stdout == "accepted: Parcel/five notes\n"
    assert perdure("result", "Parcel/five", "read").stdout == "hello\n"
    for key, verb in (("six", "cancel"), ("seven", "terminate")):
        perdure("start", f"Parcel/{key}", "read")
        assert "say --yes" in perdure(verb, f"Parcel/{key}", "read", exit_code=2).stderr
        perdure(verb, f"Parcel/{key}", "read", "--yes")
        perdure("result", f"Parcel/{key}", "read", exit_code=1)


def test_reminders_and_inbox(perdure: Perdure) -> None:
    perdure("call", "Parcel/eight", "later")
    assert perdure("reminders", "Parcel/eight").stdout.splitlines()[1].startswith("expiry")
    assert told(perdure("inbox", "Parcel/eight", *JSON)) == []
    assert told(perdure("outbox", "Parcel/eight", *JSON)) == {"messages": [], "next": None, "is_cut": False}
    assert perdure("outbox", "Parcel/eight").stdout.split()[:3] == ["SENT", "AT", "TO"]


def test_state_is_edited_with_a_version_check_and_forked(perdure: Perdure) -> None:
    perdure("call", "Parcel/nine", "pack", "grams=5")
    perdure("edit", "Parcel/nine", "grams=6", "--expect", "0", "--yes", exit_code=5)
    assert "version 2" in perdure("edit", "Parcel/nine", "grams=6", "--yes", "--reason", "weighed again").stdout
    perdure("edit", "Parcel/nine", "grams=heavy", "--yes", exit_code=2)
    assert perdure("fork", "Parcel/nine", "nine-copy", "--at", "1").stdout == "forked: Parcel/nine-copy\n"
    assert told(perdure("state", "Parcel/nine-copy", *JSON))["grams"] == 5
    perdure("fork", "Parcel/nine", "nine-copy", exit_code=5)


def test_dead_letters_are_listed_sent_again_and_discarded(perdure: Perdure) -> None:
    perdure("send", "Parcel/ten", "lose", exit_code=1)
    assert perdure("query", "Parcel/ten", "weight").stdout == "0 g\n"
    (letter,) = [one for one in told(perdure("letters", *JSON))["letters"] if one["key"] == "ten"]
    assert "cannot be lost" in perdure("letters", "--type", "Parcel").stdout
    again = perdure("resend", "Parcel/ten", letter["message_id"]).stdout.split()[-1]
    perdure("query", "Parcel/ten", "weight")
    perdure("discard", "Parcel/ten", again, "--yes")
    assert [one for one in told(perdure("letters", *JSON))["letters"] if one["key"] == "ten"] == []


def test_schedules(perdure: Perdure) -> None:
    perdure("schedule", "show", "nightly", exit_code=4)
    spec = ("type=Parcel", "key=sched", "name=later", "cron=0 3 * * *")
    perdure("schedule", "create", "nightly", *spec)
    assert "0 3 * * *" in perdure("schedule", "show", "nightly").stdout
    assert "Parcel/sched.later" in perdure("schedule", "list").stdout
    perdure("schedule", "pause", "nightly", "--reason", "holidays")
    assert "holidays" in perdure("schedule", "show", "nightly").stdout
    perdure("schedule", "unpause", "nightly")
    perdure("schedule", "trigger", "nightly")
    perdure("schedule", "backfill", "nightly", "2026-01-01T00:00:00Z", "2026-01-03T12:00:00Z")
    perdure("schedule", "delete", "nightly", "--yes")
    perdure("schedule", "show", "nightly", exit_code=4)


def test_a_whole_namespace_is_looked_at(perdure: Perdure) -> None:
    perdure("call", "Parcel/whole-1", "pack", "grams=12")
    assert re.search(r"(?m)^Parcel +[\d,]+ ", perdure("overview").stdout)
    assert told(perdure("overview", *JSON))["hosts"]["alive"] == 1
    found = told(perdure("entities", "--type", "Parcel", "--prefix", "whole", *JSON))
    assert [row["key"] for row in found["entities"]] == ["whole-1"]
    perdure("call", "Parcel/whole-2", "pack", "grams=12")
    page = perdure("entities", "--limit", "1")
    assert page.stdout.splitlines()[0].split()[:2] == ["ENTITY", "STATUS"]
    assert "more: --after " in page.stderr
    assert "alive" in perdure("hosts").stdout
    assert "pack" in perdure("types").stdout
    perdure("edit", "Parcel/whole-1", "grams=13", "--yes", "--reason", "weighed again", "--operator", "ann")
    assert "weighed again" in perdure("audit", "--operator", "ann", "--type", "Parcel").stdout
    perdure("entities", "--status", "asleep", exit_code=2)


def test_decisions_are_listed_and_taken(perdure: Perdure) -> None:
    perdure("start", "Parcel/customs", "clear", "due_s=3600")
    deadline = time.monotonic() + 20
    while not (rows := told(perdure("worklist", "list", "--group", "customs", *JSON))["decisions"]):
        assert time.monotonic() < deadline
    assert "clear it?" in perdure("worklist", "list").stdout
    (row,) = rows
    perdure("worklist", "decide", row["id"], "perhaps", exit_code=2)
    assert perdure("worklist", "decide", row["id"], "clear", "--reason", "empty").stdout == "decided\n"
    assert perdure("result", "Parcel/customs", "clear").stdout == "clear\n"
    perdure("worklist", "decide", row["id"], "clear", exit_code=5)


@pytest.mark.parametrize(
    ("words", "exit_code", "code"),
    [
        (("get", "Parcel/nobody"), 4, "no_such_entity"),
        (("get", "Parcel"), 2, "bad_address"),
        (("call", "Parsel/x", "pack"), 4, "unknown_type"),
        (("call", "Parcel/x", "pick"), 4, "unknown_handler"),
        (("call", "Parcel/x", "pack"), 2, "invalid_argument"),
        (("call", "Parcel/x", "pack", "grams=0"), 1, "rejected"),
        (("call", "Parcel/x", "pack", "grams"), 2, "bad_arguments"),
        (("call", "Parcel/x", "pack", "a=1", "a=2"), 2, "bad_arguments"),
        (("call", "Parcel/x", "pack", "a=1", "--json", "{}"), 2, "bad_arguments"),
        (("call", "Parcel/x", "pack", "--json", "{"), 2, "bad_arguments"),
        (("result", "Parcel/x", "bring"), 4, "no_such_run"),
        (("state", "Parcel/one-2", "--at", "3"), 4, ""),
        (("ls", "Parcel", "--where", "colour=red"), 2, ""),
    ],
)
def test_what_goes_wrong_is_one_line_and_an_exit_code(
    perdure: Perdure, words: tuple[str, ...], exit_code: int, code: str
) -> None:
    stderr = perdure(*words, exit_code=exit_code).stderr
    assert re.fullmatch(r"error\[\w+\]: .+\n", stderr), stderr
    assert stderr.startswith(f"error[{code}" if code else "error[")


def test_no_gateway(perdure: Perdure) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    stderr = perdure("get", "Parcel/one", "--url", f"http://127.0.0.1:{port}", exit_code=3).stderr
    assert "gateway_unreachable" in stderr
    assert "perdure dev" in stderr


def test_arguments() -> None:
    assert arguments_of(["a=1", "b=x y", 'c={"d": []}', "e="], "") == {"a": 1, "b": "x y", "c": {"d": []}, "e": ""}
    assert arguments_of(None, "[1]") == [1]
    assert entity_path("Order/a/b c") == "/entities/Order/a%2Fb%20c"
    with pytest.raises(Failure, match="Type/key"):
        entity_path("Order/")


def test_the_help_of_every_verb_has_an_example(perdure: Perdure) -> None:
    groups = (
        ((), register.VERBS),
        (("schedule",), register.SCHEDULE_VERBS),
        (("worklist",), register.WORKLIST_VERBS),
    )
    for group, verbs in groups:
        for verb in verbs:
            words = (*group, register.name_of(verb))
            assert f"Example: perdure {' '.join(words)}" in (inspect.getdoc(verb) or ""), words
            assert "Example: perdure" in perdure(*words, "--help").stdout
    assert json.loads(perdure("openapi").stdout)["info"]["title"] == "Perdure"
