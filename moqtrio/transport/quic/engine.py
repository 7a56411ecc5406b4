"""aioquic's state machine, bent to what moqtrio needs.

This is the one file that touches aioquic's private names. It changes three things:

- **Flow control towards the application.** aioquic raises its limits as bytes arrive,
  read or not. Here they rise as the application takes bytes and streams.
- **Stream scheduling.** aioquic looks at every open stream for every packet. Here a heap
  holds those that have something to send, by priority and then by age.
- **Stream buffers** (:mod:`.buffers`) and pacing (:mod:`.pacing`).

Everything else (handshake, loss recovery, congestion control, connection ids, key
updates, path validation) is aioquic's own.
"""

from __future__ import annotations

import heapq
from typing import Any, Protocol

import aioquic
from aioquic.buffer import Buffer, size_uint_var
from aioquic.quic import connection as stock
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import QuicErrorCode, QuicFrameType, QuicPacketType
from aioquic.quic.packet_builder import (
    QuicDeliveryState,
    QuicPacketBuilder,
    QuicPacketBuilderStop,
)
from aioquic.tls import AlertBadCertificate, Epoch

from ..settings import TransportSettings
from ..tls import CertificatePin
from .buffers import Frame, ReceiveBuffer, SendBuffer, TooManyPieces, WrongFinalSize
from .pacing import SlowStartExit, TickPacer

SUPPORTED = "aioquic >= 1.7.1, < 1.8"

_ACKED = QuicDeliveryState.ACKED
_STOP_SENDING_SIZE = stock.STOP_SENDING_FRAME_CAPACITY
_RESET_STREAM_SIZE = stock.RESET_STREAM_FRAME_CAPACITY
_MAX_STREAM_DATA_SIZE = stock.MAX_STREAM_DATA_FRAME_CAPACITY
# Type, and a length of two bytes; the stream's id and the offset come on top.
_STREAM_FRAME_BASE = 3
# Short header with a packet number of two bytes, and the seal: RFC 9000 section 17.3.
_SHORT_HEADER_AND_SEAL = 1 + 2 + 16
_DATAGRAM_FRAME_HEADER = 3
_LARGEST_REASON = 256

_NEEDED_NAMES = (
    "_assert_stream_can_receive",
    "_close_event",
    "_close_pending",
    "_flush_builder",
    "_get_or_create_stream",
    "_handle_max_data_frame",
    "_handle_max_stream_data_frame",
    "_handle_max_streams_bidi_frame",
    "_handle_max_streams_uni_frame",
    "_handle_reset_stream_frame",
    "_handle_stop_sending_frame",
    "_handle_stream_frame",
    "_initialize",
    "_local_max_data",
    "_local_max_streams_bidi",
    "_local_max_streams_uni",
    "_loss",
    "_on_connection_limit_delivery",
    "_on_max_stream_data_delivery",
    "_quic_logger",
    "_remote_max_data",
    "_remote_max_data_used",
    "_remote_max_datagram_frame_size",
    "_remote_max_streams_bidi",
    "_remote_max_streams_uni",
    "_streams",
    "_write_application",
    "_write_connection_limits",
)


class _FinishedSender:
    """The sending part a stream of the other direction does not have."""

    is_finished = True
    has_frames = False
    unsent = 0
    reset_pending = False
    reset_code = None

    def reset(self, error_code: int) -> None:
        """Nothing to abandon."""


class _FinishedReceiver:
    """The receiving part a stream of the other direction does not have."""

    is_finished = True
    stop_pending = False


_FINISHED_SENDER: Any = _FinishedSender()
_FINISHED_RECEIVER: Any = _FinishedReceiver()


