"""Payload encryption: AES-256-GCM with several keys, of which one writes and all read (security S31–S33).

What it upholds: whoever can read the database, its backups or its log learns no payload; whoever can write there cannot
change one, nor move it to another row or entity, without that being noticed. What it does not hide: see
docs/encryption.md. It does not notice that a row is missing, or that *all* of an entity's rows are older ones.

Blob: `salt (12) · nonce (12) · ciphertext and tag`. AES-GCM with random nonces is safe for about 2^32 messages per key,
and a busy cluster writes as many in a day or two. So each process encrypts under a subkey of its own,
HMAC-SHA256(key, label · salt), and takes a new salt after 2^28 messages: what bounds a key is then the number of salts.

Rotation: put the new key first, keep the old one for reading, replace the hosts. Every write uses the new key; an old
key may go when no row names it any more. A key that is missing makes what it wrote unreadable: such entities are
parked, and nothing of theirs is overwritten.
"""

import base64
import binascii
import os
import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from hmac import digest
from pathlib import Path
from typing import TYPE_CHECKING, Self

from .codec import CannotDecode
from .errors import StartRefused

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEYS = "PERDURE_ENCRYPTION_KEYS"
KEYS_FILE = "PERDURE_ENCRYPTION_KEYS_FILE"
ACCEPT_PLAIN = "PERDURE_ENCRYPTION_ACCEPT_PLAIN"
SEARCHABLE = "PERDURE_ENCRYPTION_SEARCHABLE"
VARIABLES = (KEYS, KEYS_FILE, ACCEPT_PLAIN, SEARCHABLE)

KEY_BYTES = 32
MESSAGES_MAX = 2**28
"""Messages per subkey: the chance that two of them got one nonce is then below 2^-40."""
SUBKEYS_KEPT = 4_096

_LABEL = b"perdure payload 1"
_SALT, _NONCE, _TAG = 12, 12, 16
_KEY_ID = re.compile(r"[A-Za-z0-9_.-]{1,32}")


class EncryptionCodec:
    """See the module. `keys`: 32 random bytes each, by id; the first one writes (or the one that `active` names).

    searchable: by entity type, fields of the state that are stored in the clear as well, so that `index=` and `find`
    can use them. accept_plain: read what was written before there was a codec, until everything has been written again.
    Raises StartRefused if a key cannot be used, or `cryptography` is not installed.
    """

    def __init__(
        self,
        keys: Mapping[str, bytes],
        *,
        active: str = "",
        searchable: Mapping[str, Collection[str]] | None = None,
        accept_plain: bool = False,
    ) -> None:
        self._aead = _aesgcm()
        self._keys = {key_id: _checked(key_id, key) for key_id, key in keys.items()}
        self.active = active or next(iter(self._keys), "")
        """Id of the key that encrypts."""
        if self.active not in self._keys:
            raise StartRefused(f"no encryption key {self.active!r} among {sorted(self._keys)}; one has to be active")
        self.searchable = dict(searchable or {})
        self.accept_plain = accept_plain
        self._subkey = lru_cache(SUBKEYS_KEPT)(self._derived)
        self._salt, self._left = b"", 0

    def __repr__(self) -> str:
        return f"<EncryptionCodec writes {self.active!r}, reads {sorted(self._keys)}>"

    @classmethod
    def from_environment(cls) -> Self:
        """See the function of this name."""
        return cls(
            keys_from_environment(),
            searchable=_searchable(os.environ.get(SEARCHABLE, "")),
            accept_plain=os.environ.get(ACCEPT_PLAIN, "").lower() in {"1", "true", "yes"},
        )

    def encode(self, data: bytes, context: bytes) -> tuple[str, bytes]:
        """See PayloadCodec."""
        if not self._left:
            self._salt, self._left = os.urandom(_SALT), MESSAGES_MAX
        self._left -= 1
        salt, nonce = self._salt, os.urandom(_NONCE)
        return self.active, b"".join((salt, nonce, self._subkey(self.active, salt).encrypt(nonce, data, context)))

    def decode(self, key_id: str, blob: bytes, context: bytes) -> bytes:
        """See PayloadCodec."""
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - an optional dependency

        if key_id not in self._keys:
            raise CannotDecode(f"it was encrypted with key {key_id!r}, which is not among the keys here")
        salt, nonce, ciphertext = blob[:_SALT], blob[_SALT : _SALT + _NONCE], blob[_SALT + _NONCE :]
        if len(ciphertext) < _TAG:
            raise CannotDecode(f"what key {key_id!r} encrypted is truncated")
        try:
            return self._subkey(key_id, salt).decrypt(nonce, ciphertext, context)
        except InvalidTag:
            raise CannotDecode(
                f"what key {key_id!r} encrypted does not belong here: it was changed, or comes from another row, entity"
                " or namespace, or there is another key under this id"
            ) from None

    def _derived(self, key_id: str, salt: bytes) -> "AESGCM":
        return self._aead(digest(self._keys[key_id], _LABEL + salt, "sha256"))


