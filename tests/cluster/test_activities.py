"""What runs in a Ray worker for one attempt, without Ray: it streams heartbeats, then its end."""

import asyncio
import json
import time

import pytest

from perdure.cluster import activities
from perdure.cluster.activities import BEAT, DONE, FAILED, LATER, attempt
from perdure.entities import ActivityInfo, CompleteLater, EntityId, activity, activity_info, heartbeat


@activity(num_cpus=1)
def counts(to: int) -> int:
    for number in range(to):
        heartbeat({"done": number})
        time.sleep(0.001)
    return to


@activity(num_cpus=1)
async def tells() -> list[object]:
    await asyncio.sleep(0)
    heartbeat("alive")
    info = activity_info()
    return [info.attempt, info.heartbeat_details, info.is_cancelled]


@activity(num_cpus=1)
def hands_over() -> int:
    raise CompleteLater


@activity(num_cpus=1)
def exits() -> None:
    raise SystemExit(3)


def run(name: str, arguments: bytes = b"{}") -> list[tuple[str, bytes]]:
    info = ActivityInfo(
        entity=EntityId("A", "a"),
        activity=name,
        operation="run/r/0",
        attempt=2,
        idempotency_key="A/a/run/r/0",
        heartbeat_details={"page": 3},
    )
    return list(attempt(__name__, name, info, arguments))


def test_heartbeats_come_before_the_result_and_the_last_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activities, "BEAT_EVERY_S", 0.01)
    *beats, end = run("counts", b'{"to":50}')
    assert end == (DONE, b"50")
    assert 1 <= len(beats) < 50, "of those in quick succession the last"
    assert {what for what, _ in beats} == {BEAT}
    assert json.loads(beats[-1][1]) == {"done": 49}


def test_async_functions_run_and_know_their_attempt() -> None:
    assert run("tells")[-1] == (DONE, b'[2,{"page":3},false]')


def test_completion_from_outside_is_handed_on() -> None:
    assert run("hands_over") == [(LATER, b"")]


@pytest.mark.parametrize(
    ("name", "text"), [("exits", "3"), ("nothing", "has no attribute"), ("run", "not an @activity")]
)
def test_errors_travel_as_values(name: str, text: str) -> None:
    [(what, data)] = run(name)
    assert what == FAILED
    assert text in json.loads(data)["message"]


def test_wrong_arguments_are_an_error() -> None:
    [(what, data)] = run("counts", b'{"to":"x"}')
    assert (what, json.loads(data)["code"]) == (FAILED, "invalid_argument")
