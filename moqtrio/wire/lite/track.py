"""The messages of a track stream and of a fetch stream."""

from __future__ import annotations

from typing import ClassVar, Self

import attrs

from ..buffer import Reader, Writer
from .message import Message, read_seconds, write_seconds
from .ranges import read_frame_range, refuse_frame_range, write_frame_range


@attrs.frozen
class Track(Message):
    """Asks for what a publisher has fixed about a track.

    Attributes:
        broadcast: the broadcast's path.
        track: the track's name.
    """

    since: ClassVar[int] = 5

    broadcast: str
    track: str

    def _write(self, writer: Writer, draft: int) -> None:
        writer.string(self.broadcast)
        writer.string(self.track)

    @classmethod
    def _read(cls, reader: Reader, draft: int) -> Self:
        return cls(reader.string("the broadcast path"), reader.string("the track name"))


@attrs.frozen
class TrackInfo(Message):
    """The answer to :class:`Track`; the same for as long as the track lives.

    Attributes:
        priority: 0 to 255, decides between subscriptions of equal priority.
        ordered: whether older groups go first, decides as ``priority`` does. Draft 06 leaves
            it out, which reads as False.
        max_latency: seconds the publisher keeps a group once there is a newer one, at most
            (Max Age in draft 06).
        timescale: timestamp units per second, not 0.
    """

    since: ClassVar[int] = 5

    priority: int
    ordered: bool
    max_latency: float
    timescale: int

    def _write(self, writer: Writer, draft: int) -> None:
        if self.timescale == 0:
            raise ValueError("expected a timescale of at least 1, got 0")
        writer.u8(self.priority)
        if draft < 6:
            writer.boolean(self.ordered)
        write_seconds(writer, self.max_latency)
        writer.varint(self.timescale)

    @classmethod
    def _read(cls, reader: Reader, draft: int) -> Self:
        priority = reader.u8("the publisher priority")
        ordered = draft < 6 and reader.boolean("publisher ordered")
        max_latency = read_seconds(reader, "the publisher max latency")
        at = reader.offset
        timescale = reader.varint("the timescale")
        if timescale == 0:
            raise reader.error("a timescale of at least 1", 0, offset=at)
        return cls(priority, ordered, max_latency, timescale)


@attrs.frozen
class Fetch(Message):
    """Asks for one group, or some of its frames; bare frames are the answer.

    Drafts 03 and 04 describe it too, but their frames have no timestamps and nothing to read
    them by, and nobody serves it there.

    Attributes:
        broadcast: the broadcast's path.
        track: the track's name.
        priority: 0 to 255, higher is sent first.
        sequence: the group.
        frame_start, frame_end: the frames ``[frame_start, frame_end)`` of it, at least one;
            None is all that follow. Before draft 06 all frames are what can be asked for.
    """

    since: ClassVar[int] = 5

    broadcast: str
    track: str
    priority: int
    sequence: int
    frame_start: int = 0
    frame_end: int | None = None

    def _write(self, writer: Writer, draft: int) -> None:
        writer.string(self.broadcast)
        writer.string(self.track)
        writer.u8(self.priority)
        writer.varint(self.sequence)
        if draft < 6:
            refuse_frame_range(self.frame_start, self.frame_end, draft)
            return
        write_frame_range(writer, self.frame_start, self.frame_end)

    @classmethod
    def _read(cls, reader: Reader, draft: int) -> Self:
        fetch = cls(
            reader.string("the broadcast path"),
            reader.string("the track name"),
            reader.u8("the subscriber priority"),
            reader.varint("the group sequence"),
        )
        if draft < 6:
            return fetch
        frame_start, frame_end = read_frame_range(reader)
        return attrs.evolve(fetch, frame_start=frame_start, frame_end=frame_end)