def from_environment() -> EncryptionCodec:
    """A codec with the keys in the environment, to be named as `codec="perdure.entities.encryption:from_environment"`.

    `PERDURE_ENCRYPTION_KEYS=new=<base64>,old=<base64>`, or `PERDURE_ENCRYPTION_KEYS_FILE` with one `id=<base64>` per
    line; the first one writes. `PERDURE_ENCRYPTION_ACCEPT_PLAIN=1` and `PERDURE_ENCRYPTION_SEARCHABLE=Order.status` are
    the options of the same names. Raises StartRefused.
    """
    return EncryptionCodec.from_environment()


def new_encryption_key(key_id: str) -> str:
    """A fresh key as `id=<base64>`, as the environment and key files hold it."""
    return f"{key_id}={base64.b64encode(os.urandom(KEY_BYTES)).decode()}"


def keys_from_environment() -> dict[str, bytes]:
    """The keys that the environment, or the file that it names, holds. Raises StartRefused."""
    text, source = os.environ.get(KEYS, "").replace(",", "\n"), KEYS
    path = os.environ.get(KEYS_FILE, "")
    if path and not text:
        source = f"{KEYS_FILE} ({path})"
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:
            raise StartRefused(f"{source} cannot be read: {type(error).__name__}") from None
    keys: dict[str, bytes] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key_id, separator, value = line.strip().partition("=")
        try:
            key = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if not separator or not key or key_id in keys:
            # Never the text itself: it may be a key in the wrong place.
            raise StartRefused(
                f"{source}: entry {number} is not `id=<base64 of 32 bytes>` with an id of its own. Make one with "
                "`python -c 'from perdure.entities import new_encryption_key; print(new_encryption_key(\"k1\"))'`"
            )
        keys[key_id] = key
    if not keys:
        raise StartRefused(f"no encryption keys: set {KEYS} or {KEYS_FILE} on every host and gateway")
    return keys


def _checked(key_id: str, key: bytes) -> bytes:
    if not _KEY_ID.fullmatch(key_id):
        raise StartRefused("the id of an encryption key is 1 to 32 letters, digits, or any of _.-")
    if len(key) != KEY_BYTES:
        raise StartRefused(f"encryption key {key_id!r} has {len(key)} bytes; it needs {KEY_BYTES} random ones")
    return key


def _searchable(text: str) -> dict[str, set[str]]:
    """`Order.status,Order.city` by type."""
    found: dict[str, set[str]] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        type_name, dot, field = part.rpartition(".")
        if not (dot and type_name and field):
            raise StartRefused(f"{SEARCHABLE}: {part[:80]!r} is not Type.field")
        found.setdefault(type_name, set()).add(field)
    return found


def _aesgcm() -> "type[AESGCM]":
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - an optional dependency
    except ImportError:
        raise StartRefused("encryption needs another package: pip install 'perdure[encryption]'") from None
    return AESGCM
