"""What goes into packets: control frames, then streams by priority and age."""

from __future__ import annotations

import heapq
from typing import Any

from aioquic.buffer import encode_uint_var, size_uint_var
from aioquic.quic.connection import (
    CONNECTION_LIMIT_FRAME_CAPACITY,
    MAX_STREAM_DATA_FRAME_CAPACITY,
    RESET_STREAM_FRAME_CAPACITY,
    STOP_SENDING_FRAME_CAPACITY,
    Limit,
    QuicNetworkPath,
)
from aioquic.quic.packet import QuicFrameType, QuicPacketType
from aioquic.quic.packet_builder import QuicDeliveryState, QuicSentPacket
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.tls import Epoch

from ..buffers import Frame
from .fast_receiving import FastReceivingEngine
from .stream import EngineStream

_ACKED = QuicDeliveryState.ACKED
# Type, and a length of two bytes; the stream's id and the offset come on top.
_STREAM_FRAME_BASE = 3
_STREAM_TYPE = int(QuicFrameType.STREAM_BASE) | 2  # with a length
DATAGRAM_FRAME_HEADER = 3
# With a packet number of two bytes, without the connection id: RFC 9000 section 17.3.
SHORT_HEADER_AND_SEAL = 1 + 2 + 16
# The most that one stream needs for a reset, a stop and a window.
_STREAM_CONTROL_SIZE = (
    RESET_STREAM_FRAME_CAPACITY + STOP_SENDING_FRAME_CAPACITY + MAX_STREAM_DATA_FRAME_CAPACITY
)


