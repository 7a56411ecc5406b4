"""The messages that are about the connection: PROBE and GOAWAY."""

from __future__ import annotations

from typing import ClassVar, Self

import attrs

from ..buffer import Reader, Writer
from .message import Message, read_seconds, write_seconds


@attrs.frozen
class Probe(Message):
    """How fast the connection is, or is wanted to be.

    Attributes:
        bitrate: bits per second: the publisher's estimate, or the subscriber's target.
            None if unknown.
        round_trip_time: seconds, smoothed, in steps of a millisecond; None if unknown.
            Draft 03 leaves it out.
    """

    bitrate: int | None = None
    round_trip_time: float | None = None

    def _write(self, writer: Writer, draft: int) -> None:
        writer.varint(self.bitrate or 0)
        if draft < 4:
            return
        if self.round_trip_time is None:
            writer.varint(0)
        else:
            # 0 on the wire is "unknown": what is known but shorter than a step is one step.
            write_seconds(writer, max(self.round_trip_time, 0.001))

    @classmethod
    def _read(cls, reader: Reader, draft: int) -> Self:
        bitrate = reader.varint("the bitrate") or None
        if draft < 4:
            return cls(bitrate)
        return cls(bitrate, read_seconds(reader, "the round-trip time") or None)


@attrs.frozen
class Goaway(Message):
    """The sender wants the session to end soon.

    Attributes:
        uri: where to connect instead; empty for nowhere in particular. Hostile until
            checked against local policy.
    """

    since: ClassVar[int] = 4

    uri: str = ""

    def _write(self, writer: Writer, draft: int) -> None:
        writer.string(self.uri)

    @classmethod
    def _read(cls, reader: Reader, draft: int) -> Self:
        return cls(reader.string("the new session URI"))