class EngineStream:
    """One stream, as aioquic's methods and ours need it."""

    __slots__ = (
        "application_receives",
        "application_sends",
        "consumed",
        "entry",
        "is_blocked",
        "max_stream_data_local",
        "max_stream_data_local_sent",
        "max_stream_data_remote",
        "order",
        "priority",
        "receiver",
        "sender",
        "settled",
        "stream_id",
    )

    def __init__(
        self,
        stream_id: int,
        order: int,
        *,
        sender: SendBuffer,
        receiver: ReceiveBuffer,
        local_window: int,
        remote_window: int,
    ) -> None:
        self.stream_id = stream_id
        self.order = order
        self.priority = 0
        self.sender = sender
        self.receiver = receiver
        self.max_stream_data_local = local_window
        self.max_stream_data_local_sent = local_window
        self.max_stream_data_remote = remote_window
        self.is_blocked = False
        self.consumed = 0  # bytes the application took
        self.entry: tuple[int, int, EngineStream] | None = None  # its place in the heap
        self.settled = 0  # of the peer's stream: what is over (see QuicConnectionBinding)
        self.application_sends: Any = None
        self.application_receives: Any = None

    @property
    def is_finished(self) -> bool:
        """Whether both directions are over on the wire."""
        return bool(self.sender.is_finished and self.receiver.is_finished)


class EngineOwner(Protocol):
    """Who is told what happened. Called in the middle of a packet: only take note."""

    def stream_opened(self, stream: EngineStream) -> None:
        """The peer opened a stream."""

    def stream_data(self, stream: EngineStream, data: bytes, ended: bool) -> None:
        """Bytes arrived in order."""

    def stream_reset(self, stream: EngineStream, error_code: int) -> None:
        """The peer abandoned its side."""

    def stream_stopped(self, stream: EngineStream, error_code: int) -> None:
        """The peer wants no more of our side."""

    def stream_delivered(self, stream: EngineStream) -> None:
        """Everything up to the FIN, or the reset, was acknowledged."""

    def stream_discarded(self, stream: EngineStream) -> None:
        """The stream is over on the wire, in both directions."""

    def stream_credit_grew(self) -> None:
        """The peer allows more streams."""


