"""What is warned of at the start: a Ray that others reach without a token, and Postgres in the clear (S8, S36)."""

from pathlib import Path

import pytest

from perdure.cluster.exposure import open_ray, plain_postgres

TOKEN = {"RAY_AUTH_TOKEN": "secret-canary"}


@pytest.mark.parametrize(
    ("address", "environ", "is_warned"),
    [
        ("10.0.0.5:6379", {}, True),
        ("ray-head.example:6379", {"RAY_AUTH_MODE": "disabled"} | TOKEN, True),
        ("10.0.0.5:6379", {"RAY_AUTH_MODE": "token"}, False),
        ("10.0.0.5:6379", {"RAY_AUTH_MODE": "TOKEN"}, False),
        ("10.0.0.5:6379", TOKEN, False),
        ("10.0.0.5:6379", {"RAY_AUTH_TOKEN": ""}, True),
        ("127.0.0.2:6379", {}, False),
        ("localhost:6379", {}, False),
        ("[::1]:6379", {}, False),
        ("127.0.0.1.evil.example:6379", {}, True),
    ],
)
def test_a_ray_that_others_reach_needs_its_token(
    tmp_path: Path, address: str, environ: dict[str, str], is_warned: bool
) -> None:
    told = open_ray(address, environ, tmp_path)
    assert bool(told) is is_warned
    assert not is_warned or ("RAY_AUTH_MODE=token" in told and address in told)
    assert "canary" not in told


def test_a_token_file_counts_unless_the_mode_says_otherwise(tmp_path: Path) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("t")
    assert open_ray("10.0.0.5:6379", {}, tmp_path) == ""
    assert open_ray("10.0.0.5:6379", {"RAY_AUTH_MODE": "disabled"}, tmp_path)


@pytest.mark.parametrize(
    ("dsn", "is_warned"),
    [
        ("postgresql://u:canary@db.example/x", True),
        ("postgresql://u:canary@db.example/x?sslmode=prefer", True),
        ("postgresql://u:canary@localhost,db.example/x", True),
        ("postgresql://u:canary@db.example/x?sslmode=verify-full", False),
        ("host=db.example password=canary sslmode=require", False),
        ("postgresql://u:canary@127.0.0.1/x", False),
        ("postgresql:///x?host=/var/run/postgresql", False),
        ("dbname=x", False),
        ("not a dsn canary", False),
    ],
)
def test_sessions_in_the_clear_are_warned_of(dsn: str, is_warned: bool) -> None:
    told = plain_postgres(dsn)
    assert bool(told) is is_warned
    assert "canary" not in told
    assert not is_warned or "db.example" in told
