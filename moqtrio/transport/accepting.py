"""What arrives on a connection of any binding, and its end."""

from __future__ import annotations

import abc
from collections import deque
from collections.abc import Callable, Iterable

import trio

from ..errors import SessionClosed
from .connection import BidiStream, Connection, ReceiveStream
from .settings import TransportSettings
from .streams import ReceiveHalf, SendHalf


class AcceptingConnection(Connection):
    """The part of a connection that does not care how streams are opened.

    A session that shares a connection with others has this much of its own.
    """

    def __init__(self, settings: TransportSettings) -> None:
        self._settings = settings
        self._end: SessionClosed | None = None
        self._ended = trio.Event()
        self._accepted_uni: deque[ReceiveHalf] = deque()
        self._accepted_bidi: deque[BidiStream] = deque()
        self._accepting_uni = trio.lowlevel.ParkingLot()
        self._accepting_bidi = trio.lowlevel.ParkingLot()
        self._datagrams: deque[bytes] = deque(maxlen=settings.datagram_queue)
        self._datagram_readers = trio.lowlevel.ParkingLot()
        self._on_writable: dict[object, Callable[[], None]] = {}
        self._stream_code: Callable[[int], int] = int
        self._session_code: Callable[[int], int] = int

    # What a binding provides

    @abc.abstractmethod
    def _stream_accepted(self, stream: ReceiveHalf) -> None:
        """The application took a stream out of the accept queue."""

    @abc.abstractmethod
    def _send_close(self, code: int, reason: str) -> None:
        """Tell the peer that the connection is over."""

    @abc.abstractmethod
    def _live_send_halves(self) -> Iterable[SendHalf]: ...

    @abc.abstractmethod
    def _live_receive_halves(self) -> Iterable[ReceiveHalf]:
        """Those that are not over on the wire, or have something left to take."""

    def _discard_arrivals(self) -> None:
        """Nobody will take what waits to be accepted."""
        self._accepted_uni.clear()
        self._accepted_bidi.clear()
        self._datagrams.clear()

    # What a binding calls

    def _incoming_uni(self, stream: ReceiveHalf) -> None:
        self._accepted_uni.append(stream)
        if self._accepting_uni:
            self._accepting_uni.unpark()

    def _incoming_bidi(self, stream: BidiStream) -> None:
        self._accepted_bidi.append(stream)
        if self._accepting_bidi:
            self._accepting_bidi.unpark()

    def _incoming_datagram(self, data: bytes) -> None:
        self._datagrams.append(data)
        if self._datagram_readers:
            self._datagram_readers.unpark()

    def _notify_writable(self) -> None:
        for callback in tuple(self._on_writable.values()):
            callback()

    def _closed_error(self) -> SessionClosed:
        """A fresh exception: raising one object in many tasks would mix their tracebacks."""
        end = self._end
        assert end is not None, "asked for the reason of an open connection's end"
        return SessionClosed(end.reason, code=end.code, remote=end.remote)

    def _terminate(self, end: SessionClosed, *, discard: bool = False) -> None:
        """Everything on this connection is over; the first call counts.

        What has arrived can still be taken, unless ``discard``.
        """
        if self._end is not None:
            return
        code = self._session_code(end.code) if end.remote else end.code
        self._end = end if code == end.code else SessionClosed(end.reason, code=code, remote=True)
        if discard:
            self._discard_arrivals()
        for sender in tuple(self._live_send_halves()):
            sender._settle()
        for receiver in tuple(self._live_receive_halves()):
            receiver._connection_over(discard)
        for lot in (self._accepting_uni, self._accepting_bidi, self._datagram_readers):
            lot.unpark_all()
        self._ended.set()
        self._notify_writable()

    # What a layer on top of the connection calls, which hands its streams on to others

    async def _wait_for_uni(self) -> None:
        """Return once a unidirectional stream can be taken."""
        while not self._accepted_uni:
            await self._park(self._accepting_uni)

    def _take_uni(self) -> deque[ReceiveHalf]:
        """The unidirectional streams that wait; :meth:`_stream_accepted` is not called."""
        taken, self._accepted_uni = self._accepted_uni, deque()
        return taken

    async def _wait_for_bidi(self) -> None:
        """Return once a bidirectional stream can be taken."""
        while not self._accepted_bidi:
            await self._park(self._accepting_bidi)

    def _take_bidi(self) -> deque[BidiStream]:
        """The bidirectional streams that wait; :meth:`_stream_accepted` is not called."""
        taken, self._accepted_bidi = self._accepted_bidi, deque()
        return taken

    # The public side

    @property
    def closed(self) -> SessionClosed | None:
        return self._end

    async def accept_uni(self) -> ReceiveStream:
        await trio.lowlevel.checkpoint()
        await self._wait_for_uni()
        return self.accept_uni_nowait()

    def accept_uni_nowait(self) -> ReceiveStream:
        if not self._accepted_uni:
            if self._end is not None:
                raise self._closed_error()
            raise trio.WouldBlock
        stream = self._accepted_uni.popleft()
        self._stream_accepted(stream)
        return stream

    async def accept_bidi(self) -> BidiStream:
        await trio.lowlevel.checkpoint()
        await self._wait_for_bidi()
        stream = self._accepted_bidi.popleft()
        assert isinstance(stream.receive, ReceiveHalf)
        self._stream_accepted(stream.receive)
        return stream

    async def receive_datagram(self) -> bytes:
        await trio.lowlevel.checkpoint()
        while not self._datagrams:
            await self._park(self._datagram_readers)
        return self._datagrams.popleft()

    def close(self, code: int = 0, reason: str = "") -> None:
        if self._end is None:
            self._send_close(code, reason)
            self._terminate(SessionClosed(reason, code=code, remote=False), discard=True)

    async def wait_closed(self) -> SessionClosed:
        await self._ended.wait()
        return self._closed_error()

    def translate_codes(self, stream: Callable[[int], int], session: Callable[[int], int]) -> None:
        self._stream_code = stream
        self._session_code = session

    def on_writable(self, callback: Callable[[], None]) -> Callable[[], None]:
        token = object()
        self._on_writable[token] = callback

        def take_back() -> None:
            self._on_writable.pop(token, None)

        return take_back

    # Inside

    async def _park(self, lot: trio.lowlevel.ParkingLot) -> None:
        if self._end is not None:
            raise self._closed_error()
        await lot.park()