class SendingEngine(FastReceivingEngine):
    """Overrides how aioquic fills packets, and what it does when one is lost."""

    unsent: int

    # Filling packets

    def _write_application(self, builder: Any, network_path: QuicNetworkPath, now: float) -> None:
        crypto = self._cryptos[Epoch.ONE_RTT]
        if not crypto.send.is_valid():
            return
        crypto_stream = self._crypto_streams[Epoch.ONE_RTT]
        space = self._spaces[Epoch.ONE_RTT]
        pacer = self._loss._pacer
        while True:
            ack_due = space.ack_at is not None and space.ack_at <= now
            if not ack_due:
                self._pacing_at = pacer.next_send_time(now=now)
                if self._pacing_at is not None:
                    break
                if self._fast_path and self._only_streams_to_send(network_path):
                    if not self._write_stream_packet(builder):
                        break
                    pacer.update_after_send(now=now)
                    continue
            builder.start_packet(QuicPacketType.ONE_RTT, crypto)
            if ack_due:
                self._write_ack_frame(builder=builder, space=space, now=now)
            if self._handshake_complete:
                self._write_connection_control(builder, network_path, space, now)
            if self._control:
                self._write_stream_control(builder)
            if self._ping_pending:
                self._write_ping_frame(builder, self._ping_pending)
                self._ping_pending.clear()
            if self._probe_pending:
                self._write_ping_frame(builder, comment="probe")
                self._probe_pending = False
            if not crypto_stream.sender.buffer_is_empty:
                self._write_crypto_frame(builder=builder, space=space, stream=crypto_stream)
            if self._datagrams_pending:
                self._write_datagrams(builder)
            if self._queue.entries:
                self._write_streams(builder)
            if builder.packet_is_empty:
                break
            pacer.update_after_send(now=now)

    def _only_streams_to_send(self, network_path: QuicNetworkPath) -> bool:
        """Whether nothing but STREAM frames waits: the usual case of a busy sender."""
        for each in self._host_cids:
            if not each.was_sent:
                return False
        max_data = self._local_max_data
        return (
            self._handshake_confirmed
            and network_path.is_validated
            and max_data.value == max_data.sent
            and not (
                self._control
                or self._ping_pending
                or self._probe_pending
                or self._datagrams_pending
                or self._handshake_done_pending
                or self._retire_connection_ids
                or self._one_rtt_keys._update_key_requested
                or network_path.remote_challenges
                or self._limit_is_due(self._local_max_streams_bidi)
                or self._limit_is_due(self._local_max_streams_uni)
                or not self._one_rtt_crypto.sender.buffer_is_empty
            )
        )

    def _write_stream_packet(self, builder: Any) -> bool:
        """Seal one packet of STREAM frames past aioquic's builder (RFC 9001 section 5);
        False if the windows allow none."""
        if builder._packet is not None:
            builder._end_packet()
        size: int = self._max_datagram_size
        if builder.max_flight_bytes is not None:
            size = min(size, builder.max_flight_bytes - builder._flight_bytes)
        peer_id = self._peer_cid.cid
        parts: list[bytes] = []
        packet = QuicSentPacket(
            epoch=Epoch.ONE_RTT,
            in_flight=True,
            is_ack_eliciting=True,
            is_crypto_packet=False,
            packet_number=builder._packet_number,
            packet_type=QuicPacketType.ONE_RTT,
        )
        room = size - SHORT_HEADER_AND_SEAL - len(peer_id)
        self._take_stream_frames(room, parts, packet.delivery_handlers)
        if not parts:
            return False
        datagram = self._seal(packet.packet_number, peer_id, b"".join(parts))
        builder._packet_number += 1
        builder._datagrams.append(datagram)
        builder._packets.append(packet)
        packet.sent_bytes = length = len(datagram)
        builder._flight_bytes += length
        builder._total_bytes += length
        return True

    def _seal(self, number: int, peer_id: bytes, payload: bytes) -> bytes:
        keys = self._one_rtt_keys.send
        first = 0x41 | self._spin_bit << 5 | keys.key_phase << 2
        short_number = number & 0xFFFF
        header = first.to_bytes(1, "big") + peer_id + short_number.to_bytes(2, "big")
        nonce = (keys.aead._iv ^ number).to_bytes(12, "big")
        sealed = keys.aead._aead.encrypt(nonce, payload, header)
        mask = keys.hp._mask(sealed[2:18])
        hidden = (short_number ^ int.from_bytes(mask[1:3], "big")).to_bytes(2, "big")
        return b"%c%b%b%b" % (first ^ (mask[0] & 0x1F), peer_id, hidden, sealed)

    def _write_connection_control(
        self,
        builder: Any,
        network_path: QuicNetworkPath,
        space: QuicPacketSpace,
        now: float,
    ) -> None:
        if not (network_path.is_validated or network_path.local_challenge_sent):
            self._write_path_challenge_frame(builder=builder, network_path=network_path)
            if network_path.validation_deadline is None:
                # RFC 9000 section 8.2.4.
                network_path.validation_deadline = now + 3 * max(
                    self._loss.get_probe_timeout(), 2 * self._configuration.initial_rtt
                )
        if self._handshake_done_pending:
            self._write_handshake_done_frame(builder=builder)
            self._handshake_done_pending = False
        while network_path.remote_challenges:
            self._write_path_response_frame(
                builder=builder, challenge=network_path.remote_challenges[0]
            )
            network_path.remote_challenges.popleft()
        for connection_id in self._host_cids:
            if not connection_id.was_sent:
                self._write_new_connection_id_frame(builder=builder, connection_id=connection_id)
        while self._retire_connection_ids:
            self._write_retire_connection_id_frame(
                builder=builder, sequence_number=self._retire_connection_ids[0]
            )
            self._retire_connection_ids.pop(0)
        self._write_connection_limits(builder=builder, space=space)

    def _write_connection_limits(self, builder: Any, space: QuicPacketSpace) -> None:
        """Announce MAX_DATA and MAX_STREAMS; what to announce is decided by consumption."""
        max_data = self._local_max_data
        if max_data.value != max_data.sent:
            self._write_limit(builder, max_data)
        for limit in (self._local_max_streams_bidi, self._local_max_streams_uni):
            if self._limit_is_due(limit):
                self._write_limit(builder, limit)

    @staticmethod
    def _limit_is_due(limit: Limit) -> bool:
        """Batched: wait until the peer has fewer left than the update would grant."""
        return limit.value != limit.sent and limit.sent - limit.used < limit.value - limit.sent

    def _write_limit(self, builder: Any, limit: Limit) -> None:
        buf = builder.start_frame(
            limit.frame_type,
            capacity=CONNECTION_LIMIT_FRAME_CAPACITY,
            handler=self._on_connection_limit_delivery,
            handler_args=(limit,),
        )
        buf.push_uint_var(limit.value)
        limit.sent = limit.value
        if self._quic_logger is not None:
            builder.quic_logger_frames.append(
                self._quic_logger.encode_connection_limit_frame(
                    frame_type=limit.frame_type, maximum=limit.value
                )
            )

    def _write_stream_control(self, builder: Any) -> None:
        """RESET_STREAM, STOP_SENDING and MAX_STREAM_DATA, as many as fit this packet."""
        while self._control:
            if builder.remaining_flight_space < _STREAM_CONTROL_SIZE:
                return
            stream = next(iter(self._control))
            del self._control[stream]
            if stream.sender.reset_pending:
                self._write_reset(builder, stream)
            receiver = stream.receiver
            if receiver.is_finished:
                continue
            if receiver.stop_pending:
                self._write_stop(builder, stream)
            elif (
                receiver.stop_code is None
                and stream.max_stream_data_local != stream.max_stream_data_local_sent
            ):
                self._write_stream_window(builder, stream)

    def _write_reset(self, builder: Any, stream: EngineStream) -> None:
        sender = stream.sender
        buf = builder.start_frame(
            QuicFrameType.RESET_STREAM,
            capacity=RESET_STREAM_FRAME_CAPACITY,
            handler=self._on_reset_delivery,
            handler_args=(stream,),
        )
        sender.reset_pending = False
        assert sender.reset_code is not None
        buf.push_uint_var(stream.stream_id)
        buf.push_uint_var(sender.reset_code)
        buf.push_uint_var(sender.highest_offset)
        if self._quic_logger is not None:
            builder.quic_logger_frames.append(
                self._quic_logger.encode_reset_stream_frame(
                    error_code=sender.reset_code,
                    final_size=sender.highest_offset,
                    stream_id=stream.stream_id,
                )
            )

    def _write_stop(self, builder: Any, stream: EngineStream) -> None:
        receiver = stream.receiver
        buf = builder.start_frame(
            QuicFrameType.STOP_SENDING,
            capacity=STOP_SENDING_FRAME_CAPACITY,
            handler=self._on_stop_delivery,
            handler_args=(stream,),
        )
        receiver.stop_pending = False
        assert receiver.stop_code is not None
        buf.push_uint_var(stream.stream_id)
        buf.push_uint_var(receiver.stop_code)
        if self._quic_logger is not None:
            builder.quic_logger_frames.append(
                self._quic_logger.encode_stop_sending_frame(
                    error_code=receiver.stop_code, stream_id=stream.stream_id
                )
            )

    def _write_stream_window(self, builder: Any, stream: EngineStream) -> None:
        buf = builder.start_frame(
            QuicFrameType.MAX_STREAM_DATA,
            capacity=MAX_STREAM_DATA_FRAME_CAPACITY,
            handler=self._on_max_stream_data_delivery,
            handler_args=(stream,),
        )
        buf.push_uint_var(stream.stream_id)
        buf.push_uint_var(stream.max_stream_data_local)
        stream.max_stream_data_local_sent = stream.max_stream_data_local
        if self._quic_logger is not None:
            builder.quic_logger_frames.append(
                self._quic_logger.encode_max_stream_data_frame(
                    maximum=stream.max_stream_data_local, stream_id=stream.stream_id
                )
            )

    def _write_datagrams(self, builder: Any) -> None:
        pending = self._datagrams_pending
        while pending:
            data = pending[0]
            if builder.remaining_flight_space < len(data) + DATAGRAM_FRAME_HEADER:
                if self.max_datagram_payload is None or len(data) > self.max_datagram_payload:
                    pending.popleft()  # the limits shrank under it: it will never fit
                    continue
                return
            self._write_datagram_frame(
                builder=builder, data=data, frame_type=QuicFrameType.DATAGRAM_WITH_LENGTH
            )
            pending.popleft()

    def _write_streams(self, builder: Any) -> None:
        """Fill the packet: higher priorities first, among equals the oldest stream, or the
        newest of its rivals in its place.

        This is the hot path of many small streams, so frames are written past
        aioquic's ``start_frame``, which counts the packet's room anew for each.
        """
        room = min(builder.remaining_flight_space, builder.remaining_buffer_space)
        parts: list[bytes] = []
        packet = builder._packet
        self._take_stream_frames(room, parts, packet.delivery_handlers)
        if not parts:
            return
        builder._buffer.push_bytes(b"".join(parts))
        packet.is_ack_eliciting = True
        packet.in_flight = True
        if self._quic_logger is not None:
            for handler, arguments in packet.delivery_handlers:
                if handler == self._on_stream_frame_delivery:
                    stream, frame = arguments
                    frames = builder.quic_logger_frames
                    self._log_stream_frame(frames, stream.stream_id, *frame)

    def _take_stream_frames(
        self, room: int, parts: list[bytes], handlers: list[tuple[Any, Any]]
    ) -> int:
        """Append up to ``room`` bytes of STREAM frames (RFC 9000 section 19.8) to
        ``parts`` and what to do about their delivery to ``handlers``; returns the room
        left."""
        queue = self._queue
        entries = queue.entries
        on_delivery = self._on_stream_frame_delivery
        priority = taken = 0  # bytes of streams of one priority that have not been counted yet
        while entries:
            entry = entries[0]
            stream = entry[2]
            sender = stream.sender
            if stream.entry is not entry or not sender.has_frames:
                heapq.heappop(entries)
                if stream.entry is entry:
                    queue.leave(stream)
                continue
            rivals = stream.rivals
            if rivals is not None and not sender.highest_offset:
                newest = rivals.newest
                if newest is not stream and newest.priority == stream.priority:
                    queue.change_places(stream, newest)
                    continue
            stream_id = stream.stream_id
            offset = sender.next_offset()
            overhead = _STREAM_FRAME_BASE + size_uint_var(stream_id)
            if offset:
                overhead += size_uint_var(offset)
            if room <= overhead:
                break
            before = sender.highest_offset
            limit = before + self._remote_max_data - self._remote_max_data_used
            if limit > stream.max_stream_data_remote:
                limit = stream.max_stream_data_remote
            frame = sender.take(room - overhead, limit)
            if frame is None:
                heapq.heappop(entries)
                queue.leave(stream)
                if before < stream.max_stream_data_remote:
                    self._out_of_data_credit[stream] = None
                else:
                    queue.count_stuck(stream, sender.unsent)
                continue
            newly = sender.highest_offset - before
            if newly:
                self._remote_max_data_used += newly
                if stream.priority != priority:
                    if taken:
                        queue.count_unsent(priority, -taken)
                    priority, taken = stream.priority, 0
                taken += newly
            data = frame[1]
            kind = _STREAM_TYPE | frame[2]
            length = (len(data) | 0x4000).to_bytes(2, "big")
            if offset:
                parts.append(
                    b"%c%b%b%b"
                    % (kind | 4, encode_uint_var(stream_id), encode_uint_var(offset), length)
                )
            else:
                parts.append(b"%c%b%b" % (kind, encode_uint_var(stream_id), length))
            parts.append(data)
            handlers.append((on_delivery, (stream, frame)))
            room -= overhead + len(data)
        if taken:
            # As count_unsent does; here it is once for each packet.
            queue.unsent -= taken
            left = queue.unsent_at[priority] - taken
            if left:
                queue.unsent_at[priority] = left
            else:
                del queue.unsent_at[priority]
        return room

    # What became of frames

    def _on_stream_frame_delivery(
        self, delivery: QuicDeliveryState, stream: EngineStream, frame: Frame
    ) -> None:
        if delivery is _ACKED:
            if stream.sender.on_acked():
                self._owner.stream_delivered(stream)
                self._discard_if_over(stream)
        elif stream.sender.on_lost(frame) and stream.entry is None:
            self._queue.add(stream)

    def _on_reset_delivery(self, delivery: QuicDeliveryState, stream: EngineStream) -> None:
        if delivery is _ACKED:
            if not stream.sender.is_finished:
                stream.sender.is_finished = True
                self._owner.stream_delivered(stream)
                self._discard_if_over(stream)
        elif not stream.sender.is_finished:
            stream.sender.reset_pending = True
            self._control[stream] = None

    def _on_stop_delivery(self, delivery: QuicDeliveryState, stream: EngineStream) -> None:
        if delivery is not _ACKED and not stream.receiver.is_finished:
            stream.receiver.stop_pending = True
            self._control[stream] = None

    def _on_max_stream_data_delivery(
        self, delivery: QuicDeliveryState, stream: EngineStream
    ) -> None:
        if delivery is not _ACKED and not stream.receiver.is_finished:
            stream.max_stream_data_local_sent = 0
            self._control[stream] = None
