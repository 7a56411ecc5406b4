"""Making clients prove their address before anything is kept for them.

A first flight costs its sender nothing and may carry any address. While many handshakes are
under way, the answer to one is a Retry packet, whose token only the owner of the address can
send back (RFC 9000 section 8.1.2).
"""

from __future__ import annotations

import os
import struct
from typing import Any

from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import (
    QuicErrorCode,
    QuicFrameType,
    QuicHeader,
    QuicPacketType,
    encode_quic_retry,
)
from aioquic.quic.packet_builder import QuicPacketBuilder
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ..settings import SMALLEST_DATAGRAM_SIZE

# Tells our tokens from those that clients keep from other servers, which mean nothing.
_MARK = b"moqtrio\x01"
_NONCE = 12
_LIFETIME = 10.0  # seconds
_EXPIRY = struct.Struct("!d")
_CONNECTION_ID_LENGTH = 8


class RetryTokens:
    """Seals what a server would otherwise have to remember of a first flight."""

    def __init__(self) -> None:
        self._aead = AESGCM(os.urandom(16))

    def seal(self, original_id: bytes, connection_id: bytes, address: Any, now: float) -> bytes:
        """A token for the client at ``address``, which shall go on with ``connection_id``."""
        nonce = os.urandom(_NONCE)
        content = _EXPIRY.pack(now + _LIFETIME) + original_id
        sealed = self._aead.encrypt(nonce, content, _bound_to(connection_id, address))
        return _MARK + nonce + sealed

    def open(self, token: bytes, connection_id: bytes, address: Any, now: float) -> bytes | None:
        """The connection id the client began with, or None if the token proves nothing."""
        if not is_retry_token(token):
            return None
        nonce, sealed = token[len(_MARK) :][:_NONCE], token[len(_MARK) + _NONCE :]
        try:
            content = self._aead.decrypt(nonce, sealed, _bound_to(connection_id, address))
        except (InvalidTag, ValueError):
            return None
        (expiry,) = _EXPIRY.unpack_from(content)
        return content[_EXPIRY.size :] if now < expiry else None


def is_retry_token(token: bytes) -> bool:
    """Whether a client claims to answer a Retry packet of a server like this."""
    return token.startswith(_MARK)


def encode_retry(tokens: RetryTokens, header: QuicHeader, address: Any, now: float) -> bytes:
    """The Retry packet that answers a first packet."""
    next_id = os.urandom(_CONNECTION_ID_LENGTH)
    return encode_quic_retry(
        version=header.version or 0,
        source_cid=next_id,
        destination_cid=header.source_cid,
        original_destination_cid=header.destination_cid,
        retry_token=tokens.seal(header.destination_cid, next_id, address, now),
    )


def encode_token_refusal(header: QuicHeader) -> bytes:
    """The answer to a token that does not hold: close at once, since a client takes one
    Retry only and would wait in vain (RFC 9000 section 8.1.2)."""
    crypto = CryptoPair()
    version = header.version or 0
    crypto.setup_initial(cid=header.destination_cid, is_client=False, version=version)
    builder = QuicPacketBuilder(
        host_cid=header.destination_cid,
        peer_cid=header.source_cid,
        version=version,
        is_client=False,
        max_datagram_size=SMALLEST_DATAGRAM_SIZE,
    )
    builder.start_packet(QuicPacketType.INITIAL, crypto)
    reason = b"the address changed, or the token expired"
    frame = builder.start_frame(QuicFrameType.TRANSPORT_CLOSE, capacity=8 + len(reason))
    frame.push_uint_var(QuicErrorCode.INVALID_TOKEN)
    frame.push_uint_var(QuicFrameType.PADDING)
    frame.push_uint_var(len(reason))
    frame.push_bytes(reason)
    [datagram], _ = builder.flush()
    return datagram


def _bound_to(connection_id: bytes, address: Any) -> bytes:
    return connection_id + repr(address).encode()
