"""The two halves of a stream, and how many streams the peer may open."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from ..chunks import cut
from ..newest_first import NewestFirst
from ..settling import CONSUMED
from ..streams import ReceiveHalf, SendHalf
from .errors import QmuxCode, QmuxError

if TYPE_CHECKING:
    from .core import QmuxStreams


class QmuxSendHalf(SendHalf):
    """Holds what was not sent yet: the outbox takes it from here, in order."""

    __slots__ = (
        "_chunks",
        "_head",
        "counted_at",
        "end_queued",
        "end_sent",
        "entry",
        "is_over",
        "limit",
        "offset",
        "order",
        "queued",
        "rank",
        "rivals",
        "stuck",
    )

    _connection: QmuxStreams

    def __init__(self, connection: QmuxStreams, stream_id: int, order: int, limit: int) -> None:
        super().__init__(connection, stream_id)
        self._chunks: deque[bytes] = deque()
        self._head = 0  # bytes of the first chunk that were taken
        self.queued: int = 0
        self.counted_at: int = 0  # the priority as the outbox knows it
        self.end_queued: bool = False
        self.end_sent: bool = False
        self.is_over: bool = False  # everything was sent, or the stream was abandoned
        self.offset: int = 0  # bytes sent
        self.limit: int = limit  # bytes the peer admits
        self.order: int = order
        self.stuck: int = 0  # unsent bytes, found to wait for the limit to grow
        self.entry: tuple[int, int, QmuxSendHalf] | None = None  # its place in the outbox
        self.rivals: NewestFirst[QmuxSendHalf] | None = None  # with whom it shares places
        self.rank: int = 0  # among them

    def __lt__(self, other: QmuxSendHalf) -> bool:
        # Who took over a place meets, in the outbox's heap, what its owner left there.
        return self._stream_id < other._stream_id

    @property
    def priority(self) -> int:
        """Higher goes first."""
        return self._priority

    def take(self, size: int) -> bytes:
        """The next ``size`` bytes; there are that many."""
        self.queued -= size
        self.offset += size
        data, self._head = cut(self._chunks, self._head, size)
        return data

    def drop(self) -> None:
        """Forget what was not sent."""
        self._chunks.clear()
        self._head = 0
        self.queued = 0
        self.end_queued = False

    def _unsent(self) -> int:
        return self.queued

    def _transmit(self, data: bytes, finish: bool) -> None:
        if data:
            self._chunks.append(data)
            self.queued += len(data)
        if finish:
            self.end_queued = True
        self._connection._outbox.written(self, len(data))
        self._connection._mark_dirty()

    def _abandon(self, code: int) -> None:
        self._connection._abandon(self, code)

    def _reprioritise(self) -> None:
        self._connection._outbox.reprioritised(self)

    def share_places(self, rivals: NewestFirst[Any] | None, rank: int) -> None:
        if not self._settled:
            self._connection._outbox.share_places(self, rivals, rank)


class QmuxReceiveHalf(ReceiveHalf):
    """Reads give credit back to the peer."""

    __slots__ = ("consumed", "limit", "received", "settled")

    _connection: QmuxStreams

    def __init__(self, connection: QmuxStreams, stream_id: int, window: int) -> None:
        super().__init__(connection, stream_id)
        self.received: int = 0
        self.consumed: int = 0  # bytes the application took
        self.limit: int = window  # bytes the peer may send
        self.settled: int = 0  # of the peer's stream: what is over

    @property
    def is_over(self) -> bool:
        """Whether the peer ended or abandoned it."""
        return self._ended or self._reset_code is not None

    def _give_credit(self, count: int) -> None:
        self._connection._consume(self, count)

    def _refuse(self, code: int) -> None:
        self._connection._refuse(self, code)

    def _consumed(self) -> None:
        self._connection._settle_peer_stream(self, CONSUMED)


class Stream:
    """Both halves, until both are over on the wire."""

    __slots__ = ("receive", "send")

    def __init__(self, send: QmuxSendHalf | None, receive: QmuxReceiveHalf | None) -> None:
        self.send: QmuxSendHalf | None = send
        self.receive: QmuxReceiveHalf | None = receive


class PeerStreams:
    """The streams of one kind the peer opens: which it did, and how many it may.

    A stream may come before one of a lower number: its sender thought it more urgent.
    """

    def __init__(self, limit: int) -> None:
        self.limit: int = limit  # granted
        self.announced: int = limit  # granted, and told
        self._next = 0
        self._skipped: set[int] = set()  # lower numbers that did not come yet

    def open(self, number: int) -> bool:
        """Take note of a frame of the stream; whether it is its first.

        Raises QmuxError where the peer was not allowed as many.
        """
        if number >= self._next:
            if number >= self.announced:
                raise QmuxError(
                    QmuxCode.STREAM_LIMIT_ERROR,
                    f"stream number {number} was opened, but only {self.announced} may be",
                )
            self._skipped.update(range(self._next, number))
            self._next = number + 1
            return True
        if number in self._skipped:
            self._skipped.remove(number)
            return True
        return False

    def grant(self) -> bool:
        """Let the peer open one more; whether that is worth announcing now."""
        self.limit += 1
        return self.announced - self._next < self.limit - self.announced
