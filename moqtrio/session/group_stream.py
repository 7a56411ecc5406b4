"""A group as it arrives on its stream."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

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
        timescale: the track's timestamp units per second; None where frames have none.
        now_us: stamps those, in microseconds.
        max_frame_bytes: a larger frame is an error.
    """

    __slots__ = ("_decoder", "_ended", "_error", "_frames", "_sequence", "_skip", "_stream")

    def __init__(
        self,
        sequence: int,
        stream: ReceiveStream,
        *,
        skip: int = 0,
        timescale: int | None,
        now_us: Callable[[], int],
        max_frame_bytes: int,
    ) -> None:
        self._sequence = sequence
        self._stream = stream
        self._skip = skip
        # As moq-rs does: what has no timestamp is stamped when it is here.
        make_frame = Frame if timescale is not None else partial(_stamped, now_us)
        self._decoder: FrameDecoder[Frame] = FrameDecoder(timescale, make_frame, max_frame_bytes)
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
        self._frames.extend(self._decode(data))

    def receive_nowait(self) -> Frame:
        """The next frame, if it has arrived.

        Raises trio.WouldBlock if it has not, otherwise as ``receive`` does.
        """
        while not self._frames:
            self._raise_if_ended()
            self._frames.extend(self._read_nowait())
        return self._frames.popleft()

    async def receive(self) -> Frame:
        """The next frame. See :class:`~moqtrio.GroupConsumer`."""
        while not self._frames:
            self._raise_if_ended()
            self._frames.extend(await self._read())
        return self._frames.popleft()

    async def receive_batch(self) -> list[Frame]:
        """All frames that are there, waiting for the first; ``[]`` at the end."""
        batch = self._take_waiting()
        while not batch and not self._ended:
            batch = await self._read()
        return batch

    async def read_all(self) -> list[Frame]:
        """Every remaining frame, once the group is complete. See
        :class:`~moqtrio.GroupConsumer`."""
        frames = self._take_waiting()
        while not self._ended:
            frames += await self._read()
        return frames

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

    def _take_waiting(self) -> list[Frame]:
        frames = list(self._frames)
        self._frames.clear()
        return frames

    async def _read(self) -> list[Frame]:
        """Frames of what comes next on the stream; a checkpoint only where it has to wait.

        How much can be had without waiting is bounded by the stream's window.
        """
        try:
            return self._read_nowait()
        except trio.WouldBlock:
            pass
        try:
            data = await self._stream.receive_some()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._error = error
            raise
        return self._decode(data)

    def _read_nowait(self) -> list[Frame]:
        if self._error is not None:
            raise self._error
        try:
            data = self._stream.receive_nowait()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._error = error
            raise
        return self._decode(data)

    def _decode(self, data: bytes | bytearray) -> list[Frame]:
        """The frames ``data`` completes; none, and the group has ended, where it is empty."""
        try:
            if not data:
                self._decoder.finish()
                self._ended = True
                return []
            skip = self._skip
            if skip:
                skip = min(skip, len(data))
                self._skip -= skip
            return self._decoder.feed(data, skip)
        except DecodeError as error:
            self._error = error
            self._stream.stop(StreamCode.MALFORMED)
            raise

    def _raise_if_ended(self) -> None:
        if self._ended:
            raise trio.EndOfChannel


def _stamped(now_us: Callable[[], int], payload: bytes, _: int) -> Frame:
    return Frame(payload, now_us())
