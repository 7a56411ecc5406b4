"""Sends one group on one stream, as far as it can go without waiting."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto

import trio

from ..model import Frame
from ..replay import End, Parked, Pending, Ready
from ..replay.resolver import Reader
from ..transport.connection import Connection, SendStream
from ..wire.lite import encode_frames, encode_group_header

PIECE_BYTES = 64 * 1024
_PIECES_PER_TURN = 4


class Progress(Enum):
    """Where :meth:`GroupSender.advance` got to."""

    MORE = auto()
    """It sent its share and could go on."""
    BLOCKED = auto()
    """The peer's flow control or stream limit, or our send buffer, admits nothing now."""
    PARKED = auto()
    """Everything there is was sent; the log will change when there is more."""
    PENDING = auto()
    """The store is still reading; see :meth:`GroupSender.wait_for_store`."""
    OVER = auto()
    """All of it, and its FIN, has been taken by the transport."""


class GroupSender:
    """One group on its way to one subscriber.

    Holds at most one encoded piece and one batch of frames, whatever the group's size.

    Attributes:
        is_over: whether all of it was sent, or it was given up.
        is_parked: whether all there is of it was sent, when it was last advanced.
        sent: the bytes the transport has taken.
    """

    __slots__ = (
        "_answer",
        "_connection",
        "_finish",
        "_pending",
        "_piece",
        "_prefix",
        "_reader",
        "_ticks",
        "_timescale",
        "is_over",
        "is_parked",
        "priority",
        "sent",
        "stream",
    )

    def __init__(
        self,
        connection: Connection,
        reader: Reader,
        *,
        subscribe_id: int,
        timescale: int,
        priority: int,
    ) -> None:
        self._connection = connection
        self._reader = reader
        self._timescale = timescale
        self._ticks = 0
        self._prefix = encode_group_header(subscribe_id, reader.sequence)
        self._answer: Ready[Sequence[Frame]] | Pending | Parked | End | None = None
        self._piece = b""
        self._finish = False
        self.priority: int = priority
        self._pending: Pending | None = None
        self.stream: SendStream | None = None
        self.is_over: bool = False
        self.is_parked: bool = False
        self.sent: int = 0

    @property
    def sequence(self) -> int:
        """The group."""
        return self._reader.sequence

    @property
    def is_waiting(self) -> bool:
        """Whether the store is still reading: then there is no use in advancing."""
        return self._pending is not None

    async def wait_for_store(self) -> None:
        """Wait as :attr:`Progress.PENDING` asks for."""
        if self._pending is not None:
            await self._pending.wait()

    def store_ready(self) -> None:
        """The wait is over: it is worth advancing again."""
        self._pending = None

    def advance(self) -> Progress:
        """Send what can be sent now.

        Raises ReplayError where the group cannot be completed, StreamReset where the peer
        does not want it, SessionClosed where the connection is over.
        """
        self.is_parked = False
        for _ in range(_PIECES_PER_TURN):
            if not self._piece and not self._finish:
                waiting = self._encode()
                if waiting is not None:
                    self.is_parked = waiting is Progress.PARKED
                    return waiting
            try:
                stream = self.stream
                if stream is None:
                    stream = self._open()
                stream.send_nowait(self._piece, finish=self._finish)
            except trio.WouldBlock:
                return Progress.BLOCKED
            self.sent += len(self._piece)
            self._piece = b""
            if self._finish:
                self.is_over = True
                self._reader.close()
                return Progress.OVER
        return Progress.MORE

    def _open(self) -> SendStream:
        stream = self.stream = self._connection.open_uni_nowait()
        stream.set_priority(self.priority)
        return stream

    def _encode(self) -> Progress | None:
        """Make the next piece; or say what there is to wait for."""
        answer = self._reader.poll_frames(PIECE_BYTES) if self._answer is None else self._answer
        self._answer = None
        if isinstance(answer, Ready):
            self._piece, self._ticks = encode_frames(
                answer.value, self._ticks, self._timescale, prefix=self._prefix
            )
            self._prefix = b""
            # The end often follows at once; then it goes out with the last frame.
            answer = self._answer = self._reader.poll_frames(PIECE_BYTES)
            self._finish = isinstance(answer, End)
            if not isinstance(answer, Ready):
                self._answer = None
            return None
        if isinstance(answer, End):
            self._piece, self._prefix = self._prefix, b""
            self._finish = True
            return None
        if self._prefix and isinstance(answer, Parked):
            # A live group without a frame yet: the subscriber learns that it exists.
            self._piece, self._prefix = self._prefix, b""
            return None
        if isinstance(answer, Pending):
            self._pending = answer
            return Progress.PENDING
        return Progress.PARKED

    def reset(self, code: int) -> None:
        """Give the group up. Never blocks, never raises."""
        self.is_over = True
        self._reader.close()
        if self.stream is not None:
            self.stream.reset(code)
