"""Reads a group out of a source, for a program rather than for a subscriber."""

from __future__ import annotations

from ..errors import RequestError, StreamCode
from ..model.frame import Frame
from ..model.source import End, GroupReader, Pending, Ready, ReplaySource

_PIECE_BYTES = 256 * 1024


async def read_group(source: ReplaySource, sequence: int) -> list[Frame]:
    """Every frame of one recorded group, in order.

    How a publisher that starts again finds out how far it had come. Cancelling it leaves
    nothing behind.

    Raises:
        RequestError: the source does not have the group.
        ReplayError: it could not be read. Where ``retryable`` is False the group is damaged,
            or was aborted, or a crash cut it short: that is how it will stay.
    """
    reader = await _find(source, sequence)
    frames: list[Frame] = []
    try:
        while True:
            answer = reader.poll_frames(_PIECE_BYTES)
            if isinstance(answer, Ready):
                frames += answer.value
            elif isinstance(answer, End):
                return frames
            else:
                await answer.wait()
    finally:
        reader.close()


async def _find(source: ReplaySource, sequence: int) -> GroupReader:
    while True:
        answer = source.poll_group(sequence)
        if isinstance(answer, Ready):
            return answer.value
        if not isinstance(answer, Pending):
            raise RequestError(f"there is no group {sequence}", code=StreamCode.NOT_FOUND)
        await answer.wait()