class Engine(stock.QuicConnection):
    """One QUIC connection without any I/O, clock or task."""

    def __init__(
        self,
        *,
        configuration: QuicConfiguration,
        settings: TransportSettings,
        owner: EngineOwner,
        original_destination_connection_id: bytes | None = None,
        pin: CertificatePin | None = None,
    ) -> None:
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=original_destination_connection_id,
        )
        self._owner = owner
        self._pin = pin
        self._stream_window = settings.stream_window
        self._connection_window = settings.connection_window
        for limit, value in (
            (self._local_max_streams_uni, settings.max_streams_uni),
            (self._local_max_streams_bidi, settings.max_streams_bidi),
        ):
            limit.value = limit.sent = value
        self._data_consumed = 0
        self._stream_order = 0
        # Streams with something to send: (-priority, order, stream). An entry that is
        # not its stream's own any more is skipped when it comes up.
        self._sendable: list[tuple[int, int, EngineStream]] = []
        self._out_of_data_credit: dict[EngineStream, None] = {}
        # Streams with a RESET_STREAM, STOP_SENDING or MAX_STREAM_DATA to write.
        self._control: dict[EngineStream, None] = {}
        self.unsent = 0
        self.packets_lost = 0
        self.certificate_error: str | None = None
        self._loss._pacer = TickPacer(max_datagram_size=configuration.max_datagram_size)
        self._loss._cc._rtt_monitor = SlowStartExit()
        self._count_losses()

    # Reading the state

    @property
    def handshake_complete(self) -> bool:
        """Whether application data can be sent."""
        return self._handshake_complete

    @property
    def negotiated_alpn(self) -> str:
        """The protocol agreed on, or an empty string."""
        return self.tls.alpn_negotiated or ""

    @property
    def close_cause(self) -> tuple[int, int | None, str, bool] | None:
        """Error code, frame type (None for an application's close), reason, and whether
        the peer closed; None while the connection lives."""
        event = self._close_event
        if event is None:
            return None
        remote = self._state is stock.QuicConnectionState.DRAINING
        return event.error_code, event.frame_type, event.reason_phrase, remote

    @property
    def terminated(self) -> bool:
        """Whether nothing more will be sent or understood."""
        return self._state is stock.QuicConnectionState.TERMINATED

    @property
    def smoothed_rtt(self) -> float:
        """Seconds; 0 before the first sample."""
        return float(self._loss._rtt_smoothed)

    @property
    def congestion_window(self) -> int:
        """Bytes."""
        return int(self._loss.congestion_window)

    @property
    def received_unread(self) -> int:
        """Bytes received and not given back as credit."""
        return int(self._local_max_data.used) - self._data_consumed

    @property
    def streams_open(self) -> int:
        """Streams not over on the wire."""
        return len(self._streams)

    @property
    def live_streams(self) -> list[EngineStream]:
        """Streams not over on the wire, oldest first."""
        return list(self._streams.values())

    @property
    def max_datagram_payload(self) -> int | None:
        """The largest DATAGRAM that fits one packet and the peer takes; None for none."""
        accepted = self._remote_max_datagram_frame_size
        if not accepted:
            return None
        packet = self._max_datagram_size - _SHORT_HEADER_AND_SEAL - len(self._peer_cid.cid)
        return max(0, min(packet, accepted) - _DATAGRAM_FRAME_HEADER)

    @property
    def datagrams_queued(self) -> int:
        """DATAGRAM frames not sent yet."""
        return len(self._datagrams_pending)

    def stream_credit(self, uni: bool) -> int:
        """How many streams the peer lets us open now."""
        if uni:
            return int(self._remote_max_streams_uni) - self._local_next_stream_id_uni // 4
        return int(self._remote_max_streams_bidi) - self._local_next_stream_id_bidi // 4

    # Commands

    def shut(self, code: int, reason: str) -> None:
        """Close for the application; an overlong reason is cut to fit a packet."""
        short = reason.encode()[:_LARGEST_REASON].decode(errors="ignore")
        self.close(error_code=max(0, code), reason_phrase=short)

    def end_log(self) -> None:
        """Write the qlog of a connection that will not live to its own end."""
        if self._quic_logger is not None:
            self._configuration.quic_logger.end_trace(self._quic_logger)
            self._quic_logger = None

    def open_stream(self, *, uni: bool) -> EngineStream:
        """Open a stream; the caller checked :meth:`stream_credit`."""
        if uni:
            stream_id = self._local_next_stream_id_uni
            self._local_next_stream_id_uni = stream_id + 4
            local_window, remote_window = 0, self._remote_max_stream_data_uni
        else:
            stream_id = self._local_next_stream_id_bidi
            self._local_next_stream_id_bidi = stream_id + 4
            local_window = self._local_max_stream_data_bidi_local
            remote_window = self._remote_max_stream_data_bidi_remote
        self._stream_order = order = self._stream_order + 1
        stream = self._streams[stream_id] = EngineStream(
            stream_id,
            order,
            sender=SendBuffer(),
            receiver=_FINISHED_RECEIVER if uni else ReceiveBuffer(),
            local_window=local_window,
            remote_window=remote_window,
        )
        return stream

    def write(self, stream: EngineStream, data: bytes, end: bool) -> None:
        """Queue bytes, and the end of the stream if ``end``."""
        stream.sender.write(data, end)
        self.unsent += len(data)
        if stream.entry is None:
            self._enqueue(stream)

    def abandon(self, stream: EngineStream, error_code: int) -> None:
        """Send RESET_STREAM, once, unless everything arrived already."""
        self.unsent -= stream.sender.unsent
        stream.sender.reset(error_code)
        if stream.sender.reset_pending:
            self._control[stream] = None

    def refuse(self, stream: EngineStream, error_code: int) -> None:
        """Send STOP_SENDING, unless the stream has ended."""
        stream.receiver.stop(error_code)
        if stream.receiver.stop_pending:
            self._control[stream] = None

    def prioritise(self, stream: EngineStream, priority: int) -> None:
        """Send this stream's bytes before those of a lower number."""
        stream.priority = priority
        if stream.entry is not None:
            self._enqueue(stream)

    def consume(self, stream: EngineStream, count: int) -> bool:
        """The application took bytes; True if there is credit to announce."""
        announce = self._consume_data(count)
        stream.consumed = consumed = stream.consumed + count
        if not stream.receiver.is_finished:
            limit = consumed + self._stream_window
            if limit - stream.max_stream_data_local >= self._stream_window // 2 + 1:
                stream.max_stream_data_local = limit
                self._control[stream] = None
                return True
        return announce

    def grant_stream(self, uni: bool) -> bool:
        """Let the peer open one more stream; True if that is worth announcing now."""
        limit = self._local_max_streams_uni if uni else self._local_max_streams_bidi
        limit.value += 1
        return bool(limit.sent - limit.used < limit.value - limit.sent)

    def ping(self) -> None:
        """Send a packet the peer has to acknowledge."""
        self.send_ping(0)

    # Inside: credit

    def _consume_data(self, count: int) -> bool:
        self._data_consumed += count
        limit = self._local_max_data
        value = self._data_consumed + self._connection_window
        if value - limit.value >= self._connection_window // 2 + 1:
            limit.value = value
            return True
        return False

    def _count_losses(self) -> None:
        on_packets_lost = self._loss._on_packets_lost

        def count(*, packets: Any, **rest: Any) -> None:
            packets = list(packets)
            self.packets_lost += len(packets)
            on_packets_lost(packets=packets, **rest)

        self._loss._on_packets_lost = count

    def _enqueue(self, stream: EngineStream) -> None:
        entry = (-stream.priority, stream.order, stream)
        stream.entry = entry
        heapq.heappush(self._sendable, entry)

    def _discard_if_over(self, stream: EngineStream) -> None:
        if (
            stream.sender.is_finished
            and stream.receiver.is_finished
            and self._streams.pop(stream.stream_id, None) is not None
        ):
            self._owner.stream_discarded(stream)

    # Inside: TLS

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        if self._is_client:
            self._watch_certificate()

    def _watch_certificate(self) -> None:
        """Check the pin, and keep the error's words, where aioquic checks the chain:
        before the server's Finished, so before any application data either way."""
        context, pin = self.tls, self._pin
        verify = context._client_handle_certificate_verify

        def checked(buffer: Buffer) -> None:
            try:
                verify(buffer)
                if pin is not None:
                    mismatch = pin.mismatch(context._peer_certificate)
                    if mismatch is not None:
                        raise AlertBadCertificate(mismatch)
            except Exception as error:
                self.certificate_error = str(error) or type(error).__name__
                raise

        context._client_handle_certificate_verify = checked

    # Inside: receiving

    def _get_or_create_stream(self, frame_type: int, stream_id: int) -> EngineStream:
        stream: EngineStream | None = self._streams.get(stream_id)
        if stream is not None:
            return stream
        if self._stream_is_discarded(stream_id):
            raise stock.StreamFinishedError
        if stock.stream_is_client_initiated(stream_id) == self._is_client:
            raise stock.QuicConnectionError(
                error_code=QuicErrorCode.STREAM_STATE_ERROR,
                frame_type=frame_type,
                reason_phrase="Wrong stream initiator",
            )
        limit = self._stream_limit(stream_id)
        count = stream_id // 4 + 1
        if count > limit.value:
            raise stock.QuicConnectionError(
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
            sender=_FINISHED_SENDER if uni else SendBuffer(),
            receiver=ReceiveBuffer(),
            local_window=(
                self._local_max_stream_data_uni if uni else self._local_max_stream_data_bidi_remote
            ),
            remote_window=0 if uni else self._remote_max_stream_data_bidi_local,
        )
        self._owner.stream_opened(stream)
        return stream

    def _handle_stream_frame(
        self, context: stock.QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        stream_id = buf.pull_uint_var()
        offset = buf.pull_uint_var() if frame_type & 4 else 0
        length = buf.pull_uint_var() if frame_type & 2 else buf.capacity - buf.tell()
        end = offset + length
        if end > stock.UINT_VAR_MAX:
            raise stock.QuicConnectionError(
                error_code=QuicErrorCode.FRAME_ENCODING_ERROR,
                frame_type=frame_type,
                reason_phrase="offset + length cannot exceed 2^62 - 1",
            )
        data = buf.pull_bytes(length)
        fin = bool(frame_type & 1)
        if self._quic_logger is not None:
            self._log_stream_frame(context.quic_logger_frames, stream_id, offset, data, fin)
        self._assert_stream_can_receive(frame_type, stream_id)
        stream = self._get_or_create_stream(frame_type, stream_id)
        receiver = stream.receiver
        newly = end - receiver.highest_offset
        if newly > 0:
            self._check_window(stream, end, newly, frame_type)
        try:
            delivered = receiver.feed(offset, data, fin)
        except WrongFinalSize as error:
            raise stock.QuicConnectionError(
                error_code=QuicErrorCode.FINAL_SIZE_ERROR,
                frame_type=frame_type,
                reason_phrase=str(error),
            ) from error
        except TooManyPieces as error:
            raise stock.QuicConnectionError(
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
            raise stock.QuicConnectionError(
                error_code=QuicErrorCode.FLOW_CONTROL_ERROR,
                frame_type=frame_type,
                reason_phrase=f"Over {'stream' if over_stream else 'connection'} data limit",
            )
        limit.used += newly

    def _handle_reset_stream_frame(
        self, context: stock.QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
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
            raise stock.QuicConnectionError(
                error_code=QuicErrorCode.FINAL_SIZE_ERROR,
                frame_type=frame_type,
                reason_phrase=str(error),
            ) from error
        if news:
            # The bytes that will never be delivered count as taken.
            self._consume_data(final_size - receiver.delivered)
            self._owner.stream_reset(stream, error_code)
            self._discard_if_over(stream)

    def _handle_stop_sending_frame(
        self, context: stock.QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
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

    def _handle_max_stream_data_frame(
        self, context: stock.QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        start = buf.tell()
        stream_id = buf.pull_uint_var()
        buf.seek(start)
        super()._handle_max_stream_data_frame(context, frame_type, buf)
        stream = self._streams.get(stream_id)
        if stream is not None and stream.entry is None and stream.sender.has_frames:
            self._enqueue(stream)

    def _handle_max_data_frame(
        self, context: stock.QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        before = self._remote_max_data
        super()._handle_max_data_frame(context, frame_type, buf)
        if self._remote_max_data > before:
            waiting, self._out_of_data_credit = self._out_of_data_credit, {}
            for stream in waiting:
                if stream.entry is None and stream.sender.has_frames:
                    self._enqueue(stream)

    def _handle_max_streams_bidi_frame(
        self, context: stock.QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        super()._handle_max_streams_bidi_frame(context, frame_type, buf)
        self._owner.stream_credit_grew()

    def _handle_max_streams_uni_frame(
        self, context: stock.QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        super()._handle_max_streams_uni_frame(context, frame_type, buf)
        self._owner.stream_credit_grew()

    # Inside: what became of frames

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

    # Inside: sending

    def _write_application(
        self, builder: QuicPacketBuilder, network_path: stock.QuicNetworkPath, now: float
    ) -> None:
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
        builder: QuicPacketBuilder,
        network_path: stock.QuicNetworkPath,
        space: stock.QuicPacketSpace,
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

    def _write_connection_limits(
        self, builder: QuicPacketBuilder, space: stock.QuicPacketSpace
    ) -> None:
        """Announce MAX_DATA and MAX_STREAMS; what to announce is decided by consumption."""
        max_data = self._local_max_data
        if max_data.value != max_data.sent:
            self._write_limit(builder, max_data)
        for limit in (self._local_max_streams_bidi, self._local_max_streams_uni):
            # Batched: wait until the peer has fewer left than the update would grant.
            if limit.value != limit.sent and limit.sent - limit.used < limit.value - limit.sent:
                self._write_limit(builder, limit)

    def _write_limit(self, builder: QuicPacketBuilder, limit: stock.Limit) -> None:
        buf = builder.start_frame(
            limit.frame_type,
            capacity=stock.CONNECTION_LIMIT_FRAME_CAPACITY,
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

    def _write_stream_control(self, builder: QuicPacketBuilder) -> None:
        """RESET_STREAM, STOP_SENDING and MAX_STREAM_DATA, as many as fit this packet."""
        largest = _RESET_STREAM_SIZE + _STOP_SENDING_SIZE + _MAX_STREAM_DATA_SIZE
        while self._control:
            if builder.remaining_flight_space < largest:
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

    def _write_reset(self, builder: QuicPacketBuilder, stream: EngineStream) -> None:
        sender = stream.sender
        buf = builder.start_frame(
            QuicFrameType.RESET_STREAM,
            capacity=_RESET_STREAM_SIZE,
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

    def _write_stop(self, builder: QuicPacketBuilder, stream: EngineStream) -> None:
        receiver = stream.receiver
        buf = builder.start_frame(
            QuicFrameType.STOP_SENDING,
            capacity=_STOP_SENDING_SIZE,
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

    def _write_stream_window(self, builder: QuicPacketBuilder, stream: EngineStream) -> None:
        buf = builder.start_frame(
            QuicFrameType.MAX_STREAM_DATA,
            capacity=_MAX_STREAM_DATA_SIZE,
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

    def _write_datagrams(self, builder: QuicPacketBuilder) -> None:
        pending = self._datagrams_pending
        while pending:
            data = pending[0]
            if builder.remaining_flight_space < len(data) + _DATAGRAM_FRAME_HEADER:
                if self.max_datagram_payload is None or len(data) > self.max_datagram_payload:
                    pending.popleft()  # the limits shrank under it: it will never fit
                    continue
                return
            self._write_datagram_frame(
                builder=builder, data=data, frame_type=QuicFrameType.DATAGRAM_WITH_LENGTH
            )
            pending.popleft()

    def _write_streams(self, builder: QuicPacketBuilder) -> None:
        """Fill the packet: higher priorities first, among equals the oldest stream."""
        sendable = self._sendable
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
            room = builder.remaining_flight_space - overhead
            if room <= 0:
                return
            credit = self._remote_max_data - self._remote_max_data_used
            before = sender.highest_offset
            frame = sender.take(room, min(before + credit, stream.max_stream_data_remote))
            if frame is None:
                heapq.heappop(sendable)
                stream.entry = None
                if before < stream.max_stream_data_remote:
                    self._out_of_data_credit[stream] = None
                continue
            newly = sender.highest_offset - before
            self._remote_max_data_used += newly
            self.unsent -= newly
            self._write_stream(builder, stream, frame, overhead)

    def _write_stream(
        self, builder: QuicPacketBuilder, stream: EngineStream, frame: Frame, overhead: int
    ) -> None:
        offset, data, end = frame
        buf = builder.start_frame(
            QuicFrameType.STREAM_BASE | 2 | (4 if offset else 0) | end,
            capacity=overhead,
            handler=self._on_stream_frame_delivery,
            handler_args=(stream, frame),
        )
        buf.push_uint_var(stream.stream_id)
        if offset:
            buf.push_uint_var(offset)
        buf.push_uint16(len(data) | 0x4000)
        buf.push_bytes(data)
        if self._quic_logger is not None:
            self._log_stream_frame(builder.quic_logger_frames, stream.stream_id, offset, data, end)

    def _log_stream_frame(
        self, frames: Any, stream_id: int, offset: int, data: bytes, end: bool
    ) -> None:
        frames.append(
            self._quic_logger.encode_stream_frame(
                stock.QuicStreamFrame(data=data, fin=end, offset=offset), stream_id=stream_id
            )
        )

    # I/O-free driving

    def transmit(self, now: float) -> list[tuple[bytes, Any]]:
        """The datagrams to send now, with their addresses."""
        if not self._network_paths:
            return []  # a server that has not understood a first packet yet
        datagrams: list[tuple[bytes, Any]] = self.datagrams_to_send(now=now)
        return datagrams

    def next_timer(self) -> float | None:
        """When to call :meth:`handle_timer`, on the clock given to the other methods."""
        deadline: float | None = self.get_timer() if self._close_at is not None else None
        # Under an exact clock aioquic's loss detection would find itself a rounding
        # error early and arm the same instant again, for ever.
        return None if deadline is None else deadline + 0.000_001


def _check_version() -> None:
    """Fail at import, in words, when aioquic is not the one this file was written for."""
    missing = [name for name in _NEEDED_NAMES if not _has_name(name)]
    if missing:
        raise ImportError(
            f"moqtrio supports {SUPPORTED}; the installed aioquic {aioquic.__version__} "
            f"lacks {', '.join(missing)}"
        )


def _has_name(name: str) -> bool:
    return (
        hasattr(stock.QuicConnection, name)
        or name in stock.QuicConnection.__init__.__code__.co_names
    )


_check_version()
__all__ = ["Engine", "EngineOwner", "EngineStream", "QuicPacketBuilderStop"]
