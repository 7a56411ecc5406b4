"""Packets under the keys before an update (RFC 9001 section 6.5).

aioquic forgets the old keys as soon as either side has new ones. Then every packet that was
under way is lost; and where the peer moves meanwhile, it hears nothing under the new keys,
is not heard under the old ones, and the connection is over.
"""

from __future__ import annotations

from typing import Any

import attrs
from aioquic._crypto import CryptoError
from aioquic.quic.packet import decode_packet_number
from aioquic.tls import Epoch

from .receiving import ReceivingEngine

_ID_END = 9  # a first byte, and connection ids of 8 bytes
_SHORTEST = _ID_END + 4 + 16


@attrs.define
class _OldKeys:
    aead: Any
    phase: int
    #: When they are forgotten, once the peer is known to have the new ones.
    until: float | None = None


class KeyUpdatingEngine(ReceivingEngine):
    """Overrides what happens to packets whose keys are not the current ones."""

    _receiving_aead: Any = None
    _old_keys: _OldKeys | None = None
    _keyed_at = 0  # the first packet number under the current keys

    def _confirm_handshake(self) -> None:
        super()._confirm_handshake()
        self._receiving_aead = self._cryptos[Epoch.ONE_RTT].recv.aead

    def _log_key_updated(self, key_type: str, trigger: str) -> None:
        super()._log_key_updated(key_type, trigger)
        self._keyed_at = self._packet_number
        if self._receiving_aead is None:
            return
        keys = self._cryptos[Epoch.ONE_RTT].recv
        if keys.aead is not self._receiving_aead:
            self._old_keys = _OldKeys(self._receiving_aead, 1 - keys.key_phase)
            self._receiving_aead = keys.aead

    def receive_datagram(self, data: bytes, addr: Any, now: float) -> None:
        """Take one UDP payload that is not of the ordinary kind."""
        old = self._old_keys
        if old is None or not self._is_sealed_with(old, data, now):
            super().receive_datagram(data, addr, now)
            return
        keys = self._cryptos[Epoch.ONE_RTT].recv
        current = keys.aead, keys.key_phase
        keys.aead, keys.key_phase = old.aead, old.phase
        try:
            super().receive_datagram(data, addr, now)
        finally:
            keys.aead, keys.key_phase = current

    def _is_sealed_with(self, old: _OldKeys, data: bytes, now: float) -> bool:
        space = self._spaces[Epoch.ONE_RTT]
        if old.until is None and space.largest_acked_packet >= self._keyed_at:
            old.until = now + 3 * float(self._loss.get_probe_timeout())
        if old.until is not None and now > old.until:
            self._old_keys = None
            return False
        if data[0] & 0xC0 != 0x40 or len(data) < _SHORTEST:
            return False
        # The key of the header's protection is the same for all (RFC 9001 section 6).
        header, truncated = self._cryptos[Epoch.ONE_RTT].recv.hp.remove(data, _ID_END)
        if (header[0] & 4) >> 2 != old.phase:
            return False
        bits = 8 * ((header[0] & 3) + 1)
        number = decode_packet_number(truncated, bits, space.expected_packet_number)
        try:
            old.aead.decrypt(data[len(header) :], header, number)
        except CryptoError:
            return False
        return True
