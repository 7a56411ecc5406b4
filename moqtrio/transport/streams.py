"""What the streams of every binding share: states, waiting, watermarks, errors.

A binding adds where bytes go (:meth:`SendHalf._transmit`) and where credit goes
(:meth:`ReceiveHalf._give_credit`). Streams live for one small group, and there are
thousands each second: no task, event or lock is made unless somebody really waits.
"""

from __future__ import annotations

import abc
import operator
from collections import deque
from typing import TYPE_CHECKING

import trio

from ..errors import StreamCode, StreamReset
from .chunks import cut
from .connection import URGENT, Buffer, ReceiveStream, SendStream

if TYPE_CHECKING:
    from .accepting import AcceptingConnection
    from .base import ConnectionBase

_SEND_ALL_CHUNK = 64 * 1024
_LARGEST_COPY = 4096
# Unread pieces shorter than the first are joined until they reach the second, or a peer's
# bytes would each take an object of many.
_CRUMB = 256
_LOAF = 2048


class _Sleeper:
    """At most one sleeping task, woken by synchronous code."""

    __slots__ = ("_busy", "_task")

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None
        self._busy = False

    def _claim(self, what: str) -> None:
        if self._busy:
            raise trio.BusyResourceError(f"another task is already {what}")
        self._busy = True

    async def _sleep(self) -> None:
        self._task = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def _wake(self) -> None:
        task = self._task
        if task is not None:
            self._task = None
            trio.lowlevel.reschedule(task)


class SendHalf(SendStream, _Sleeper):
    """The sending half of a stream, as every binding has it."""

    __slots__ = (
        "_accepting",
        "_begun",
        "_connection",
        "_finished",
        "_lead",
        "_parent",
        "_priority",
        "_settled",
        "_settled_lot",
        "_starved",
        "_stop_code",
        "_stream_id",
    )

    def __init__(self, connection: ConnectionBase, stream_id: int) -> None:
        self._task = None
        self._busy = False
        self._connection = connection
        # Whose end is the stream's: the connection, or a session that shares it.
        self._parent: AcceptingConnection = connection
        self._stream_id = stream_id
        self._accepting = True
        self._begun = False
        self._finished = False
        self._lead = b""  # goes before the first byte, and with it
        self._settled = False
        self._starved = False
        self._stop_code: int | None = None
        self._settled_lot: trio.lowlevel.ParkingLot | None = None
        self._priority = 0

    # What a binding provides

    @abc.abstractmethod
    def _unsent(self) -> int:
        """Bytes taken and not yet sent for the first time."""

    @abc.abstractmethod
    def _transmit(self, data: bytes, finish: bool) -> None:
        """Take ``data``, and the end of the stream if ``finish``."""

    @abc.abstractmethod
    def _abandon(self, code: int) -> None:
        """Send RESET_STREAM and drop what is unsent."""

    @abc.abstractmethod
    def _reprioritise(self) -> None:
        """Heed a changed ``_priority``."""

    # What a binding calls

    def _stopped_by_peer(self, code: int) -> None:
        if self._stop_code is None and not self._settled:
            if self._accepting:
                self._stop_code = code
            self._settle()

    def _settle(self) -> None:
        """Nobody will read more: wake whoever waits for that, or to write."""
        if self._settled:
            return
        self._settled = True
        self._accepting = False
        self._leave_starved()
        self._wake()
        if self._settled_lot is not None:
            self._settled_lot.unpark_all()

    def _drained(self) -> None:
        """The unsent bytes of this stream fell to the low-water mark."""
        self._leave_starved()
        self._wake()

    # The public side

    @property
    def stream_id(self) -> int:
        return self._stream_id

    def send_nowait(self, data: Buffer, *, finish: bool = False) -> None:
        if not self._accepting:
            raise self._refusal()
        if self._is_full():
            raise trio.WouldBlock
        if finish:
            self._accepting = False
            self._finished = True
        self._begun = True
        data = data if type(data) is bytes else bytes(data)
        if self._lead:
            data = self._take_lead(data)
        self._transmit(data, finish)

    async def send_all(self, data: Buffer) -> None:
        self._claim("sending on this stream")
        try:
            await trio.lowlevel.checkpoint()
            if not self._accepting:
                raise self._refusal()
            with memoryview(data) as view, view.cast("B") as octets:
                for start in range(0, len(octets), _SEND_ALL_CHUNK):
                    await self._wait_writable()
                    self._begun = True
                    piece = bytes(octets[start : start + _SEND_ALL_CHUNK])
                    self._transmit(self._take_lead(piece), False)
        finally:
            self._busy = False

    def _take_lead(self, data: bytes) -> bytes:
        """``data`` after what goes before it; where that would be a large copy, by itself."""
        lead, self._lead = self._lead, b""
        if not lead or len(data) <= _LARGEST_COPY:
            return lead + data
        self._transmit(lead, False)
        return data

    async def wait_send_all_might_not_block(self) -> None:
        self._claim("sending on this stream")
        try:
            await trio.lowlevel.checkpoint()
            await self._wait_writable()
        finally:
            self._busy = False

    def finish(self) -> None:
        self._finished = True
        if self._accepting:
            self._accepting = False
            self._transmit(self._take_lead(b""), True)
            self._leave_starved()
            self._wake()

    def reset(self, code: int) -> None:
        self._finished = True
        if not self._settled:
            self._abandon(code)
            self._settle()

    async def aclose(self) -> None:
        """Finish the stream, or reset it if cancelled: then it may lack its end."""
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled:
            if self._accepting:
                self.reset(StreamCode.CANCEL)
            self._finished = True
            raise
        self.finish()

    def set_priority(self, priority: int) -> None:
        if priority != self._priority:
            self._priority = priority
            if not self._settled:
                self._reprioritise()

    @property
    def unsent(self) -> int:
        return 0 if self._settled else self._unsent()

    async def wait_stopped(self) -> None:
        await trio.lowlevel.checkpoint()
        while not self._settled:
            if self._settled_lot is None:
                self._settled_lot = trio.lowlevel.ParkingLot()
            await self._settled_lot.park()

    # Inside

    def _refusal(self) -> Exception:
        if self._finished:
            return trio.ClosedResourceError("this side finished, reset or closed the stream")
        if self._stop_code is not None:
            return StreamReset(self._parent._stream_code(self._stop_code))
        return self._parent._closed_error()

    def _is_full(self) -> bool:
        """Whether a write must wait; if so, this stream is told when it need not."""
        connection = self._connection
        unsent = self._unsent()
        if unsent < connection._settings.stream_send_high and (
            not connection._is_congested(self._priority) or self._goes_first(unsent)
        ):
            return False
        if not self._starved:
            self._starved = True
            connection._starved_streams[self] = None
        return True

    def _goes_first(self, unsent: int) -> bool:
        """Whether what other streams have unsent holds this one back no more.

        One that has begun, and has nothing left to send, may be what the peer's reader
        waits for before it gives the others credit.
        """
        return self._priority >= URGENT or (self._begun and not unsent)

    def _leave_starved(self) -> None:
        if self._starved:
            self._starved = False
            del self._connection._starved_streams[self]

    async def _wait_writable(self) -> None:
        while True:
            if not self._accepting:
                raise self._refusal()
            if not self._is_full():
                return
            await self._sleep()


