"""Sends one group as the answer to a FETCH."""

from __future__ import annotations

from ..model import Track, Wakeup
from ..replay import PARKED, Pending, Ready
from ..replay.resolver import Reader
from ..transport.connection import SendStream
from ..wire.lite import encode_frames
from .group_sender import PIECE_BYTES


async def send_group(stream: SendStream, reader: Reader, track: Track) -> None:
    """Send every frame of the group, as they come and as the peer takes them.

    Raises ReplayError where the group cannot be completed, and what the stream raises.
    Cancelling it leaves the stream unfinished.
    """
    ticks = 0
    wakeup = Wakeup()
    remove = track.log.watchers.add(wakeup.set)
    try:
        while True:
            answer = reader.poll_frames(PIECE_BYTES)
            if isinstance(answer, Ready):
                piece, ticks = encode_frames(answer.value, ticks, track.info.timescale)
                await stream.send_all(piece)
            elif isinstance(answer, Pending):
                await answer.wait()
            elif answer is PARKED:
                await wakeup.wait()
            else:
                return
    finally:
        remove()
