"""What a session needs of a connection, whatever carries it.

A binding (QUIC, in-memory, later WebTransport) implements these three classes. Streams
are :mod:`trio.abc` streams with a few synchronous additions, so that a hot loop can move
many small groups without a checkpoint for each.

Stream error codes here are moq-lite's small ones (:class:`moqtrio.errors.StreamCode`);
bindings map them to and from the wire.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import attrs
import trio
from cryptography import x509

from ..errors import SessionClosed
from .newest_first import NewestFirst

Buffer = bytes | bytearray | memoryview

URGENT = 1 << 20
"""A stream of this priority or a higher one is not held back by what other streams have
unsent: for requests and answers, which are small and must not queue behind what they are
about."""


@attrs.frozen
class ConnectionStatistics:
    """A snapshot of one connection. Sizes are bytes, times are seconds."""

    bytes_sent: int
    bytes_received: int
    datagrams_sent: int
    datagrams_received: int
    packets_lost: int
    smoothed_rtt: float
    congestion_window: int
    send_buffered: int
    receive_buffered: int
    streams_open: int
    #: Bits per second this side may be able to send, as congestion control has it; None
    #: where that is not known.
    estimated_bitrate: float | None = None


class SendStream(trio.abc.SendStream):
    """The sending half of a stream.

    Cancelling :meth:`send_all` leaves an unknown part of its data accepted, as Trio's
    streams do. Errors: :exc:`~moqtrio.errors.StreamReset` when the peer stopped the
    stream, :exc:`~moqtrio.errors.SessionClosed` when the connection is over,
    :exc:`trio.ClosedResourceError` after :meth:`finish`, :meth:`reset` or ``aclose``.
    """

    __slots__ = ()

    @property
    @abc.abstractmethod
    def stream_id(self) -> int:
        """The stream's number on its connection, for logs."""

    @abc.abstractmethod
    def send_nowait(self, data: Buffer, *, finish: bool = False) -> None:
        """Take all of ``data`` now, and end the stream after it if ``finish``.

        Raises :exc:`trio.WouldBlock`, having taken nothing, while the stream's or the
        connection's unsent bytes are above the high-water mark. The mark is soft: below
        it, a call is taken whole, so keep ``data`` to some 64 KiB. The connection's mark
        does not hold back a stream that has begun and has nothing unsent: whoever reads may
        have to finish with it before giving other streams credit.
        """

    @abc.abstractmethod
    def finish(self) -> None:
        """End the stream cleanly (FIN) after what was taken. Never blocks; idempotent."""

    @abc.abstractmethod
    def reset(self, code: int) -> None:
        """Abandon the stream (RESET_STREAM): what was not delivered may never be.

        Never blocks, never raises; a no-op once the stream is over.
        """

    @abc.abstractmethod
    def set_priority(self, priority: int) -> None:
        """Send this stream's bytes before those of a lower number. The default is 0; see
        also :data:`URGENT`.

        Among equals the stream opened first goes first. Writing waits for unsent bytes of
        this priority and of higher ones, not for those of lower ones.
        """

    def share_places(self, rivals: NewestFirst[Any] | None, rank: int) -> None:
        """Let the highest ``rank`` among ``rivals`` go first, in the place of any of them
        that has not begun; None leaves the stream in its own place. A no-op on bindings that
        cannot choose what goes first.
        """

    @property
    @abc.abstractmethod
    def unsent(self) -> int:
        """Bytes that were taken and have not been sent once; 0 when the stream is over."""

    @abc.abstractmethod
    async def wait_stopped(self) -> None:
        """Return once nobody will read more: stopped by the peer, fully acknowledged
        after a FIN, reset, or the connection is over."""


class ReceiveStream(trio.abc.ReceiveStream):
    """The receiving half of a stream. Credit goes back to the peer as bytes are taken."""

    __slots__ = ()

    @property
    @abc.abstractmethod
    def stream_id(self) -> int:
        """The stream's number on its connection, for logs."""

    @abc.abstractmethod
    def receive_nowait(self, max_bytes: int | None = None) -> bytes:
        """Take what has arrived, at most ``max_bytes``; ``b""`` at the end of the stream.

        Raises :exc:`trio.WouldBlock` when nothing has arrived, otherwise as
        ``receive_some`` does: :exc:`~moqtrio.errors.StreamReset`,
        :exc:`~moqtrio.errors.SessionClosed`, :exc:`trio.ClosedResourceError`. Bytes that
        arrived before a reset may be discarded.
        """

    @abc.abstractmethod
    def peek_nowait(self) -> bytes:
        """What the next :meth:`receive_nowait` would return, without taking it.

        No credit goes back for it. Raises as ``receive_nowait`` does.
        """

    @abc.abstractmethod
    def stop(self, code: int) -> None:
        """Ask the peer to stop sending (STOP_SENDING) and discard what is unread.

        Never blocks, never raises; a no-op once the stream is over. Reading afterwards
        raises :exc:`trio.ClosedResourceError`.
        """


