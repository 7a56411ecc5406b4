"""What the connections of every binding share: queues, waiting for credit, the end."""

from __future__ import annotations

import abc
from collections import deque
from collections.abc import Callable, Iterable

import trio

from ..errors import SessionClosed
from .connection import BidiStream, Connection, ReceiveStream, SendStream
from .settings import TransportSettings
from .streams import ReceiveHalf, SendHalf

# What waits for credit of its own stream may come to this many times the high-water mark.
_MOST_STUCK = 4


class _Opening:
    """Tasks waiting to open streams of one kind, first come, first served.

    Credit promised to a woken task stays its own until it runs.
    """

    def __init__(self) -> None:
        self.lot = trio.lowlevel.ParkingLot()
        self.promised = 0
        self.refused = False

    def hand_out(self, credit: int) -> None:
        self.promised += len(self.lot.unpark(count=max(0, credit - self.promised)))


class ConnectionBase(Connection):
    """The part of a connection that is the same whatever carries it."""

    def __init__(self, settings: TransportSettings) -> None:
        self._settings = settings
        self._end: SessionClosed | None = None
        self._ended = trio.Event()
        self._opening_uni = _Opening()
        self._opening_bidi = _Opening()
        self._accepted_uni: deque[ReceiveHalf] = deque()
        self._accepted_bidi: deque[BidiStream] = deque()
        self._accepting_uni = trio.lowlevel.ParkingLot()
        self._accepting_bidi = trio.lowlevel.ParkingLot()
        self._datagrams: deque[bytes] = deque(maxlen=settings.datagram_queue)
        self._datagram_readers = trio.lowlevel.ParkingLot()
        # How many wait for bytes, of a bidirectional and of a unidirectional stream.
        self._readers_waiting = [0, 0]
        # Streams on which a write was refused, in the order of the refusals.
        self._starved_streams: dict[SendHalf, None] = {}
        self._on_writable: dict[object, Callable[[], None]] = {}

    # What a binding provides

    @abc.abstractmethod
    def _unsent(self) -> int:
        """Bytes taken on all streams and not yet sent for the first time."""

    @abc.abstractmethod
    def _stuck(self) -> int:
        """Those of them that wait for credit of their own stream."""

    @abc.abstractmethod
    def _stream_credit(self, uni: bool) -> int:
        """How many streams can be opened now."""

    @abc.abstractmethod
    def _make_uni(self) -> SendHalf:
        """Open a stream; credit was checked."""

    @abc.abstractmethod
    def _make_bidi(self) -> BidiStream:
        """Open a stream; credit was checked."""

    @abc.abstractmethod
    def _stream_accepted(self, stream: ReceiveHalf) -> None:
        """The application took a stream out of the accept queue."""

    def _lend_credit(self) -> None:
        """A reader waits for a stream. Where what is unread on others fills the connection's
        window, and could for ever, a binding over which streams may overtake one another
        gives the peer more."""

    @abc.abstractmethod
    def _send_close(self, code: int, reason: str) -> None:
        """Tell the peer that the connection is over."""

    @abc.abstractmethod
    def _live_send_halves(self) -> Iterable[SendHalf]: ...

    @abc.abstractmethod
    def _live_receive_halves(self) -> Iterable[ReceiveHalf]: ...

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

    def _credit_grew(self) -> None:
        """The peer allows more streams."""
        refused = False
        for opening, uni in ((self._opening_uni, True), (self._opening_bidi, False)):
            credit = self._stream_credit(uni)
            opening.hand_out(credit)
            if opening.refused and credit > opening.promised:
                opening.refused = False
                refused = True
        if refused:
            self._notify_writable()

    def _send_buffers_shrank(self) -> None:
        """Unsent bytes left: wake the writers that may go on."""
        if not self._starved_streams:
            return
        low = self._settings.stream_send_low
        unsent = self._unsent()
        all_low = (
            unsent - self._stuck() <= self._settings.connection_send_low
            and not self._is_congested(unsent)
        )
        drained = [
            stream
            for stream in self._starved_streams
            if (own := stream._unsent()) <= low and (all_low or stream._goes_first(own))
        ]
        for stream in drained:
            stream._drained()
        if drained:
            self._notify_writable()

    def _is_congested(self, unsent: int) -> bool:
        """Whether a write must wait because of what other streams have unsent.

        What waits for its reader does not count, within reason: the reader may well be
        waiting for another stream first.
        """
        high = self._settings.connection_send_high
        return unsent >= high and (unsent - self._stuck() >= high or unsent >= _MOST_STUCK * high)

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
        self._end = end
        if discard:
            self._accepted_uni.clear()
            self._accepted_bidi.clear()
            self._datagrams.clear()
        for sender in tuple(self._live_send_halves()):
            sender._settle()
        for receiver in tuple(self._live_receive_halves()):
            receiver._connection_over(discard)
        for lot in (
            self._opening_uni.lot,
            self._opening_bidi.lot,
            self._accepting_uni,
            self._accepting_bidi,
            self._datagram_readers,
        ):
            lot.unpark_all()
        self._ended.set()
        self._notify_writable()

    # The public side

    @property
    def closed(self) -> SessionClosed | None:
        return self._end

    async def open_uni(self) -> SendStream:
        await self._take_credit(self._opening_uni, True)
        return self._make_uni()

    def open_uni_nowait(self) -> SendStream:
        if self._end is not None:
            raise self._closed_error()
        opening = self._opening_uni
        if opening.lot or self._stream_credit(True) <= opening.promised:
            opening.refused = True
            raise trio.WouldBlock
        return self._make_uni()

    async def open_bidi(self) -> BidiStream:
        await self._take_credit(self._opening_bidi, False)
        return self._make_bidi()

    async def accept_uni(self) -> ReceiveStream:
        await trio.lowlevel.checkpoint()
        while not self._accepted_uni:
            await self._park(self._accepting_uni)
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
        while not self._accepted_bidi:
            await self._park(self._accepting_bidi)
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

    async def _take_credit(self, opening: _Opening, uni: bool) -> None:
        await trio.lowlevel.checkpoint()
        if self._end is None and (opening.lot or self._stream_credit(uni) <= opening.promised):
            await opening.lot.park()
            opening.promised = max(0, opening.promised - 1)
        if self._end is not None:
            raise self._closed_error()
