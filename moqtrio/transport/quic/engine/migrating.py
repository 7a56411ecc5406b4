"""A peer whose address changes, and moving to another address oneself.

aioquic follows a client that moves: it validates the new path before it sends more there than
three times what came from it, and goes back if that fails (RFC 9000 sections 8.2 and 9.3).
Here is what remains to be done once the new path is in use.
"""

from __future__ import annotations

import logging
import math
from typing import Any

from aioquic._buffer import Buffer
from aioquic.quic.congestion.base import create_congestion_control
from aioquic.quic.packet import pull_quic_transport_parameters
from aioquic.tls import Epoch, ExtensionType

from ..addresses import format_address
from ..pacing import SendingRate, SlowStartExit, TickPacer
from .sending import SendingEngine

logger: logging.Logger = logging.getLogger("moqtrio.transport")

# Probes in a row without an answer after which a client takes it that its address is gone.
_UNANSWERED_PROBES = 3


class MigratingEngine(SendingEngine):
    """Overrides what happens when the path in use is another one."""

    host_cid: bytes
    _settled_on: Any = None
    _sending_rate: SendingRate

    @property
    def estimated_bitrate(self) -> float | None:
        """Bits per second this side may be able to send; None before it is known."""
        loss = self._loss
        return self._sending_rate.bits_per_second(loss.congestion_window, loss._rtt_smoothed)

    def _payload_received(
        self, context: Any, plain: bytes, crypto_frame_required: bool = False
    ) -> tuple[bool, bool]:
        # A server that sees its client move uses another of the client's connection ids
        # from then on (RFC 9000 section 9.5); the short way in knows only one.
        if self._is_client and self._handshake_confirmed and context.epoch is Epoch.ONE_RTT:
            self.host_cid = context.host_cid
        result: tuple[bool, bool] = super()._payload_received(
            context, plain, crypto_frame_required=crypto_frame_required
        )
        return result

    def _note_path(self) -> None:
        """Called before each row of packets: has the peer moved for good?"""
        path = self._network_paths[0]
        if path.addr is self._settled_on or not path.is_validated:
            return
        before, self._settled_on = self._settled_on, path.addr
        if before is None or before == path.addr:
            return
        logger.debug("%s is at %s now", format_address(before), format_address(path.addr))
        # RFC 9000 section 9.4: another port is nearly always the same path.
        if before[0] != path.addr[0]:
            self._forget_the_path()

    def _forget_the_path(self) -> None:
        """Start anew in measuring the round trip and the capacity (RFC 9000 section 9.4)."""
        loss = self._loss
        for space in loss.spaces:
            for packet in space.sent_packets.values():
                packet.in_flight = False  # on this path, that is
        size = self._configuration.max_datagram_size
        control: Any = create_congestion_control(
            self._configuration.congestion_control_algorithm, max_datagram_size=size
        )
        control._rtt_monitor = SlowStartExit()
        loss._cc = control
        loss._pacer = TickPacer(max_datagram_size=size)
        loss._rtt_initialized = False
        loss._rtt_min = math.inf
        loss._rtt_latest = loss._rtt_smoothed = loss._rtt_variance = 0.0
        self._sending_rate = SendingRate(loss._cc.congestion_window)

    # A client that moves

    @property
    def hears_nothing(self) -> bool:
        """Whether several probes in a row went unanswered."""
        return int(self._loss._pto_count) >= _UNANSWERED_PROBES

    def can_move(self) -> bool:
        """Whether a client may go on from another address of its own: the server allows
        it, and there is a connection id nobody has seen at the old one."""
        return (
            self._is_client
            and self._handshake_confirmed
            and bool(self._peer_cid_available)
            and not self._server_forbids_moving()
        )

    def _server_forbids_moving(self) -> bool:
        for kind, value in self.tls.received_extensions:
            if kind == ExtensionType.QUIC_TRANSPORT_PARAMETERS:
                parameters = pull_quic_transport_parameters(Buffer(data=value))
                return bool(parameters.disable_active_migration)
        return True

    def move(self) -> None:
        """This client sends from another address from now on (RFC 9000 section 9.2)."""
        self.change_connection_id()
        self._forget_the_path()
        self.send_ping(0)
