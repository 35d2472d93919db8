"""`perdure check` and `perdure replay`: exit codes and words, for a CI to act on."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from perdure.api.cli import app
from perdure.entities.testing import LocalCluster
from perdure.entities.testing.replay import encode_recording, recorded_runs

MODULE = "tests.api.versions"


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_check_writes_the_file_and_then_passes_until_a_state_changes(tmp_path: Path) -> None:
    lock = tmp_path / "schemas.json"
    first = command("check", MODULE, "--lock", lock)
    assert first.exit_code == 5
    assert "error[lock_file_stale]" in first.output
    assert "Parcel: not in the lock file yet" in first.output
    assert command("check", MODULE, "--lock", lock, "--write").exit_code == 0
    passed = command("check", MODULE, "--lock", lock)
    assert (passed.exit_code, passed.output.splitlines()[-1]) == (0, f"1 entity classes, their states fit {lock}")
    content = json.loads(lock.read_text())
    content["entities"]["Parcel"]["schema"]["properties"]["weight"] = {"type": "string"}
    content["entities"]["Parcel"]["fingerprint"] = "other"
    lock.write_text(json.dumps(content))
    changed = command("check", MODULE, "--lock", lock)
    assert changed.exit_code == 5
    assert "error[schema_changed]" in changed.output
    assert "Parcel: field `weight` was string and is integer" in changed.output
    assert command("check", MODULE, "--lock", lock, "--write").exit_code == 5, "writing does not hide it"
    assert command("check", MODULE, "--lock", lock, "--write", "--force").exit_code == 0
    lock.write_text("?")
    assert command("check", MODULE, "--lock", lock).exit_code == 2


async def test_replay_of_an_export_passes_or_names_the_misfit(tmp_path: Path) -> None:
    from .versions import Parcel

    async with LocalCluster([Parcel]) as cluster:
        await Parcel.ref("p").run.start(2)
        recorded = [loaded async for loaded in recorded_runs(cluster.store)]  # type: ignore[arg-type]
    file = tmp_path / "recorded.json"
    file.write_bytes(encode_recording(recorded))
    passed = command("replay", MODULE, "--file", file, "--export", tmp_path / "again.json")
    assert (passed.exit_code, passed.output.splitlines()[-1]) == (
        0,
        "1 live runs, 1 journal entries: all fit",
    ), passed.output
    assert (tmp_path / "again.json").read_bytes() == file.read_bytes()
    other = command("replay", "tests.api.versions_changed", "--file", file)
    assert other.exit_code == 5
    assert "Parcel/p.run: journal entry 0: recorded #0 timer, but the current code asks for #0 receive" in other.output
    assert "error[replay_mismatch]: 1 of 1 live runs" in other.output
    assert command("replay", MODULE, "--file", tmp_path / "none.json").exit_code == 2


def test_replay_needs_a_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PERDURE_DSN", raising=False)
    result = command("replay", MODULE)
    assert (result.exit_code, "error[no_dsn]" in result.output) == (2, True)
