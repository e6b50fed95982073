"""Passwords while they wait: sealed for storing, and known again without being kept.

A sealed password is AES-256-GCM with the link's id as associated data, so that a box moved to the
row of another link does not open. A digest is HMAC-SHA-256 over platform, server, login and
password: with it known bad credentials are recognised long after they were erased, and whoever
reads the database can neither recover a password nor confirm a guess without the key. Both keys are
derived from the one that is configured, and carry its id, so that keys can be replaced while
passwords wait.
"""

import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from brokerd.config.settings import Secret, SecretsSettings
from brokerd.connector.provisioning.ports import Sealed
from brokerd.domain import Identity, LinkId

_NONCE_BYTES = 12
_KEY_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class _Keys:
    sealing: bytes = field(repr=False)
    digesting: bytes = field(repr=False)


class Vault:
    """Seals, opens and recognises passwords; `random_bytes` must be unpredictable."""

    def __init__(self, settings: SecretsSettings, *, random_bytes: Callable[[int], bytes]) -> None:
        self._current = settings.current
        self._keys = {key_id: _derived(key) for key_id, key in settings.keys.items()}
        self._random_bytes = random_bytes

    @property
    def has_keys(self) -> bool:
        """Say whether passwords can be taken at all."""
        return bool(self._keys)

    def seal(self, password: Secret, *, link_id: LinkId) -> Sealed:
        """Seal a password for a link with the current key."""
        nonce = self._random_bytes(_NONCE_BYTES)
        cipher = AESGCM(self._keys[self._current].sealing)
        box = cipher.encrypt(nonce, password.reveal().encode(), link_id.encode())
        return Sealed(key_id=self._current, box=nonce + box)

    def open(self, sealed: Sealed, *, link_id: LinkId) -> Secret | None:
        """Open a password; None when its key is gone, or it was not sealed for this link."""
        keys = self._keys.get(sealed.key_id)
        if keys is None:
            return None
        nonce, box = sealed.box[:_NONCE_BYTES], sealed.box[_NONCE_BYTES:]
        try:
            return Secret(AESGCM(keys.sealing).decrypt(nonce, box, link_id.encode()).decode())
        except (InvalidTag, ValueError):  # of another link, or no box of ours at all
            return None

    def digest(self, identity: Identity, password: Secret) -> str:
        """Return what credentials are recognised by, made with the current key."""
        return self._digest(self._current, identity, password)

    def digests(self, identity: Identity, password: Secret) -> Sequence[str]:
        """Return every digest under which these credentials may have been remembered."""
        return [self._digest(key_id, identity, password) for key_id in self._keys]

    def _digest(self, key_id: str, identity: Identity, password: Secret) -> str:
        parts = (identity.platform, identity.server, identity.login, password.reveal())
        # NUL parts them: none of them can hold it
        message = "\0".join(parts).encode()
        made = hmac.new(self._keys[key_id].digesting, message, hashlib.sha256)
        return f"{key_id}:{made.hexdigest()}"


def _derived(key: Secret) -> _Keys:
    return _Keys(sealing=_hkdf(key, b"brokerd sealing"), digesting=_hkdf(key, b"brokerd digest"))


def _hkdf(key: Secret, purpose: bytes) -> bytes:
    derivation = HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=purpose)
    return derivation.derive(key.reveal().encode())
