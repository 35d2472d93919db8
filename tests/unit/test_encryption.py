"""The encryption codec alone: what it writes, what it refuses, and where its keys come from (security S31–S33)."""

import base64
import os
from pathlib import Path

import pytest

from perdure.cluster.codecs import check_change, check_environment, load_codec
from perdure.entities import (
    CannotDecode,
    DefinitionError,
    EncryptionCodec,
    Entity,
    StartRefused,
    new_encryption_key,
)
from perdure.entities.codec import check_searchable
from perdure.entities.definition import EntityDefinition
from perdure.entities.encryption import ACCEPT_PLAIN, KEYS, KEYS_FILE, SEARCHABLE, from_environment

K1, K2 = b"\x01" * 32, b"\x02" * 32
HERE = b"ns\0Order\0o-1\0state\x001"


def test_what_is_encoded_comes_back_and_shows_nothing() -> None:
    codec = EncryptionCodec({"k1": K1})
    key_id, blob = codec.encode(b"canary", HERE)
    assert key_id == "k1"
    assert b"canary" not in blob
    assert len(blob) == len(b"canary") + 40
    assert codec.decode(key_id, blob, HERE) == b"canary"
    assert codec.encode(b"canary", HERE)[1] != blob, "a fresh nonce each time"


@pytest.mark.parametrize("at", [0, 5, 12, 20, 24, 30, -1])
def test_a_changed_blob_is_refused(at: int) -> None:
    codec = EncryptionCodec({"k1": K1})
    _, blob = codec.encode(b"a payload", HERE)
    changed = bytearray(blob)
    changed[at] ^= 1
    with pytest.raises(CannotDecode, match="does not belong here"):
        codec.decode("k1", bytes(changed), HERE)


def test_a_blob_is_read_in_its_place_only() -> None:
    codec = EncryptionCodec({"k1": K1, "k2": K2})
    _, blob = codec.encode(b"a payload", HERE)
    for key_id, context in [("k1", HERE + b"0"), ("k1", b""), ("k2", HERE)]:
        with pytest.raises(CannotDecode, match="does not belong here"):
            codec.decode(key_id, blob, context)
    with pytest.raises(CannotDecode, match="'k3', which is not among the keys"):
        codec.decode("k3", blob, HERE)
    for length in (0, 11, 12, 24, 39):
        with pytest.raises(CannotDecode, match="truncated"):
            codec.decode("k1", blob[:length], HERE)


def test_the_first_key_writes_and_all_read() -> None:
    old = EncryptionCodec({"k1": K1})
    new = EncryptionCodec({"k2": K2, "k1": K1})
    blob = old.encode(b"x", HERE)
    assert new.decode(*blob, HERE) == b"x"
    assert new.encode(b"x", HERE)[0] == "k2"
    assert EncryptionCodec({"k2": K2, "k1": K1}, active="k1").active == "k1"


def test_a_subkey_is_left_before_its_nonces_may_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.entities.encryption.MESSAGES_MAX", 3)
    codec = EncryptionCodec({"k1": K1})
    blobs = [codec.encode(b"x", HERE)[1] for _ in range(7)]
    assert len({blob[:12] for blob in blobs}) == 3
    assert [codec.decode("k1", blob, HERE) for blob in blobs] == [b"x"] * 7


def test_a_codec_never_shows_its_keys() -> None:
    codec = EncryptionCodec({"k1": os.urandom(32)})
    assert repr(codec) == str(codec) == "<EncryptionCodec writes 'k1', reads ['k1']>"


@pytest.mark.parametrize(
    ("keys", "active", "problem"),
    [
        ({}, "", "one has to be active"),
        ({"k1": K1}, "k9", "no encryption key 'k9'"),
        ({"k1": b"short"}, "", "has 5 bytes; it needs 32"),
        ({"a:b": K1}, "", "the id of an encryption key"),
        ({"": K1}, "", "the id of an encryption key"),
    ],
)
def test_unusable_keys_are_refused(keys: dict[str, bytes], active: str, problem: str) -> None:
    with pytest.raises(StartRefused, match=problem):
        EncryptionCodec(keys, active=active)


def test_keys_come_from_the_environment_or_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (KEYS, KEYS_FILE):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(StartRefused, match="no encryption keys"):
        from_environment()
    first, second = new_encryption_key("k2"), new_encryption_key("k1")
    file = tmp_path / "keys"
    file.write_text(f"# newest first\n{first}\n\n{second}\n")
    monkeypatch.setenv(KEYS_FILE, str(file))
    monkeypatch.setenv(ACCEPT_PLAIN, "1")
    monkeypatch.setenv(SEARCHABLE, "Order.status, Order.city,Loan.amount")
    codec = from_environment()
    assert (codec.active, codec.accept_plain) == ("k2", True)
    assert codec.searchable == {"Order": {"status", "city"}, "Loan": {"amount"}}
    monkeypatch.setenv(KEYS, f"{second},{first}")
    assert from_environment().active == "k1", "the variable wins over the file"
    monkeypatch.setenv(KEYS_FILE, str(tmp_path / "missing"))
    monkeypatch.delenv(KEYS)
    with pytest.raises(StartRefused, match="cannot be read: FileNotFoundError"):
        from_environment()


@pytest.mark.parametrize("text", ["sEcReT", "k1=sEcReT?", "k1=", "k1=c0VjUmVU,k1=c0VjUmVU"])
def test_a_mistake_in_the_keys_is_told_without_quoting_them(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(KEYS, text)
    with pytest.raises(StartRefused, match=rf"{KEYS}: entry [12] is not|bytes; it needs 32") as refused:
        from_environment()
    assert "sEcReT" not in str(refused.value)
    assert base64.b64encode(b"sEcReT").decode() not in str(refused.value)


class Indexed(Entity, index=["status", "city"]):
    status: str = ""
    city: str = ""


def test_an_index_on_what_is_encrypted_is_refused_with_the_fix() -> None:
    definition = EntityDefinition(Indexed)
    with pytest.raises(DefinitionError, match=r"index=\['status', 'city'\].*searchable=\{'Indexed': \['city'\]\}"):
        check_searchable(EncryptionCodec({"k1": K1}, searchable={"Indexed": ["status"]}), definition)
    check_searchable(EncryptionCodec({"k1": K1}, searchable={"Indexed": ["city", "status"]}), definition)


def test_codecs_are_named_and_a_wrong_name_says_so() -> None:
    assert load_codec("") is None
    for wrong in ("nowhere", "nowhere:x", "perdure.entities.encryption:nothing"):
        with pytest.raises(StartRefused, match=f"codec='{wrong}' is not `module:factory`"):
            load_codec(wrong)


def test_a_namespace_does_not_lose_its_codec_by_oversight() -> None:
    with pytest.raises(StartRefused, match="the namespace is encrypted"):
        check_change("a:b", "")
    check_change("a:b", "none")
    check_change("a:b", "a:c")
    check_change("", "")


def test_keys_do_not_travel_in_the_targets() -> None:
    with pytest.raises(StartRefused, match="stored in the database"):
        check_environment({KEYS: "k1=…", "PYTHONPATH": "."})
    check_environment({KEYS_FILE: "/run/secrets/perdure", "PYTHONPATH": "."})
