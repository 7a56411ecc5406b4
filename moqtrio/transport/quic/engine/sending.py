"""What goes into packets: control frames, then streams by priority and age."""

from __future__ import annotations

import heapq
from typing import Any

from aioquic.buffer import size_uint_var
from aioquic.quic.connection import (
    CONNECTION_LIMIT_FRAME_CAPACITY,
    MAX_STREAM_DATA_FRAME_CAPACITY,
    RESET_STREAM_FRAME_CAPACITY,
    STOP_SENDING_FRAME_CAPACITY,
    Limit,
    QuicNetworkPath,
)
from aioquic.quic.packet import QuicFrameType, QuicPacketType
from aioquic.quic.packet_builder import QuicDeliveryState
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.tls import Epoch

from ..buffers import Frame
from .receiving import ReceivingEngine
from .stream import EngineStream

_ACKED = QuicDeliveryState.ACKED
# Type, and a length of two bytes; the stream's id and the offset come on top.
_STREAM_FRAME_BASE = 3
_STREAM_TYPE = int(QuicFrameType.STREAM_BASE) | 2  # with a length
DATAGRAM_FRAME_HEADER = 3
# The most that one stream needs for a reset, a stop and a window.
_STREAM_CONTROL_SIZE = (
    RESET_STREAM_FRAME_CAPACITY + STOP_SENDING_FRAME_CAPACITY + MAX_STREAM_DATA_FRAME_CAPACITY
)


class SendingEngine(ReceivingEngine):
    """Overrides how aioquic fills packets, and what it does when one is lost."""

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
            if self._sendable:
                self._write_streams(builder)
            if builder.packet_is_empty:
                break
            pacer.update_after_send(now=now)

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
            # Batched: wait until the peer has fewer left than the update would grant.
            if limit.value != limit.sent and limit.sent - limit.used < limit.value - limit.sent:
                self._write_limit(builder, limit)

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
        """Fill the packet: higher priorities first, among equals the oldest stream.

        This is the hot path of many small streams, so frames are written past
        aioquic's ``start_frame``, which counts the packet's room anew for each.
        """
        sendable = self._sendable
        room = min(builder.remaining_flight_space, builder.remaining_buffer_space)
        wrote = False
        while sendable:
            entry = sendable[0]
            stream = entry[2]
            sender = stream.sender
            if stream.entry is not entry or not sender.has_frames:
                heapq.heappop(sendable)
                if stream.entry is entry:
                    stream.entry = None
                continue
            offset = sender.next_offset()
            overhead = _STREAM_FRAME_BASE + size_uint_var(stream.stream_id)
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
                heapq.heappop(sendable)
                stream.entry = None
                if before < stream.max_stream_data_remote:
                    self._out_of_data_credit[stream] = None
                continue
            newly = sender.highest_offset - before
            self._remote_max_data_used += newly
            self.unsent -= newly
            self._write_stream(builder, stream, frame)
            room -= overhead + len(frame[1])
            wrote = True
        if wrote:
            builder._packet.is_ack_eliciting = True
            builder._packet.in_flight = True

    def _write_stream(self, builder: Any, stream: EngineStream, frame: Frame) -> None:
        offset, data, end = frame
        builder._packet.delivery_handlers.append((self._on_stream_frame_delivery, (stream, frame)))
        buf = builder._buffer
        if offset:
            buf.push_uint8(_STREAM_TYPE | 4 | end)
            buf.push_uint_var(stream.stream_id)
            buf.push_uint_var(offset)
        else:
            buf.push_uint8(_STREAM_TYPE | end)
            buf.push_uint_var(stream.stream_id)
        buf.push_uint16(len(data) | 0x4000)
        buf.push_bytes(data)
        if self._quic_logger is not None:
            self._log_stream_frame(builder.quic_logger_frames, stream.stream_id, offset, data, end)

    # What became of frames

    def _on_stream_frame_delivery(
        self, delivery: QuicDeliveryState, stream: EngineStream, frame: Frame
    ) -> None:
        if delivery is _ACKED:
            if stream.sender.on_acked():
                self._owner.stream_delivered(stream)
                self._discard_if_over(stream)
        elif stream.sender.on_lost(frame) and stream.entry is None:
            self._enqueue(stream)

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
