"""Sends one group on one stream, as far as it can go without waiting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum, auto

import trio

from ..errors import ReplayError, StreamCode
from ..model import Frame
from ..replay import End, Expiry, LiveReader, Parked, Pending, Ready
from ..replay.resolver import Reader
from ..transport.connection import SendStream
from ..wire.lite import encode_frames
from .frame_slice import FrameSlice

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

    Args:
        reader: the group; this closes it.
        expiry: when it is too old.
        open_stream: opens the stream it goes on, given its sequence; may raise trio.WouldBlock.
        header: what goes before the first frame.
        timescale: timestamp units per second on the wire; None leaves the timestamps out.
        frames: which of its frames; None for all.

    Attributes:
        blocked_since: Trio time since when the subscriber has taken nothing; None if it does.
        first_us: the first timestamp, once it is known.
        is_live: whether the group is read from memory.
        is_over: whether all of it was sent, or it was given up.
        is_parked: whether all there is of it was sent, when it was last advanced.
        sequence: the group.
        sent: the bytes the transport has taken.
        taken: the frame that is to be read next: those before it were encoded, or skipped.
    """

    __slots__ = (
        "_answer",
        "_expiry",
        "_finish",
        "_frames",
        "_open_stream",
        "_pending",
        "_piece",
        "_prefix",
        "_reader",
        "_ticks",
        "_timescale",
        "blocked_since",
        "first_us",
        "is_live",
        "is_over",
        "is_parked",
        "sent",
        "sequence",
        "stream",
        "taken",
    )

    def __init__(
        self,
        reader: Reader,
        expiry: Expiry,
        open_stream: Callable[[int], SendStream],
        *,
        header: bytes,
        timescale: int | None,
        frames: FrameSlice | None = None,
    ) -> None:
        self._reader = reader
        self._expiry = expiry
        self._open_stream = open_stream
        self._timescale = timescale
        self._frames = frames
        self._ticks = 0
        self._prefix = header
        self._answer: Ready[Sequence[Frame]] | Pending | Parked | End | None = None
        self._piece = b""
        self._finish = False
        self._pending: Pending | None = None
        self.stream: SendStream | None = None
        self.blocked_since: float | None = None
        self.first_us: int | None = None
        self.sequence: int = reader.sequence
        self.taken: int = 0
        self.is_live: bool = isinstance(reader, LiveReader)
        self.is_over: bool = False
        self.is_parked: bool = False
        self.sent: int = 0

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

        Raises ReplayError where the group cannot be completed or has expired, StreamReset
        where the peer does not want it, SessionClosed where the connection is over.
        """
        self.is_parked = False
        if self._expiry.is_limited:
            self._check_expiry()
        for _ in range(_PIECES_PER_TURN):
            if not self._piece and not self._finish:
                waiting = self._encode()
                if waiting is not None:
                    self.is_parked = waiting is Progress.PARKED
                    return waiting
            try:
                stream = self.stream
                if stream is None:
                    stream = self.stream = self._open_stream(self.sequence)
                stream.send_nowait(self._piece, finish=self._finish)
            except trio.WouldBlock:
                self._note_blocked()
                return Progress.BLOCKED
            self.blocked_since = None
            self.sent += len(self._piece)
            self._piece = b""
            if self._finish:
                self.close()
                return Progress.OVER
        return Progress.MORE

    def hold_back(self) -> Progress:
        """Send nothing now. Raises ReplayError where the group has expired."""
        if self._expiry.is_limited:
            self._check_expiry()
        self._note_blocked()
        return Progress.BLOCKED

    def go_on_with(self, reader: Reader) -> None:
        """Read the rest of the group from somewhere else."""
        self._reader.close()
        self._reader = reader
        self._answer = None  # it was not taken
        if self._frames is not None:
            self._frames.seek(self.taken)
        self.is_live = isinstance(reader, LiveReader)

    def close(self) -> None:
        """Let go of the group; what was sent of it stays as it is. Idempotent."""
        self.is_over = True
        self._reader.close()

    def _encode(self) -> Progress | None:
        """Make the next piece; or say what there is to wait for."""
        poll = self._reader.poll_frames if self._frames is None else self._poll_slice
        answer = self._answer
        if answer is None:
            answer = poll(PIECE_BYTES)
        self._answer = None
        if isinstance(answer, Ready):
            if self.first_us is None:
                self.first_us = answer.value[0].timestamp_us
                if self._expiry.is_limited:
                    self._check_expiry()  # only now its timestamp is known
            self._piece, self._ticks = encode_frames(
                answer.value, self._ticks, self._timescale, prefix=self._prefix
            )
            if self._frames is not None and not self.taken:
                self.taken = self._frames.start
            self.taken += len(answer.value)
            self._prefix = b""
            # The end often follows at once; then it goes out with the last frame.
            answer = self._answer = poll(PIECE_BYTES)
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

    def _poll_slice(self, max_bytes: int) -> Ready[Sequence[Frame]] | Pending | Parked | End:
        assert self._frames is not None
        return self._frames.poll(self._reader, max_bytes)

    def _note_blocked(self) -> None:
        if self.blocked_since is None:
            self.blocked_since = trio.current_time()

    def _check_expiry(self) -> None:
        if self._expiry.is_expired(self.sequence, self.first_us):
            raise ReplayError(
                f"group {self.sequence} lags behind the latest by more than "
                f"{self._expiry.max_latency} s",
                code=StreamCode.OLD,
                retryable=False,
            )

    def reset(self, code: int) -> None:
        """Give the group up. Never blocks, never raises."""
        self.close()
        if self.stream is not None:
            self.stream.reset(code)
