"""A group as it arrives on its stream."""

from __future__ import annotations

from collections import deque

import trio

from ..errors import DecodeError, StreamCode
from ..model import Frame, GroupConsumer
from ..transport.connection import ReceiveStream
from ..wire.lite import FrameDecoder


class StreamGroupConsumer(GroupConsumer):
    """Reads a group from a stream, in the task that asks for it.

    Nothing is read ahead of the application: what it has not asked for stays in the
    transport, where it holds up the publisher and nobody else.

    Args:
        sequence: the group.
        stream: its bytes.
        skip: how many bytes at the stream's start are not frames.
        timescale: the track's timestamp units per second.
        max_frame_bytes: a larger frame is an error.
    """

    __slots__ = ("_decoder", "_ended", "_error", "_frames", "_sequence", "_skip", "_stream")

    def __init__(
        self,
        sequence: int,
        stream: ReceiveStream,
        *,
        skip: int = 0,
        timescale: int,
        max_frame_bytes: int,
    ) -> None:
        self._sequence = sequence
        self._stream = stream
        self._skip = skip
        self._decoder: FrameDecoder[Frame] = FrameDecoder(timescale, Frame, max_frame_bytes)
        self._frames: deque[Frame] = deque()
        self._ended = False
        self._error: Exception | None = None

    @property
    def sequence(self) -> int:
        """The group's number on its track."""
        return self._sequence

    @property
    def over(self) -> bool:
        """Whether nothing more will come from the stream."""
        return self._ended or self._error is not None

    def preload(self, data: bytes | bytearray) -> None:
        """Bytes of the group that were taken from the stream before this was made."""
        self._take(data)

    def receive_nowait(self) -> Frame:
        """The next frame, if it has arrived.

        Raises trio.WouldBlock if it has not, otherwise as ``receive`` does.
        """
        if not self._frames:
            self._read_nowait()
        return self._frames.popleft()

    async def receive(self) -> Frame:
        """The next frame. See :class:`~moqtrio.GroupConsumer`."""
        if not self._frames:
            await self._fill()
        return self._frames.popleft()

    async def receive_batch(self) -> list[Frame]:
        """All frames that are there, waiting for the first; ``[]`` at the end."""
        try:
            if not self._frames:
                await self._fill()
        except trio.EndOfChannel:
            return []
        batch = list(self._frames)
        self._frames.clear()
        return batch

    async def aclose(self) -> None:
        """Stop reading: tells the publisher not to send the rest. Cancelling it is fine."""
        self.stop(StreamCode.CANCEL)
        await trio.lowlevel.checkpoint()

    def stop(self, code: int) -> None:
        """Give the group up at once; a no-op where it has ended."""
        if not self.over:
            self._error = trio.ClosedResourceError("this side has stopped reading the group")
            self._stream.stop(code)
        self._frames.clear()

    async def _fill(self) -> None:
        """Get at least one more frame; a checkpoint only where it has to wait.

        How much can be had without waiting is bounded by the stream's window.
        """
        while not self._frames:
            try:
                self._read_nowait()
            except trio.WouldBlock:
                try:
                    data = await self._stream.receive_some()
                except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                    self._error = error
                    raise
                self._take(data)

    def _read_nowait(self) -> None:
        while not self._frames:
            self._raise_if_over()
            try:
                data = self._stream.receive_nowait()
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                self._error = error
                raise
            self._take(data)

    def _take(self, data: bytes | bytearray) -> None:
        try:
            if data:
                skip = min(self._skip, len(data))
                self._skip -= skip
                self._frames.extend(self._decoder.feed(data, skip))
            else:
                self._decoder.finish()
                self._ended = True
        except DecodeError as error:
            self._error = error
            self._stream.stop(StreamCode.MALFORMED)
            raise

    def _raise_if_over(self) -> None:
        if self._error is not None:
            raise self._error
        if self._ended:
            raise trio.EndOfChannel
