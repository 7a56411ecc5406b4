"""Making clients prove their address before anything is kept for them.

A first flight costs its sender nothing and may carry any address. While many handshakes are
under way, the answer to one is a Retry packet, whose token only the owner of the address can
send back (RFC 9000 section 8.1.2).
"""

from __future__ import annotations

import os
import struct
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE = 12
_LIFETIME = 10.0  # seconds
_EXPIRY = struct.Struct("!d")


class RetryTokens:
    """Seals what a server would otherwise have to remember of a first flight."""

    def __init__(self) -> None:
        self._aead = AESGCM(os.urandom(16))

    def seal(self, original_id: bytes, connection_id: bytes, address: Any, now: float) -> bytes:
        """A token for the client at ``address``, which shall go on with ``connection_id``."""
        nonce = os.urandom(_NONCE)
        content = _EXPIRY.pack(now + _LIFETIME) + original_id
        return nonce + self._aead.encrypt(nonce, content, _bound_to(connection_id, address))

    def open(self, token: bytes, connection_id: bytes, address: Any, now: float) -> bytes | None:
        """The connection id the client began with, or None if the token proves nothing."""
        nonce, sealed = token[:_NONCE], token[_NONCE:]
        try:
            content = self._aead.decrypt(nonce, sealed, _bound_to(connection_id, address))
        except (InvalidTag, ValueError):
            return None
        (expiry,) = _EXPIRY.unpack_from(content)
        return content[_EXPIRY.size :] if now < expiry else None


def _bound_to(connection_id: bytes, address: Any) -> bytes:
    return connection_id + repr(address).encode()
