"""Hosts of a real cluster encrypt with keys of their own, which no target and no table holds (security S31, S33)."""

from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from perdure.cluster.codecs import load_codec
from perdure.entities import StartRefused, find, history, new_encryption_key
from perdure.entities.encryption import KEYS, KEYS_FILE

from .conftest import World
from .counter import Counter

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300), pytest.mark.xdist_group("cluster")]
CODEC = "perdure.entities.encryption:from_environment"


def stored(world: World) -> str:
    tables = ("entities", "history", "meta", "hosts")
    with psycopg.connect(world.dsn) as connection:
        return "\n".join(
            str(row)
            for table in tables
            for row in connection.execute(
                sql.SQL("select t::text from {} t").format(sql.Identifier(world.namespace, table))
            )
        )


async def test_hosts_encrypt_rotate_and_keep_their_keys(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, first, second = tmp_path / "keys", new_encryption_key("k1"), new_encryption_key("k2")
    tmp_path.chmod(0o755)
    file.write_text(first)
    environment = {KEYS_FILE: str(file)}
    monkeypatch.setenv(KEYS_FILE, str(file))
    load_codec.cache_clear()
    await world.up(1, codec=CODEC, environment=environment)
    await world.connect(codec=CODEC)
    await Counter.ref("a").note("canary-5521")
    assert "canary" in str((await history(Counter.ref("a"))).events)
    assert "canary" not in stored(world)
    blind = await world.connect(is_default=False)
    told = str((await history(Counter.ref("a"), archive=blind.archive)).events)
    assert "canary" not in told
    assert "encrypted (key id k1)" in told
    assert (await find(Counter, value=0, archive=blind.archive)).unreadable == ["a"]
    with pytest.raises(StartRefused, match="the namespace is encrypted"):
        await world.up(1)
    with pytest.raises(StartRefused, match="stored in the database"):
        await world.up(1, codec=CODEC, environment={KEYS: first})
    file.write_text(f"{second}\n{first}\n")
    await world.up(1, codec=CODEC, environment=environment, release="new key")
    await Counter.ref("a").note("again")
    assert await Counter.ref("a").notes() == ["canary-5521", "again"]
    rows = stored(world)
    assert "canary" not in rows
    assert "$enc:k1:" in rows, "history of the old key"
    assert "$enc:k2:" in rows
    for key in (first, second):
        assert key.partition("=")[2] not in rows
    load_codec.cache_clear()
