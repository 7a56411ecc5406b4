"""One QUIC connection as a session sees it: the engine's owner."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import trio
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import QuicErrorCode
from cryptography import x509

from ...errors import SessionClosed, SessionCode
from ..base import ConnectionBase
from ..connection import BidiStream, ConnectionStatistics
from ..settings import TransportSettings
from ..settling import ACCEPTED, ALL_SETTLED, CONSUMED, DISCARDED
from ..streams import ReceiveHalf, SendHalf
from .addresses import format_address
from .codes import stream_code_from_wire
from .engine import Engine, EngineStream, PeerCheck
from .streams import QuicReceiveHalf, QuicSendHalf

if TYPE_CHECKING:
    from .endpoint import Endpoint

_NEVER = float("inf")
# Unread bytes beyond the window that are put up with so that an answer gets through.
_ANSWERS = 16 * 1024


class QuicConnection(ConnectionBase):
    """Owned by an :class:`~.endpoint.Endpoint`, which feeds and flushes it."""

    def __init__(
        self,
        *,
        endpoint: Endpoint,
        configuration: QuicConfiguration,
        settings: TransportSettings,
        address: Any,
        original_destination_connection_id: bytes | None = None,
        retry_source_connection_id: bytes | None = None,
        peer_check: PeerCheck | None = None,
    ) -> None:
        super().__init__(settings)
        self._endpoint = endpoint
        self._address = address
        self._engine = Engine(
            configuration=configuration,
            settings=settings,
            owner=self,
            original_destination_connection_id=original_destination_connection_id,
            retry_source_connection_id=retry_source_connection_id,
            peer_check=peer_check,
        )
        self._client_side = configuration.is_client
        self._agreed_alpn = ""
        self._peer_window = 0
        #: Set when the handshake is over, either way.
        self._handshake_over = trio.Event()
        self._on_established: Callable[[QuicConnection], None] | None = None
        # A client that was asked who it is waits for the server's verdict.
        self._awaits_verdict = False
        self._dirty = False
        self._started_at = trio.current_time()
        self._heard_at = self._started_at
        self._ping_at = _NEVER
        self._keep_alive = _NEVER
        # This connection's entries in the endpoint's timer heap, the earliest last.
        self._timer_entries: list[float] = []
        self._stream_credit_changed = False
        self._stopped_streams = False
        # Streams over on the wire, with bytes nobody took yet.
        self._unread: dict[EngineStream, ReceiveHalf] = {}
        self._bytes_sent = 0
        self._bytes_received = 0
        self._datagrams_sent = 0
        self._datagrams_received = 0

    # What ConnectionBase asks for

    def _unsent(self) -> int:
        return self._engine.unsent

    def _stuck(self) -> int:
        return self._engine.stuck

    def _unsent_at(self) -> Mapping[int, int]:
        return self._engine.unsent_at

    def _stream_credit(self, uni: bool) -> int:
        return self._engine.stream_credit(uni)

    def _make_uni(self) -> SendHalf:
        return QuicSendHalf(self, self._engine.open_stream(uni=True))

    def _make_bidi(self) -> BidiStream:
        stream = self._engine.open_stream(uni=False)
        return BidiStream(QuicSendHalf(self, stream), QuicReceiveHalf(self, stream))

    def _stream_accepted(self, stream: ReceiveHalf) -> None:
        assert isinstance(stream, QuicReceiveHalf)
        self._settle_peer_stream(stream._stream, ACCEPTED)

    def _send_close(self, code: int, reason: str) -> None:
        self._engine.shut(code, reason)
        self._mark_dirty()

    def _live_send_halves(self) -> Iterable[SendHalf]:
        return [
            stream.application_sends
            for stream in self._engine.live_streams
            if stream.application_sends is not None
        ]

    def _live_receive_halves(self) -> Iterable[ReceiveHalf]:
        live = [
            stream.application_receives
            for stream in self._engine.live_streams
            if stream.application_receives is not None
        ]
        return [*live, *self._unread.values()]

    def _lend_credit(self) -> None:
        if self._end is None:
            # Somebody nearly always waits for the next answer on a bidirectional stream.
            answers, data = self._readers_waiting
            most = self._settings.connection_window if data else _ANSWERS if answers else 0
            if self._engine.lend(most):
                self._mark_dirty()

    def _mark_dirty(self) -> None:
        if not self._dirty:
            self._dirty = True
            self._endpoint.mark_dirty(self)

    def _settle_peer_stream(self, stream: EngineStream, what: int) -> None:
        """Give the peer a stream back once ours is over in every respect."""
        before = stream.settled
        stream.settled = settled = before | what
        if what == CONSUMED and before & DISCARDED:
            self._unread.pop(stream, None)
        if (
            settled == ALL_SETTLED
            and before != ALL_SETTLED
            and stream.stream_id & 1 == self._client_side
            and self._engine.grant_stream(bool(stream.stream_id & 2))
        ):
            self._mark_dirty()

    # What the engine reports, in the middle of a packet

    def stream_opened(self, stream: EngineStream) -> None:
        receiver = QuicReceiveHalf(self, stream)
        if stream.stream_id & 2:
            self._incoming_uni(receiver)
        else:
            self._incoming_bidi(BidiStream(QuicSendHalf(self, stream), receiver))

    def stream_data(self, stream: EngineStream, data: bytes, ended: bool) -> None:
        stream.application_receives._arrived(data, ended)

    def stream_reset(self, stream: EngineStream, error_code: int) -> None:
        stream.application_receives._reset_by_peer(stream_code_from_wire(error_code))

    def stream_stopped(self, stream: EngineStream, error_code: int) -> None:
        stream.application_sends._stopped_by_peer(stream_code_from_wire(error_code))
        self._stopped_streams = True

    def stream_delivered(self, stream: EngineStream) -> None:
        stream.application_sends._settle()

    def stream_discarded(self, stream: EngineStream) -> None:
        self._settle_peer_stream(stream, DISCARDED)
        if not stream.settled & CONSUMED and stream.application_receives is not None:
            self._unread[stream] = stream.application_receives
        # Nothing will be reported any more. Without the cycle the halves are freed as soon
        # as the application lets go of them: collecting it cost a tenth of the time.
        stream.application_sends = stream.application_receives = None

    def stream_credit_grew(self) -> None:
        self._stream_credit_changed = True

    def _flush_now(self) -> None:
        """Send what waits, as far as congestion control allows: a close comes next."""
        self._endpoint.flush(self)

    # What the endpoint calls

    def feed(self, data: bytes, address: Any, now: float) -> None:
        """One UDP payload arrived."""
        self._bytes_received += len(data)
        self._datagrams_received += 1
        self._heard_at = now
        self._engine.receive_datagram(data, address, now)

    def fire(self, now: float) -> None:
        """The deadline came: timers, keep-alive, and the limit on handshakes."""
        deadline = self._engine.next_timer()
        if deadline is not None and deadline <= now:
            self._engine.handle_timer(now)
            if self._client_side and self._engine.hears_nothing:
                self._endpoint.move(self)
        if not self._handshake_over.is_set():
            if now >= self._started_at + self._settings.connect_timeout and self._end is None:
                self.close(SessionCode.INTERNAL, "handshake timed out")
        elif now >= self._ping_at and self._end is None:
            interval = self._keep_alive
            if now >= self._heard_at + interval:
                self._engine.ping()
                self._ping_at = now + interval
            else:
                self._ping_at = self._heard_at + interval

    def deadline(self) -> float:
        """When :meth:`fire` wants to be called."""
        deadline = self._engine.next_timer()
        earliest = _NEVER if deadline is None else deadline
        if self._end is None:
            if not self._handshake_over.is_set():
                limit = self._started_at + self._settings.connect_timeout
                earliest = min(earliest, limit)
            elif self._ping_at < earliest:
                earliest = self._ping_at
        return earliest

    @property
    def is_junk(self) -> bool:
        """Whether what looked like a client's first packet was none."""
        return not self._client_side and not self._engine.heard

    def refused(self) -> None:
        """The kernel says that nobody listens at the peer's address."""
        if not self._handshake_over.is_set() and not self._datagrams_received:
            self._terminate(
                SessionClosed(
                    f"nothing listens at UDP {self.remote_address} (connection refused)",
                    code=SessionCode.INTERNAL,
                    remote=False,
                )
            )

    def settle(self) -> None:
        """After a batch: pass on what the engine's queue and the last packets brought."""
        engine = self._engine
        while (event := engine.next_event()) is not None:
            self._handle_event(event)
        if self._end is None:
            cause = engine.close_cause
            if cause is not None:
                self._engine_closed(*cause)
            else:
                if self._awaits_verdict and engine.handshake_confirmed:
                    self._awaits_verdict = False
                    self._established()
                self._after_batch()
                self._lend_credit()

    def flush(self, now: float) -> list[tuple[bytes, Any]]:
        """What is to be sent now."""
        self._dirty = False
        engine = self._engine
        datagrams = engine.transmit(now)
        while (event := engine.next_event()) is not None:
            self._handle_event(event)
        if datagrams:
            self._datagrams_sent += len(datagrams)
            self._bytes_sent += sum(len(data) for data, _ in datagrams)
        if self._starved_streams and self._end is None:
            self._send_buffers_shrank()
        return datagrams

    # Inside

    def _after_batch(self) -> None:
        if self._stream_credit_changed:
            self._stream_credit_changed = False
            self._credit_grew()
        if self._stopped_streams:
            self._stopped_streams = False
            self._notify_writable()

    def _handle_event(self, event: events.QuicEvent) -> None:
        if isinstance(event, events.DatagramFrameReceived):
            self._incoming_datagram(event.data)
        elif isinstance(event, events.ConnectionIdIssued):
            self._endpoint.add_connection_id(event.connection_id, self)
        elif isinstance(event, events.ConnectionIdRetired):
            self._endpoint.remove_connection_id(event.connection_id)
        elif isinstance(event, events.HandshakeCompleted):
            if self._engine.was_asked_for_certificate:
                self._awaits_verdict = True
            else:
                self._established()

    def _established(self) -> None:
        self._endpoint.handshake_completed(self)
        self._agreed_alpn = self._engine.negotiated_alpn
        self._peer_window = self._engine.peer_window
        self._stream_credit_changed = True
        if self._settings.keep_alive is not None:
            # RFC 9000 section 10.1: the shorter of both sides' timeouts counts.
            self._keep_alive = min(self._settings.keep_alive, self._engine.idle_timeout / 2)
            self._ping_at = self._heard_at + self._keep_alive
        self._handshake_over.set()
        if self._on_established is not None:
            self._on_established(self)

    def _engine_closed(
        self, error_code: int, frame_type: int | None, reason: str, remote: bool
    ) -> None:
        """The connection ended without this side's application asking for it."""
        code = error_code
        if frame_type is not None and error_code != QuicErrorCode.NO_ERROR:
            # QUIC's own codes are no session codes.
            code = SessionCode.INTERNAL
            if reason == "Idle timeout":
                reason = f"nothing was heard for {self._engine.idle_timeout:g} s (idle timeout)"
            else:
                reason = f"QUIC {_name_of(error_code)}: {reason or 'no reason given'}"
        self._terminate(SessionClosed(reason, code=code, remote=remote))

    def _terminate(self, end: SessionClosed, *, discard: bool = False) -> None:
        super()._terminate(end, discard=discard)
        self._handshake_over.set()

    # The public side

    @property
    def is_client(self) -> bool:
        return self._client_side

    @property
    def alpn(self) -> str:
        return self._agreed_alpn

    @property
    def remote_address(self) -> str:
        return format_address(self._engine.get_peer_address() or self._address)

    @property
    def peer_certificate(self) -> x509.Certificate | None:
        return self._engine.peer_certificate

    @property
    def peer_window(self) -> int:
        return self._peer_window

    @property
    def max_datagram_size(self) -> int | None:
        return None if self._end is not None else self._engine.max_datagram_payload

    def send_datagram_nowait(self, data: bytes) -> None:
        if self._end is not None:
            raise self._closed_error()
        limit = self._engine.max_datagram_payload
        if limit is None:
            raise ValueError("the peer takes no datagrams")
        if len(data) > limit:
            raise ValueError(f"a datagram carries at most {limit} bytes here, not {len(data)}")
        if self._engine.datagrams_queued >= self._settings.datagram_queue:
            raise trio.WouldBlock
        self._engine.send_datagram_frame(bytes(data))
        self._mark_dirty()

    def statistics(self) -> ConnectionStatistics:
        engine = self._engine
        return ConnectionStatistics(
            bytes_sent=self._bytes_sent,
            bytes_received=self._bytes_received,
            datagrams_sent=self._datagrams_sent,
            datagrams_received=self._datagrams_received,
            packets_lost=engine.packets_lost,
            smoothed_rtt=engine.smoothed_rtt,
            congestion_window=engine.congestion_window,
            send_buffered=engine.unsent,
            receive_buffered=engine.received_unread,
            streams_open=engine.streams_open,
            estimated_bitrate=engine.estimated_bitrate,
        )


def _name_of(error_code: int) -> str:
    crypto = int(QuicErrorCode.CRYPTO_ERROR)
    if crypto <= error_code < crypto + 0x100:
        return f"TLS alert {error_code - crypto}"
    try:
        return QuicErrorCode(error_code).name
    except ValueError:
        return f"error {error_code:#x}"


__all__ = ["QuicConnection", "format_address"]
