"""A group that is finished over another connection where its own is lost."""

from __future__ import annotations

from collections import deque
from typing import Protocol

import trio

from ..errors import DecodeError, EpochChanged, SessionClosed, StreamCode, StreamReset
from ..model import Frame, GroupConsumer
from ..wire import lite
from .group_stream import StreamGroupConsumer
from .reconnect_links import ENDING, Link
from .session import Session


class Reopener(Protocol):
    """Where a group comes from."""

    async def reopen(self, group: ResumingGroup) -> StreamGroupConsumer:
        """The group from its first frame, over the connection that is up.

        Sets the group's ``link``. Raises StreamReset where it cannot be had, EpochChanged
        and SessionClosed.
        """
        ...

    def group_began(self, group: ResumingGroup) -> None:
        """Its first frame is known."""
        ...

    def group_over(self, group: ResumingGroup) -> None:
        """It needs its link no more."""
        ...


def as_sent(frame: Frame, session: Session) -> Frame:
    """A frame without what its publisher has not sent: before draft 05, a timestamp."""
    return frame if lite.has_timestamps(session._version) else Frame(frame.payload, 0)


def is_same_frame(one: Frame, other: Frame) -> bool:
    """Whether two frames can be one, as they were sent."""
    if one.payload != other.payload:
        return False
    return not (one.timestamp_us and other.timestamp_us) or one.timestamp_us == other.timestamp_us


class ResumingGroup(GroupConsumer):
    """One group, each frame once, however many connections it takes.

    Args:
        source: gets it again.
        inner: the group as it arrives on its first connection.
        link: that connection.
        sequence: its number.

    Attributes:
        link: the connection it arrives on.
        first: its first frame, once it has been read.
        over: whether it was read to its end, failed, or was closed.
    """

    __slots__ = (
        "_count",
        "_failure",
        "_inner",
        "_sequence",
        "_skip",
        "_source",
        "_waiting",
        "first",
        "link",
        "over",
    )

    def __init__(self, source: Reopener, inner: StreamGroupConsumer, link: Link) -> None:
        self._source = source
        self._inner = inner
        self._sequence = inner.sequence
        self._count = 0
        self._skip = 0
        self._waiting: deque[Frame] = deque()
        self._failure: Exception | None = None
        self.link: Link = link
        self.first: Frame | None = None
        self.over: bool = False

    @property
    def sequence(self) -> int:
        """The group's number on its track."""
        return self._sequence

    async def receive(self) -> Frame:
        """The next frame. See :class:`~moqtrio.GroupConsumer`.

        Raises EpochChanged where the connection was lost and the track is another now.
        """
        while not self._waiting:
            batch = await self.receive_batch()
            if not batch:
                raise trio.EndOfChannel
            self._waiting.extend(batch)
        return self._waiting.popleft()

    def receive_nowait(self) -> Frame:
        """The next frame if it is there, else trio.WouldBlock. See ``receive``."""
        if not self._waiting:
            if self._failure is not None:
                raise self._failure
            try:
                frames = self._new_of([self._inner.receive_nowait()])
            except (SessionClosed, StreamReset):
                raise trio.WouldBlock from None  # what comes of it takes waiting
            except trio.EndOfChannel:
                self._ended()
                raise
            if not frames:
                raise trio.WouldBlock
            self._waiting.extend(frames)
        return self._waiting.popleft()

    async def receive_batch(self) -> list[Frame]:
        """All frames that are there, waiting for the first; ``[]`` at the end."""
        if self._waiting:
            frames = list(self._waiting)
            self._waiting.clear()
            return frames
        while True:
            if self._failure is not None:
                raise self._failure
            try:
                batch = await self._inner.receive_batch()
            except (SessionClosed, StreamReset) as error:
                await self._resume(error)
                continue
            except DecodeError as error:
                self._fail(error)
                raise
            if not batch:
                self._ended()
                return []
            frames = self._new_of(batch)
            if frames:
                return frames

    async def aclose(self) -> None:
        """Stop reading: tells the publisher not to send the rest. Cancelling it is fine."""
        self.stop(StreamCode.CANCEL)
        await trio.lowlevel.checkpoint()

    def stop(self, code: int) -> None:
        """Give the group up at once; a no-op where it has ended."""
        if not self.over:
            self._failure = trio.ClosedResourceError("this side has stopped reading the group")
            self._inner.stop(code)
            self._over()
        self._waiting.clear()

    def _new_of(self, batch: list[Frame]) -> list[Frame]:
        """Those frames that were not delivered already, over a connection that was lost."""
        if not self._skip:
            if not self._count:
                self.first = as_sent(batch[0], self.link.session)
                self._source.group_began(self)
            self._count += len(batch)
            return batch
        if self._skip == self._count:
            assert self.first is not None
            if not is_same_frame(self.first, as_sent(batch[0], self.link.session)):
                raise self._fail(EpochChanged(f"group {self._sequence} begins otherwise now"))
        known, new = batch[: self._skip], batch[self._skip :]
        self._skip -= len(known)
        self._count += len(new)
        return new

    async def _resume(self, error: SessionClosed | StreamReset) -> None:
        if isinstance(error, StreamReset) and error.code not in ENDING:
            raise self._fail(error)
        try:
            inner = await self._source.reopen(self)
        except (SessionClosed, StreamReset, EpochChanged) as failure:
            raise self._fail(failure) from None
        if self.over:  # closed meanwhile
            inner.stop(StreamCode.CANCEL)
            return
        self._inner = inner
        self._skip = self._count

    def _ended(self) -> None:
        if self._skip:
            raise self._fail(EpochChanged(f"group {self._sequence} has fewer frames now"))
        self._over()

    def _fail(self, error: Exception) -> Exception:
        self._failure = error
        self._inner.stop(StreamCode.CANCEL)
        self._over()
        return error

    def _over(self) -> None:
        if not self.over:
            self.over = True
            self._source.group_over(self)
