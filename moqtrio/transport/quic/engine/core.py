"""The engine's outside: its state, its end and its clock."""

from __future__ import annotations

import logging
from typing import Any

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnectionState
from aioquic.quic.packet import QuicErrorCode

from ...settings import TransportSettings
from ..pacing import SendingRate
from .authentication import AuthenticatingEngine, PeerCheck
from .sending import DATAGRAM_FRAME_HEADER, SHORT_HEADER_AND_SEAL
from .stream import EngineOwner, EngineStream

logger: logging.Logger = logging.getLogger("moqtrio.transport")

_LARGEST_REASON = 256
# RFC 9001 section 6.6 allows an AES-GCM key 2^23 packets: some hours of video.
_PACKETS_PER_KEY = 1 << 22


class Engine(AuthenticatingEngine):
    """One QUIC connection without any I/O, clock or task."""

    def __init__(
        self,
        *,
        configuration: QuicConfiguration,
        settings: TransportSettings,
        owner: EngineOwner,
        original_destination_connection_id: bytes | None = None,
        retry_source_connection_id: bytes | None = None,
        peer_check: PeerCheck | None = None,
    ) -> None:
        super().__init__(
            configuration=configuration,
            settings=settings,
            owner=owner,
            original_destination_connection_id=original_destination_connection_id,
            retry_source_connection_id=retry_source_connection_id,
        )
        self._peer_check = PeerCheck() if peer_check is None else peer_check
        self._sending_rate = SendingRate(self._loss.congestion_window)
        self.certificate_error: str | None = None

    # Reading the state

    @property
    def heard(self) -> bool:
        """Whether any packet of the peer's could be understood."""
        return self._state is not QuicConnectionState.FIRSTFLIGHT

    @property
    def handshake_complete(self) -> bool:
        """Whether application data can be sent."""
        return self._handshake_complete

    @property
    def handshake_confirmed(self) -> bool:
        """Whether both sides know that the handshake is complete."""
        return bool(self._handshake_confirmed)

    @property
    def negotiated_alpn(self) -> str:
        """The protocol agreed on, or an empty string."""
        return self.tls.alpn_negotiated or ""

    @property
    def peer_window(self) -> int:
        """Bytes the peer has admitted so far on all streams together."""
        return int(self._remote_max_data)

    @property
    def close_cause(self) -> tuple[int, int | None, str, bool] | None:
        """Error code, frame type (None for an application's close), reason, and whether
        the peer closed; None while the connection lives."""
        event = self._close_event
        if event is None:
            return None
        remote = self._state is QuicConnectionState.DRAINING
        return event.error_code, event.frame_type, event.reason_phrase, remote

    @property
    def terminated(self) -> bool:
        """Whether nothing more will be sent or understood."""
        return self._state is QuicConnectionState.TERMINATED

    @property
    def idle_timeout(self) -> float:
        """Seconds of silence that end the connection: the shorter of what both sides want."""
        own: float = self._configuration.idle_timeout
        return min(own, self._remote_max_idle_timeout or own)

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
        accepted: int | None = self._remote_max_datagram_frame_size
        if not accepted:
            return None
        packet: int = self._max_datagram_size - SHORT_HEADER_AND_SEAL - len(self._peer_cid.cid)
        return max(0, min(packet, accepted) - DATAGRAM_FRAME_HEADER)

    @property
    def datagrams_queued(self) -> int:
        """DATAGRAM frames not sent yet."""
        return len(self._datagrams_pending)

    # Commands

    def shut(self, code: int, reason: str) -> None:
        """Close for the application."""
        self.close(error_code=max(0, code), reason_phrase=reason)

    def close(
        self,
        error_code: int = QuicErrorCode.NO_ERROR,
        frame_type: int | None = None,
        reason_phrase: str = "",
    ) -> None:
        """Close; an overlong reason is cut to fit a packet. Some quote the peer."""
        short = reason_phrase.encode()[:_LARGEST_REASON].decode(errors="ignore")
        super().close(error_code=error_code, frame_type=frame_type, reason_phrase=short)

    def end_log(self) -> None:
        """Write the qlog, unless that was done or nothing was ever understood."""
        trace, self._quic_logger = self._quic_logger, None
        if trace is None:
            return
        if self._is_client or self.heard:
            try:
                self._configuration.quic_logger.end_trace(trace)
            except OSError as error:
                logger.warning("a qlog could not be written: %s", error)
        else:
            self._configuration.quic_logger.forget(trace)

    def ping(self) -> None:
        """Send a packet the peer has to acknowledge."""
        self.send_ping(0)

    # I/O-free driving

    def _idle_timeout(self) -> float:
        # aioquic takes a peer's 0 for the shortest of timeouts: it is none at all.
        return max(self.idle_timeout, 3 * float(self._loss.get_probe_timeout()))

    def transmit(self, now: float) -> list[tuple[bytes, Any]]:
        """The datagrams to send now, with their addresses."""
        if not self._network_paths:
            return []  # a server that has not understood a first packet yet
        if self._packet_number - self._keyed_at >= _PACKETS_PER_KEY:
            self._renew_keys()
        self._note_path()
        self._loss._pacer.begin_flush()
        datagrams: list[tuple[bytes, Any]] = self.datagrams_to_send(now=now)
        if datagrams:
            self._sending_rate.note(self._loss.bytes_in_flight, now)
        return datagrams

    def _renew_keys(self) -> None:
        # RFC 9001 section 6.1: not before a packet under the current keys was acknowledged.
        if self._handshake_confirmed and self._one_rtt_space.largest_acked_packet >= self._keyed_at:
            self.request_key_update()

    def next_timer(self) -> float | None:
        """When to call :meth:`handle_timer`, on the clock given to the other methods."""
        deadline: float | None = self.get_timer() if self._close_at is not None else None
        # Under an exact clock aioquic's loss detection would find itself a rounding
        # error early and arm the same instant again, for ever.
        return None if deadline is None else deadline + 0.000_001
