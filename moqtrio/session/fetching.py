"""Sends one group as the answer to a FETCH."""

from __future__ import annotations

import trio

from ..model import Track, Wakeup
from ..replay import Expiry
from ..replay.resolver import Reader
from ..transport.connection import Connection, SendStream
from .frame_slice import FrameSlice
from .group_sender import GroupSender, Progress
from .pins import PinLimit


async def send_group(
    connection: Connection,
    stream: SendStream,
    track: Track,
    reader: Reader,
    pins: PinLimit,
    frames: FrameSlice | None = None,
) -> None:
    """Send the frames of the group, as they come and as the peer takes them, then FIN.
    All of them, unless ``frames`` says which.

    Raises ReplayError where the group cannot be completed, and what the stream raises.
    Cancelling it leaves the stream unfinished.
    """
    sender = GroupSender(
        reader,
        Expiry(track.log),
        lambda _: stream,
        header=b"",
        timescale=track.info.timescale,
        frames=frames,
    )
    wakeup = Wakeup()
    remove_log = track.log.watchers.add(wakeup.set)
    remove_writable = connection.on_writable(wakeup.set)
    try:
        while (progress := sender.advance()) is not Progress.OVER:
            if progress is Progress.PENDING:
                await sender.wait_for_store()
                sender.store_ready()
            elif progress is not Progress.MORE:
                await pins.wait(wakeup, (sender,))
                pins.enforce(sender)
            else:
                await trio.lowlevel.checkpoint()
    finally:
        remove_log()
        remove_writable()
        sender.close()