@attrs.frozen
class BidiStream:
    """Both halves of a bidirectional stream. Each half ends on its own."""

    send: SendStream
    receive: ReceiveStream


class Connection(abc.ABC):
    """One connection to one peer.

    Every waiting method raises :exc:`~moqtrio.errors.SessionClosed` once the connection
    is over, and may be cancelled without losing a stream or a datagram.
    """

    @property
    @abc.abstractmethod
    def is_client(self) -> bool:
        """Whether this side opened the connection."""

    @property
    @abc.abstractmethod
    def alpn(self) -> str:
        """The application protocol both sides agreed on."""

    @property
    def request_path(self) -> str | None:
        """Path and query of the URL the client asked for, where the binding itself carries
        them; None where it does not."""
        return None

    @property
    @abc.abstractmethod
    def remote_address(self) -> str:
        """The peer's address, for logs."""

    @property
    def peer_certificate(self) -> x509.Certificate | None:
        """What the peer presented to say who it is, checked as this side's TLS settings
        want it; None for a client that was not asked or had none, and where the binding
        has no TLS of its own."""
        return None

    @property
    @abc.abstractmethod
    def peer_window(self) -> int:
        """Unread bytes the peer was ready to hold of all streams together at the start."""

    @abc.abstractmethod
    async def open_uni(self) -> SendStream:
        """Open a unidirectional stream, waiting for the peer's credit (first come, first
        served)."""

    @abc.abstractmethod
    def open_uni_nowait(self) -> SendStream:
        """Like :meth:`open_uni`, or :exc:`trio.WouldBlock` where that would wait."""

    @abc.abstractmethod
    async def open_bidi(self) -> BidiStream:
        """Open a bidirectional stream, waiting for the peer's credit."""

    @abc.abstractmethod
    async def accept_uni(self) -> ReceiveStream:
        """The next unidirectional stream the peer opened, in the order of arrival."""

    @abc.abstractmethod
    def accept_uni_nowait(self) -> ReceiveStream:
        """Like :meth:`accept_uni`, or :exc:`trio.WouldBlock` where that would wait."""

    @abc.abstractmethod
    async def accept_bidi(self) -> BidiStream:
        """The next bidirectional stream the peer opened, in the order of arrival."""

    @property
    @abc.abstractmethod
    def max_datagram_size(self) -> int | None:
        """The largest datagram payload that can be sent now; None where none can be."""

    @abc.abstractmethod
    def send_datagram_nowait(self, data: bytes) -> None:
        """Queue one unreliable datagram.

        Raises ValueError when it is larger than :attr:`max_datagram_size` or the peer
        takes none, :exc:`trio.WouldBlock` when the bounded queue is full.
        """

    @abc.abstractmethod
    async def receive_datagram(self) -> bytes:
        """The next datagram. The queue is bounded: the oldest are dropped first."""

    @abc.abstractmethod
    def close(self, code: int = 0, reason: str = "") -> None:
        """Close the connection now: every stream ends, every wait raises
        :exc:`~moqtrio.errors.SessionClosed`. Never blocks; the first call counts."""

    @property
    @abc.abstractmethod
    def closed(self) -> SessionClosed | None:
        """Why the connection is over, or None while it is not."""

    @abc.abstractmethod
    async def wait_closed(self) -> SessionClosed:
        """Wait until the connection is over and say why (returned, not raised)."""

    @abc.abstractmethod
    def translate_codes(self, stream: Callable[[int], int], session: Callable[[int], int]) -> None:
        """From now on, take the peer's codes for what these functions make of them: in
        :exc:`~moqtrio.errors.StreamReset` and in the
        :exc:`~moqtrio.errors.SessionClosed` of a session the peer closed."""

    @abc.abstractmethod
    def statistics(self) -> ConnectionStatistics:
        """A snapshot of the connection's counters."""

    @abc.abstractmethod
    def on_writable(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call ``callback`` (synchronously; it must not block or raise) whenever writing
        or opening streams may have become possible again after a
        :exc:`trio.WouldBlock`, when a stream was stopped by the peer, and when the
        connection ends. Returns a function that takes the callback back."""
