"""Two connections joined in memory: QUIC's semantics without packets, tasks or time.

Bytes move while a call runs, as far as the receiver's windows allow, so what a program
does over this binding is the same in every run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import trio

from ..errors import SessionClosed
from .base import ConnectionBase
from .connection import BidiStream, Connection, ConnectionStatistics
from .settings import TransportSettings
from .streams import ReceiveHalf, SendHalf

# What a QUIC packet spends on its header, the frame's header and the seal.
_DATAGRAM_OVERHEAD = 50


class _MemorySendHalf(SendHalf):
    """Holds what the receiver's windows do not allow yet."""

    __slots__ = ("_chunks", "_end_queued", "_peer", "_queued", "_window")

    _connection: _MemoryConnection

    def __init__(self, connection: _MemoryConnection, stream_id: int, window: int) -> None:
        super().__init__(connection, stream_id)
        self._chunks: deque[bytes] = deque()
        self._queued = 0
        self._end_queued = False
        self._window = window
        self._peer: _MemoryReceiveHalf

    def _unsent(self) -> int:
        return self._queued

    def _transmit(self, data: bytes, finish: bool) -> None:
        if data:
            self._chunks.append(data)
            self._queued += len(data)
            self._connection._queued += len(data)
        self._end_queued = self._end_queued or finish
        self._connection._pending[self._stream_id] = self
        self._connection._pump()

    def _drop_queue(self) -> None:
        self._connection._queued -= self._queued
        self._connection._pending.pop(self._stream_id, None)
        self._chunks.clear()
        self._queued = 0
        self._end_queued = False

    def _abandon(self, code: int) -> None:
        self._drop_queue()
        self._connection._send_halves.pop(self._stream_id, None)
        if self._connection.closed is None:
            self._peer._reset_by_peer(code)

    def _reprioritise(self) -> None:
        pass  # the pump looks at the priority each time

    def _deliver(self) -> None:
        """Hand over as much as both windows allow."""
        connection = self._connection
        while self._chunks:
            allowed = min(self._window, connection._window)
            if allowed <= 0:
                return
            chunk = self._chunks.popleft()
            if len(chunk) > allowed:
                self._chunks.appendleft(chunk[allowed:])
                chunk = chunk[:allowed]
            self._queued -= len(chunk)
            self._window -= len(chunk)
            connection._queued -= len(chunk)
            connection._window -= len(chunk)
            connection._bytes_sent += len(chunk)
            ended = self._end_queued and not self._chunks
            if ended:
                self._over()
            self._peer._receive(chunk, ended)
        if self._end_queued:
            self._over()
            self._peer._receive(b"", True)

    def _over(self) -> None:
        self._end_queued = False
        self._connection._pending.pop(self._stream_id, None)
        self._connection._send_halves.pop(self._stream_id, None)
        self._settle()


class _MemoryReceiveHalf(ReceiveHalf):
    __slots__ = ("_credited", "_peer", "_taken_over", "_twin")

    _connection: _MemoryConnection

    def __init__(self, connection: _MemoryConnection, stream_id: int) -> None:
        super().__init__(connection, stream_id)
        self._peer: _MemorySendHalf

    def _receive(self, data: bytes, ended: bool) -> None:
        self._connection._bytes_received += len(data)
        self._connection._buffered += len(data)
        self._arrived(data, ended)

    def _give_credit(self, count: int) -> None:
        connection = self._connection
        connection._buffered -= count
        self._peer._window += count
        sender = connection._other
        sender._window += count
        if sender._pending and sender.closed is None:
            sender._pump()

    def _refuse(self, code: int) -> None:
        peer = self._peer
        peer._drop_queue()
        peer._connection._send_halves.pop(self._stream_id, None)
        peer._stopped_by_peer(code)
        peer._connection._notify_writable()
        if self._closed:
            self._ended = True
            self._consumed()

    def _consumed(self) -> None:
        self._connection._receive_over(self)