class ReceiveHalf(ReceiveStream, _Sleeper):
    """The receiving half of a stream, as every binding has it."""

    __slots__ = (
        "_buffered",
        "_chunks",
        "_closed",
        "_connection",
        "_ended",
        "_head",
        "_parent",
        "_reset_code",
        "_stream_id",
    )

    def __init__(self, connection: ConnectionBase, stream_id: int) -> None:
        self._task = None
        self._busy = False
        self._connection = connection
        self._parent: AcceptingConnection = connection
        self._stream_id = stream_id
        self._chunks: deque[bytes] = deque()
        self._head = 0  # bytes of the first chunk that were taken
        self._buffered = 0
        self._ended = False
        self._closed = False
        self._reset_code: int | None = None

    # What a binding provides

    @abc.abstractmethod
    def _give_credit(self, count: int) -> None:
        """The application took, or will never take, ``count`` bytes."""

    @abc.abstractmethod
    def _refuse(self, code: int) -> None:
        """Send STOP_SENDING; the stream has not ended."""

    @abc.abstractmethod
    def _consumed(self) -> None:
        """Nothing of this stream is left to take: the stream's own credit may go back.
        May be called more than once."""

    # What a binding calls

    def _arrived(self, data: bytes, ended: bool) -> None:
        """``data`` came in order; ``ended`` if the stream ends after it."""
        if self._closed:
            if data:
                self._give_credit(len(data))
            if ended:
                self._ended = True
                self._consumed()
            return
        if data:
            chunks = self._chunks
            if len(data) < _CRUMB and chunks and len(chunks[-1]) < _LOAF:
                chunks[-1] += data
            else:
                chunks.append(data)
            self._buffered += len(data)
        if ended:
            self._ended = True
            if not self._chunks:
                self._consumed()
        if self._task is not None:
            self._wake()

    def _reset_by_peer(self, code: int) -> None:
        if self._ended or self._reset_code is not None:
            return
        if self._parent.closed is not None and not self._closed:
            return  # reset because the session ended: what came before can still be read
        self._reset_code = code
        self._discard()
        self._consumed()
        self._wake()

    def _connection_over(self, discard: bool) -> None:
        """What arrived before the end can still be read; after our own close nobody
        wants it."""
        if discard:
            self._discard()
            self._ended = False
        self._wake()

    # The public side

    @property
    def stream_id(self) -> int:
        return self._stream_id

    def receive_nowait(self, max_bytes: int | None = None) -> bytes:
        if self._busy:
            raise trio.BusyResourceError("another task is already receiving on this stream")
        chunks = self._chunks
        if max_bytes is not None and max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, not {max_bytes}")
        if not chunks:
            return self._receive_nothing()
        if max_bytes is not None and max_bytes < self._buffered:
            data, self._head = cut(self._chunks, self._head, max_bytes)
        else:
            if self._head:
                chunks[0] = chunks[0][self._head :]
                self._head = 0
            if len(chunks) == 1:
                data = chunks.popleft()
            else:
                data = b"".join(chunks)
                chunks.clear()
        self._buffered -= len(data)
        self._give_credit(len(data))
        if self._ended and not chunks:
            self._consumed()
        return data

    def peek_nowait(self) -> bytes:
        chunks = self._chunks
        if len(chunks) > 1 or self._head:
            data = b"".join(chunks)[self._head :]
            chunks.clear()
            chunks.append(data)
            self._head = 0
        return chunks[0] if chunks else self._receive_nothing()

    def _skip(self, count: int) -> None:
        """Take ``count`` bytes that :meth:`peek_nowait` has just shown."""
        chunks = self._chunks
        shown = chunks[0]
        if count < len(shown):
            chunks[0] = shown[count:]
        else:
            chunks.popleft()
        self._buffered -= count
        self._give_credit(count)
        if self._ended and not chunks:
            self._consumed()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if max_bytes is not None and operator.index(max_bytes) < 1:
            raise ValueError(f"max_bytes must be at least 1, not {max_bytes}")
        self._claim("receiving on this stream")
        try:
            await trio.lowlevel.checkpoint()
            while not self._has_news():
                await self._wait_for_news()
        finally:
            self._busy = False
        return self.receive_nowait(max_bytes)

    async def _receive_idly(self, max_bytes: int | None = None) -> bytes:
        """Like ``receive_some``, for a reader that always waits: that says nothing about
        what the peer should be given credit for."""
        self._claim("receiving on this stream")
        try:
            await trio.lowlevel.checkpoint()
            while not self._has_news():
                await self._sleep()
        finally:
            self._busy = False
        return self.receive_nowait(max_bytes)

    def stop(self, code: int) -> None:
        if self._closed:
            return
        self._closed = True
        over = self._ended or self._reset_code is not None
        self._discard()
        if over:
            self._consumed()
        elif self._connection.closed is None:
            self._refuse(code)
        self._wake()

    async def aclose(self) -> None:
        """Stop the stream: what is unread is discarded. Cancelling changes nothing."""
        self.stop(StreamCode.CANCEL)
        await trio.lowlevel.checkpoint()

    # Inside

    async def _wait_for_news(self) -> None:
        connection = self._connection
        uni = bool(self._stream_id & 2)  # RFC 9000 section 2.1
        connection._readers_waiting[uni] += 1
        connection._lend_credit()
        try:
            await self._sleep()
        finally:
            connection._readers_waiting[uni] -= 1

    def _has_news(self) -> bool:
        return bool(
            self._chunks
            or self._ended
            or self._closed
            or self._reset_code is not None
            or self._parent.closed is not None
        )

    def _receive_nothing(self) -> bytes:
        if self._closed:
            raise trio.ClosedResourceError("this side stopped or closed the stream")
        if self._reset_code is not None:
            raise StreamReset(self._parent._stream_code(self._reset_code))
        if self._ended:
            return b""
        if self._parent.closed is not None:
            raise self._parent._closed_error()
        raise trio.WouldBlock

    def _discard(self) -> None:
        count = self._buffered
        self._chunks.clear()
        self._head = 0
        self._buffered = 0
        if count:
            self._give_credit(count)
