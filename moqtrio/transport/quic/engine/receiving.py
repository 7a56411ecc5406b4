"""What arrives on streams, under limits that the application's reading raises."""

from __future__ import annotations

from typing import Any

from aioquic._buffer import Buffer
from aioquic.buffer import UINT_VAR_MAX
from aioquic.quic.connection import QuicConnectionError
from aioquic.quic.packet import QuicErrorCode, QuicStreamFrame
from aioquic.quic.stream import StreamFinishedError

from ..buffers import ReceiveBuffer, SendBuffer, TooManyPieces, WrongFinalSize
from .scheduling import SchedulingEngine
from .stream import FINISHED_SENDER, EngineStream

# A chain of certificates is the longest part of a handshake (RFC 9000 section 7.5).
_MAX_CRYPTO = 128 * 1024
# Some clients cut theirs up for sport.
_MAX_CRYPTO_PIECES = 256


class ReceivingEngine(SchedulingEngine):
    """Overrides what aioquic does with frames that touch streams."""

    def _assert_stream_can_receive(self, frame_type: int, stream_id: int) -> None:
        if stream_id & 2 and stream_id & 1 != self._is_client:
            raise QuicConnectionError(
                error_code=QuicErrorCode.STREAM_STATE_ERROR,
                frame_type=frame_type,
                reason_phrase="Stream is send-only",
            )

    def _get_or_create_stream(self, frame_type: int, stream_id: int) -> EngineStream:
        stream: EngineStream | None = self._streams.get(stream_id)
        if stream is not None:
            return stream
        if stream_id & 1 != self._is_client:
            if self._stream_is_discarded(stream_id):
                raise StreamFinishedError
            raise QuicConnectionError(
                error_code=QuicErrorCode.STREAM_STATE_ERROR,
                frame_type=frame_type,
                reason_phrase="Wrong stream initiator",
            )
        limit = self._local_max_streams_uni if stream_id & 2 else self._local_max_streams_bidi
        count = stream_id // 4 + 1
        if count <= limit.used:
            raise StreamFinishedError
        if count > limit.value:
            raise QuicConnectionError(
                error_code=QuicErrorCode.STREAM_LIMIT_ERROR,
                frame_type=frame_type,
                reason_phrase="Too many streams open",
            )
        # Opening a stream opens all lower ones of its kind (RFC 9000 section 2.1).
        for lower in range(limit.used * 4 + stream_id % 4, stream_id + 4, 4):
            stream = self._add_peer_stream(lower)
        limit.used = count
        assert stream is not None
        return stream

    def _add_peer_stream(self, stream_id: int) -> EngineStream:
        uni = bool(stream_id & 2)
        self._stream_order = order = self._stream_order + 1
        stream = self._streams[stream_id] = EngineStream(
            stream_id,
            order,
            sender=FINISHED_SENDER if uni else SendBuffer(),
            receiver=ReceiveBuffer(self._pieces),
            local_window=(
                self._local_max_stream_data_uni if uni else self._local_max_stream_data_bidi_remote
            ),
            remote_window=0 if uni else self._remote_max_stream_data_bidi_local,
        )
        self._owner.stream_opened(stream)
        return stream

    def _handle_stream_frame(self, context: Any, frame_type: int, buf: Buffer) -> None:
        stream_id = buf.pull_uint_var()
        offset = buf.pull_uint_var() if frame_type & 4 else 0
        length = buf.pull_uint_var() if frame_type & 2 else buf.capacity - buf.tell()
        data = buf.pull_bytes(length)
        if self._quic_logger is not None:
            end = bool(frame_type & 1)
            self._log_stream_frame(context.quic_logger_frames, stream_id, offset, data, end)
        self._take_stream_frame(frame_type, stream_id, offset, data)

    def _take_stream_frame(self, frame_type: int, stream_id: int, offset: int, data: bytes) -> None:
        stop = offset + len(data)
        if stop > UINT_VAR_MAX:
            raise QuicConnectionError(
                error_code=QuicErrorCode.FRAME_ENCODING_ERROR,
                frame_type=frame_type,
                reason_phrase="offset + length cannot exceed 2^62 - 1",
            )
        self._assert_stream_can_receive(frame_type, stream_id)
        stream: EngineStream | None = self._streams.get(stream_id)
        if stream is None:
            stream = self._get_or_create_stream(frame_type, stream_id)
        receiver = stream.receiver
        newly = stop - receiver.highest_offset
        if newly > 0:
            self._check_window(stream, stop, newly, frame_type)
        try:
            delivered = receiver.feed(offset, data, bool(frame_type & 1))
        except WrongFinalSize as error:
            raise QuicConnectionError(
                error_code=QuicErrorCode.FINAL_SIZE_ERROR,
                frame_type=frame_type,
                reason_phrase=str(error),
            ) from error
        except TooManyPieces as error:
            raise QuicConnectionError(
                error_code=QuicErrorCode.INTERNAL_ERROR,
                frame_type=frame_type,
                reason_phrase="A stream came in too many pieces",
            ) from error
        if delivered is not None:
            self._owner.stream_data(stream, delivered, receiver.is_finished)
            if receiver.is_finished:
                self._discard_if_over(stream)

    def _check_window(self, stream: EngineStream, end: int, newly: int, frame_type: int) -> None:
        limit = self._local_max_data
        over_stream = end > stream.max_stream_data_local
        if over_stream or limit.used + newly > limit.value:
            raise QuicConnectionError(
                error_code=QuicErrorCode.FLOW_CONTROL_ERROR,
                frame_type=frame_type,
                reason_phrase=f"Over {'stream' if over_stream else 'connection'} data limit",
            )
        limit.used += newly
        self._consume_data(0)  # credit that was held back may be due now

    def _handle_ack_frame(self, context: Any, frame_type: int, buf: Buffer) -> None:
        start = buf.tell()
        largest = buf.pull_uint_var()
        buf.seek(start)
        if largest >= self._packet_number:
            # RFC 9000 section 13.1.
            raise QuicConnectionError(
                error_code=QuicErrorCode.PROTOCOL_VIOLATION,
                frame_type=frame_type,
                reason_phrase="Acknowledged a packet that was not sent",
            )
        super()._handle_ack_frame(context, frame_type, buf)

    def _handle_crypto_frame(self, context: Any, frame_type: int, buf: Buffer) -> None:
        """Bound what aioquic holds of a handshake: it makes room for all that is missing
        before a frame, and what it does per piece takes time for every other one."""
        receiver = self._crypto_streams[context.epoch].receiver
        start = buf.tell()
        stop = buf.pull_uint_var() + buf.pull_uint_var()
        buf.seek(start)
        if stop - receiver.starting_offset() <= _MAX_CRYPTO:
            super()._handle_crypto_frame(context, frame_type, buf)
            if (
                len(receiver._ranges) <= _MAX_CRYPTO_PIECES
                and len(self.tls._receive_buffer) <= _MAX_CRYPTO
            ):
                return
        raise QuicConnectionError(
            error_code=QuicErrorCode.CRYPTO_BUFFER_EXCEEDED,
            frame_type=frame_type,
            reason_phrase="The handshake is too long, or came in too many pieces",
        )

    def _handle_reset_stream_frame(self, context: Any, frame_type: int, buf: Buffer) -> None:
        stream_id = buf.pull_uint_var()
        error_code = buf.pull_uint_var()
        final_size = buf.pull_uint_var()
        if self._quic_logger is not None:
            context.quic_logger_frames.append(
                self._quic_logger.encode_reset_stream_frame(
                    error_code=error_code, final_size=final_size, stream_id=stream_id
                )
            )
        self._assert_stream_can_receive(frame_type, stream_id)
        stream = self._get_or_create_stream(frame_type, stream_id)
        receiver = stream.receiver
        newly = final_size - receiver.highest_offset
        if newly > 0:
            self._check_window(stream, final_size, newly, frame_type)
        try:
            news = receiver.reset(final_size)
        except WrongFinalSize as error:
            raise QuicConnectionError(
                error_code=QuicErrorCode.FINAL_SIZE_ERROR,
                frame_type=frame_type,
                reason_phrase=str(error),
            ) from error
        if news:
            # The bytes that will never be delivered count as taken.
            self._consume_data(final_size - receiver.delivered)
            self._owner.stream_reset(stream, error_code)
            self._discard_if_over(stream)

    def _handle_stop_sending_frame(self, context: Any, frame_type: int, buf: Buffer) -> None:
        stream_id = buf.pull_uint_var()
        error_code = buf.pull_uint_var()
        if self._quic_logger is not None:
            context.quic_logger_frames.append(
                self._quic_logger.encode_stop_sending_frame(
                    error_code=error_code, stream_id=stream_id
                )
            )
        self._assert_stream_can_send(frame_type, stream_id)
        stream = self._get_or_create_stream(frame_type, stream_id)
        # RFC 9000 section 3.5: answer with a reset, copying the code.
        self.abandon(stream, error_code)
        self._owner.stream_stopped(stream, error_code)

    def _handle_max_stream_data_frame(self, context: Any, frame_type: int, buf: Buffer) -> None:
        start = buf.tell()
        stream_id = buf.pull_uint_var()
        buf.seek(start)
        super()._handle_max_stream_data_frame(context, frame_type, buf)
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._queue.count_stuck(stream, 0)
            if stream.entry is None and stream.sender.has_frames:
                self._queue.add(stream)

    def _handle_max_data_frame(self, context: Any, frame_type: int, buf: Buffer) -> None:
        before = self._remote_max_data
        super()._handle_max_data_frame(context, frame_type, buf)
        if self._remote_max_data > before:
            waiting, self._out_of_data_credit = self._out_of_data_credit, {}
            for stream in waiting:
                if stream.entry is None and stream.sender.has_frames:
                    self._queue.add(stream)

    def _handle_max_streams_bidi_frame(self, context: Any, frame_type: int, buf: Buffer) -> None:
        super()._handle_max_streams_bidi_frame(context, frame_type, buf)
        self._owner.stream_credit_grew()

    def _handle_max_streams_uni_frame(self, context: Any, frame_type: int, buf: Buffer) -> None:
        super()._handle_max_streams_uni_frame(context, frame_type, buf)
        self._owner.stream_credit_grew()

    def _log_stream_frame(
        self, frames: list[Any], stream_id: int, offset: int, data: bytes, end: bool
    ) -> None:
        frames.append(
            self._quic_logger.encode_stream_frame(
                QuicStreamFrame(data=data, fin=end, offset=offset), stream_id=stream_id
            )
        )
