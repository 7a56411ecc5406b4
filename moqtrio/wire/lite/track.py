"""The messages of a track stream and of a fetch stream."""

from __future__ import annotations

from typing import Self

import attrs

from ..buffer import Reader, Writer
from .message import Message, read_seconds, write_seconds


@attrs.frozen
class Track(Message):
    """Asks for what a publisher has fixed about a track.

    Attributes:
        broadcast: the broadcast's path.
        track: the track's name.
    """

    broadcast: str
    track: str

    def _write(self, writer: Writer) -> None:
        writer.string(self.broadcast)
        writer.string(self.track)

    @classmethod
    def _read(cls, reader: Reader) -> Self:
        return cls(reader.string("the broadcast path"), reader.string("the track name"))


@attrs.frozen
class TrackInfo(Message):
    """The answer to :class:`Track`; the same for as long as the track lives.

    Attributes:
        priority: 0 to 255, decides between subscriptions of equal priority.
        ordered: whether older groups go first, decides as ``priority`` does.
        max_latency: seconds the publisher keeps a group once there is a newer one, at most.
        timescale: timestamp units per second, not 0.
    """

    priority: int
    ordered: bool
    max_latency: float
    timescale: int

    def _write(self, writer: Writer) -> None:
        if self.timescale == 0:
            raise ValueError("expected a timescale of at least 1, got 0")
        writer.u8(self.priority)
        writer.boolean(self.ordered)
        write_seconds(writer, self.max_latency)
        writer.varint(self.timescale)

    @classmethod
    def _read(cls, reader: Reader) -> Self:
        priority = reader.u8("the publisher priority")
        ordered = reader.boolean("publisher ordered")
        max_latency = read_seconds(reader, "the publisher max latency")
        at = reader.offset
        timescale = reader.varint("the timescale")
        if timescale == 0:
            raise reader.error("a timescale of at least 1", 0, offset=at)
        return cls(priority, ordered, max_latency, timescale)


@attrs.frozen
class Fetch(Message):
    """Asks for one group; bare frames are the answer.

    Attributes:
        broadcast: the broadcast's path.
        track: the track's name.
        priority: 0 to 255, higher is sent first.
        sequence: the group.
    """

    broadcast: str
    track: str
    priority: int
    sequence: int

    def _write(self, writer: Writer) -> None:
        writer.string(self.broadcast)
        writer.string(self.track)
        writer.u8(self.priority)
        writer.varint(self.sequence)

    @classmethod
    def _read(cls, reader: Reader) -> Self:
        return cls(
            reader.string("the broadcast path"),
            reader.string("the track name"),
            reader.u8("the subscriber priority"),
            reader.varint("the group sequence"),
        )
