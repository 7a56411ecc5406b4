"""The short way in for the packets that make up nearly all of a busy connection.

A packet with a short header, on the path in use, under the current keys, is read by index
instead of through aioquic's buffers. Whatever is unusual about a packet is seen before
anything is changed, and left to aioquic's own method. What this must never do is accept a
packet that aioquic would refuse: the tests compare the two.
"""

from __future__ import annotations

from typing import Any

from aioquic.quic.connection import (
    QuicConnectionError,
    QuicConnectionState,
    QuicReceiveContext,
)
from aioquic.quic.packet import QuicErrorCode, decode_packet_number
from aioquic.quic.recovery import MAX_ACK_RANGES
from aioquic.quic.stream import StreamFinishedError
from aioquic.tls import Epoch
from cryptography.exceptions import InvalidTag

from .key_updates import KeyUpdatingEngine

_CONNECTED = QuicConnectionState.CONNECTED
_ID_END = 9  # a first byte, and connection ids of 8 bytes
_SAMPLE = slice(_ID_END + 4, _ID_END + 20)  # RFC 9001 section 5.4.2
_SHORTEST = _ID_END + 4 + 16
_STREAM_FIRST, _STREAM_LAST, _PADDING = 0x08, 0x0F, 0x00
_VARINT_MASK = {4: 0x3FFF_FFFF, 8: 0x3FFF_FFFF_FFFF_FFFF}


class _Malformed(Exception):
    """A frame that does not end where the packet does, or before."""