class _MemoryConnection(ConnectionBase):
    """One end of a pair."""

    _other: _MemoryConnection

    def __init__(self, settings: TransportSettings, *, is_client: bool, alpn: str) -> None:
        super().__init__(settings)
        self._is_client = is_client
        self._alpn = alpn
        self._send_halves: dict[int, _MemorySendHalf] = {}
        self._receive_halves: dict[int, _MemoryReceiveHalf] = {}
        self._pending: dict[int, _MemorySendHalf] = {}
        self._pumping = False
        self._window = settings.connection_window
        self._queued = 0
        self._buffered = 0
        self._bytes_sent = 0
        self._bytes_received = 0
        self._datagrams_sent = 0
        self._datagrams_received = 0
        # Streams of each kind this side opened that still use up the peer's limit.
        self._open_streams = {True: 0, False: 0}
        self._next_stream = {True: 0, False: 0}
        self._unaccepted: set[int] = set()

    # What ConnectionBase asks for

    def _unsent(self) -> int:
        return self._queued

    def _stuck(self) -> int:
        return sum(half._queued for half in self._pending.values() if not half._window)

    def _stream_credit(self, uni: bool) -> int:
        settings = self._settings
        limit = settings.max_streams_uni if uni else settings.max_streams_bidi
        return limit - self._open_streams[uni]

    def _make_uni(self) -> SendHalf:
        stream_id = self._take_stream_id(uni=True)
        sender, receiver = self._join(self, self._other, stream_id)
        self._other._unaccepted.add(stream_id)
        self._other._incoming_uni(receiver)
        return sender

    def _make_bidi(self) -> BidiStream:
        stream_id = self._take_stream_id(uni=False)
        there, far_receiver = self._join(self, self._other, stream_id)
        far_sender, back = self._join(self._other, self, stream_id)
        self._other._unaccepted.add(stream_id)
        self._other._incoming_bidi(BidiStream(far_sender, far_receiver))
        return BidiStream(there, back)

    def _stream_accepted(self, stream: ReceiveHalf) -> None:
        self._unaccepted.discard(stream.stream_id)
        self._maybe_release(stream.stream_id)

    def _send_close(self, code: int, reason: str) -> None:
        self._other._terminate(SessionClosed(reason, code=code, remote=True))

    def _live_send_halves(self) -> Iterable[SendHalf]:
        return self._send_halves.values()

    def _live_receive_halves(self) -> Iterable[ReceiveHalf]:
        return self._receive_halves.values()

    # Streams

    def _take_stream_id(self, *, uni: bool) -> int:
        number = self._next_stream[uni]
        self._next_stream[uni] = number + 1
        self._open_streams[uni] += 1
        return number * 4 + (0 if self._is_client else 1) + (2 if uni else 0)

    @staticmethod
    def _join(
        source: _MemoryConnection, target: _MemoryConnection, stream_id: int
    ) -> tuple[_MemorySendHalf, _MemoryReceiveHalf]:
        sender = _MemorySendHalf(source, stream_id, target._settings.stream_window)
        receiver = _MemoryReceiveHalf(target, stream_id)
        sender._peer, receiver._peer = receiver, sender
        source._send_halves[stream_id] = sender
        target._receive_halves[stream_id] = receiver
        return sender, receiver

    def _receive_over(self, stream: _MemoryReceiveHalf) -> None:
        if self._receive_halves.pop(stream.stream_id, None) is not None:
            self._maybe_release(stream.stream_id)
            self._other._maybe_release(stream.stream_id)

    def _maybe_release(self, stream_id: int) -> None:
        """Let the peer open another stream for one of its own that is over."""
        opened_here = (stream_id & 1 == 0) == self._is_client
        if (
            opened_here
            or stream_id in self._unaccepted
            or stream_id in self._receive_halves
            or stream_id in self._other._receive_halves
        ):
            return
        self._other._open_streams[bool(stream_id & 2)] -= 1
        self._other._credit_grew()

    def _pump(self) -> None:
        """Move bytes, higher priorities first, among equals the stream opened first."""
        if self._pumping:
            return
        self._pumping = True
        try:
            pending = sorted(
                self._pending.values(), key=lambda stream: (-stream._priority, stream._stream_id)
            )
            for stream in pending:
                stream._deliver()
        finally:
            self._pumping = False
        self._send_buffers_shrank()

    # The public side

    @property
    def is_client(self) -> bool:
        return self._is_client

    @property
    def alpn(self) -> str:
        return self._alpn

    @property
    def remote_address(self) -> str:
        return "memory:server" if self._is_client else "memory:client"

    @property
    def peer_window(self) -> int:
        return self._other._settings.connection_window

    @property
    def max_datagram_size(self) -> int | None:
        return self._settings.max_datagram_size - _DATAGRAM_OVERHEAD

    def send_datagram_nowait(self, data: bytes) -> None:
        if self._end is not None:
            raise self._closed_error()
        limit = self._settings.max_datagram_size - _DATAGRAM_OVERHEAD
        if len(data) > limit:
            raise ValueError(f"a datagram carries at most {limit} bytes here, not {len(data)}")
        other = self._other
        if len(other._datagrams) >= self._settings.datagram_queue:
            raise trio.WouldBlock
        self._datagrams_sent += 1
        other._datagrams_received += 1
        other._incoming_datagram(bytes(data))

    def statistics(self) -> ConnectionStatistics:
        return ConnectionStatistics(
            bytes_sent=self._bytes_sent,
            bytes_received=self._bytes_received,
            datagrams_sent=self._datagrams_sent,
            datagrams_received=self._datagrams_received,
            packets_lost=0,
            smoothed_rtt=0.0,
            congestion_window=self._settings.connection_window,
            send_buffered=self._queued,
            receive_buffered=self._buffered,
            streams_open=len(self._send_halves.keys() | self._receive_halves.keys()),
        )


def memory_connection_pair(
    *, alpn: str = "moq-lite-05", settings: TransportSettings | None = None
) -> tuple[Connection, Connection]:
    """A client's and a server's connection, joined in memory.

    Windows, stream limits and watermarks are those of ``settings``, the same for both
    sides. Nothing is lost, nothing takes time, and no task is needed.
    """
    settings = TransportSettings() if settings is None else settings
    client = _MemoryConnection(settings, is_client=True, alpn=alpn)
    server = _MemoryConnection(settings, is_client=False, alpn=alpn)
    client._other, server._other = server, client
    return client, server