class FastReceivingEngine(KeyUpdatingEngine):
    """Overrides how a packet is taken apart, where ``fast_path`` is set."""

    _fast_path: bool
    _close_at: float | None
    _ack_eliciting_sent_since_receipt: bool
    _spin_bit: bool
    _spin_highest_pn: int

    _idle_timer_armed_at = -1.0
    # Kept at hand: looking up a dictionary by an Enum runs Python code to hash it.
    _one_rtt_keys: Any
    _one_rtt_space: Any
    _one_rtt_crypto: Any

    def _confirm_handshake(self) -> None:
        super()._confirm_handshake()
        self._one_rtt_keys = self._cryptos[Epoch.ONE_RTT]
        self._one_rtt_space = self._spaces[Epoch.ONE_RTT]
        self._one_rtt_crypto = self._crypto_streams[Epoch.ONE_RTT]

    def receive_datagram(self, data: bytes, addr: Any, now: float) -> None:
        """Take one UDP payload."""
        if not (
            self._fast_path
            and self._handshake_confirmed
            and data[0] & 0xC0 == 0x40
            and self._receive_short(data, addr, now)
        ):
            super().receive_datagram(data, addr, now)

    def _receive_short(self, data: bytes, addr: Any, now: float) -> bool:
        """Take a packet; False, having changed nothing, if it is not an ordinary one."""
        path = self._network_paths[0]
        if (
            len(data) < _SHORTEST
            or path.addr != addr
            or not path.is_validated
            or self._state is not _CONNECTED
            or data[1:_ID_END] != self.host_cid
        ):
            return False
        space = self._one_rtt_space
        opened = self._open_short(data, space)
        if opened is None:
            return False
        number, spin, payload = opened
        if number > space.expected_packet_number:
            space.expected_packet_number = number + 1
        if number > self._spin_highest_pn:
            self._spin_bit = not spin if self._is_client else spin
            self._spin_highest_pn = number
        is_ack_eliciting = False
        try:
            is_ack_eliciting = self._read_frames(payload, path, now)
        except QuicConnectionError as error:
            self._logger.warning(error)
            self.close(
                error_code=error.error_code,
                frame_type=error.frame_type,
                reason_phrase=error.reason_phrase,
            )
        if self._state is not _CONNECTED or self._close_pending:
            return True
        if now != self._idle_timer_armed_at:
            # Once for a whole batch, which shares one time.
            self._close_at = now + self._idle_timeout()
            self._idle_timer_armed_at = now
        self._ack_eliciting_sent_since_receipt = False
        self._note_received(space, number, is_ack_eliciting, now)
        return True

    def _open_short(self, data: bytes, space: Any) -> tuple[int, bool, bytes] | None:
        """Packet number, spin bit and payload (RFC 9001 section 5); None if unusual."""
        keys = self._one_rtt_keys.recv
        mask = keys.hp._mask(data[_SAMPLE])
        first = data[0] ^ (mask[0] & 0x1F)
        # A key update, or reserved bits set.
        if (first & 4) >> 2 != keys.key_phase or first & 0x18:
            return None
        number_length = (first & 3) + 1
        header_end = _ID_END + number_length
        truncated = int.from_bytes(data[_ID_END:header_end], "big") ^ int.from_bytes(
            mask[1 : 1 + number_length], "big"
        )
        number = decode_packet_number(truncated, number_length * 8, space.expected_packet_number)
        if number in space.received_packets:
            return None
        header = (
            first.to_bytes(1, "big") + data[1:_ID_END] + truncated.to_bytes(number_length, "big")
        )
        nonce = (keys.aead._iv ^ number).to_bytes(12, "big")
        try:
            payload: bytes = keys.aead._aead.decrypt(nonce, data[header_end:], header)
        except InvalidTag:
            return None
        return (number, bool(first & 0x20), payload) if payload else None

    def _read_frames(self, payload: bytes, path: Any, now: float) -> bool:
        """Read STREAM frames and padding; the first other frame, and what follows it, is
        aioquic's. Returns whether the packet asks for an acknowledgement."""
        position, size = 0, len(payload)
        is_ack_eliciting = False
        while position < size:
            kind = payload[position]
            if _STREAM_FIRST <= kind <= _STREAM_LAST:
                position = self._read_stream_frame(kind, payload, position + 1)
                is_ack_eliciting = True
            elif kind == _PADDING:
                position = size - len(payload[position:].lstrip(b"\0"))
            else:
                context = QuicReceiveContext(
                    epoch=Epoch.ONE_RTT,
                    host_cid=self.host_cid,
                    network_path=path,
                    quic_logger_frames=None,
                    time=now,
                    version=None,
                )
                rest, _ = self._payload_received(context, payload[position:])
                return is_ack_eliciting or bool(rest)
        return is_ack_eliciting

    def _read_stream_frame(self, kind: int, payload: bytes, position: int) -> int:
        """Take a STREAM frame (RFC 9000 section 19.8); returns where it ends."""
        try:
            stream_id, position = _varint(payload, position)
            offset = 0
            if kind & 4:
                offset, position = _varint(payload, position)
            end = len(payload)
            if kind & 2:
                length, position = _varint(payload, position)
                end = position + length
                if end > len(payload):
                    raise _Malformed
        except (IndexError, _Malformed) as error:
            raise QuicConnectionError(
                error_code=QuicErrorCode.FRAME_ENCODING_ERROR,
                frame_type=kind,
                reason_phrase="Failed to parse frame",
            ) from error
        try:
            self._take_stream_frame(kind, stream_id, offset, payload[position:end])
        except StreamFinishedError:
            return end  # a late duplicate of a stream that is over is no error
        return end

    def _note_received(self, space: Any, number: int, is_ack_eliciting: bool, now: float) -> None:
        if number > space.largest_received_packet:
            space.largest_received_packet = number
            space.largest_received_time = now
        ranges = space.ack_queue._RangeSet__ranges
        if ranges and ranges[-1].stop == number:
            ranges[-1] = range(ranges[-1].start, number + 1)
        else:
            space.ack_queue.add(number)
            if len(ranges) > MAX_ACK_RANGES:
                space.ack_queue.shift()
        space.received_packets.add(number)
        if is_ack_eliciting and space.ack_at is None:
            space.ack_at = now + self._ack_delay


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A variable-length integer (RFC 9000 section 16), and where it ends."""
    first = data[position]
    if first < 0x40:
        return first, position + 1
    if first < 0x80:
        return (first & 0x3F) << 8 | data[position + 1], position + 2
    length = 1 << (first >> 6)
    end = position + length
    if end > len(data):
        raise _Malformed
    return int.from_bytes(data[position:end], "big") & _VARINT_MASK[length], end
