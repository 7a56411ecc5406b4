"""The messages of a subscribe stream: the subscriber's wishes, the publisher's answers."""

from __future__ import annotations

from typing import ClassVar, Self, TypeAlias

import attrs

from ..buffer import Reader, Writer
from .message import Message, TypedMessage, read_seconds, write_seconds
from .ranges import check_range, read_end, refuse_frame_range
from .registries import stream_code_from


@attrs.frozen
class SubscribeUpdate(Message):
    """New wishes for a subscription that is open.

    Attributes:
        priority: 0 to 255, higher is sent first.
        ordered: whether older groups go first when not all can be sent at once. Draft 06
            leaves it out, which reads as False.
        max_latency: seconds a group may lag behind the latest before it is not worth
            sending any more (Max Age in draft 06); 0 is "only the latest".
        start: the first group wanted; None is the latest there is. Draft 06 has no None: it
            goes as 0, and there ``max_latency`` says how much of the past comes.
        end: the first group not wanted any more (so ``[start, end)``); None is no end.
        frame_start: the first frame wanted of group ``start``; not 0 since draft 06 only.
        frame_end: the first frame not wanted any more of the last group, ``end - 1``; None
            is all of it. Since draft 06, and only where there is an ``end``. In a range of
            one group it may come before ``frame_start``: then no frame is wanted.
    """

    priority: int = 0
    ordered: bool = False
    max_latency: float = 0.0
    start: int | None = None
    end: int | None = None
    frame_start: int = 0
    frame_end: int | None = None

    def _write(self, writer: Writer, draft: int) -> None:
        check_range(self.start, self.end)
        writer.u8(self.priority)
        if draft < 6:
            refuse_frame_range(self.frame_start, self.frame_end, draft)
            writer.boolean(self.ordered)
            write_seconds(writer, self.max_latency)
            writer.optional(self.start)
            # The wire has the last group plus one: the end of the half-open range itself.
            writer.varint(self.end or 0)
            return
        if self.frame_end is not None and self.end is None:
            raise ValueError(f"expected a group end, as there is a frame end {self.frame_end}")
        write_seconds(writer, self.max_latency)
        writer.varint(self.start or 0)
        writer.varint(self.end or 0)
        writer.varint(self.frame_start)
        writer.varint(self.frame_end or 0)

    @classmethod
    def _read(cls, reader: Reader, draft: int) -> Self:
        priority = reader.u8("the subscriber priority")
        if draft < 6:
            ordered = reader.boolean("subscriber ordered")
            max_latency = read_seconds(reader, "the subscriber max latency")
            start = reader.optional("the group start")
            end = read_end(reader, "the group end", start or 0)
            return cls(priority, ordered, max_latency, start, end)
        max_latency = read_seconds(reader, "the subscriber max age")
        start = reader.varint("the group start")
        end = read_end(reader, "the group end", start)
        frame_start = reader.varint("the frame start")
        at = reader.offset
        frame_end = reader.varint("the frame end") or None
        if frame_end is not None and end is None:
            raise reader.error("no frame end, as there is no group end", frame_end, offset=at)
        return cls(
            priority,
            max_latency=max_latency,
            start=start,
            end=end,
            frame_start=frame_start,
            frame_end=frame_end,
        )


@attrs.frozen
class Subscribe(Message):
    """Opens a subscription.

    Attributes:
        subscribe_id: the subscriber's number for it, never used twice in a session.
        broadcast: the broadcast's path.
        track: the track's name.
        priority, ordered, max_latency, start, end, frame_start, frame_end: as in
            :class:`SubscribeUpdate`.
    """

    subscribe_id: int
    broadcast: str
    track: str
    priority: int = 0
    ordered: bool = False
    max_latency: float = 0.0
    start: int | None = None
    end: int | None = None
    frame_start: int = 0
    frame_end: int | None = None

    @property
    def wishes(self) -> SubscribeUpdate:
        """What an update may change, as the update that would change nothing."""
        return SubscribeUpdate(
            self.priority,
            self.ordered,
            self.max_latency,
            self.start,
            self.end,
            self.frame_start,
            self.frame_end,
        )

    def updated(self, update: SubscribeUpdate) -> Self:
        """This subscription with an update's wishes in place of its own."""
        return attrs.evolve(self, **attrs.asdict(update))

    def _write(self, writer: Writer, draft: int) -> None:
        writer.varint(self.subscribe_id)
        writer.string(self.broadcast)
        writer.string(self.track)
        # SUBSCRIBE_UPDATE is the tail of SUBSCRIBE, field for field.
        self.wishes._write(writer, draft)

    @classmethod
    def _read(cls, reader: Reader, draft: int) -> Self:
        subscribe_id = reader.varint("the subscribe id")
        broadcast = reader.string("the broadcast path")
        track = reader.string("the track name")
        return cls(subscribe_id, broadcast, track).updated(SubscribeUpdate._read(reader, draft))


@attrs.frozen
class SubscribeOk(TypedMessage):
    """The subscription is accepted, on drafts 03 and 04; where it starts is not said.

    Attributes:
        priority, ordered, max_latency: what the publisher has fixed about the track.
        start, end: the groups ``[start, end)``; None is an open side.
    """

    until: ClassVar[int | None] = 4

    priority: int = 0
    ordered: bool = False
    max_latency: float = 0.0
    start: int | None = None
    end: int | None = None

    @classmethod
    def type_code(cls, draft: int) -> int:
        """See :class:`TypedMessage`."""
        return 0

    def _write(self, writer: Writer, draft: int) -> None:
        # Field for field what SUBSCRIBE ends with.
        fields = (self.priority, self.ordered, self.max_latency, self.start, self.end)
        SubscribeUpdate(*fields)._write(writer, draft)

    @classmethod
    def _read(cls, reader: Reader, draft: int) -> Self:
        tail = SubscribeUpdate._read(reader, draft)
        return cls(tail.priority, tail.ordered, tail.max_latency, tail.start, tail.end)


@attrs.frozen
class SubscribeStart(TypedMessage):
    """The subscription is accepted (SUBSCRIBE_OK in draft 05).

    Attributes:
        start: the first group that will come. Groups asked for before it will not, and
            no :class:`SubscribeDrop` says so.
    """

    since: ClassVar[int] = 5

    start: int

    @classmethod
    def type_code(cls, draft: int) -> int:
        """See :class:`TypedMessage`."""
        return 0

    def _write(self, writer: Writer, draft: int) -> None:
        writer.varint(self.start)

    @classmethod
    def _read(cls, reader: Reader, draft: int) -> Self:
        return cls(reader.varint("the first group"))


@attrs.frozen
class SubscribeEnd(TypedMessage):
    """The track is over.

    Attributes:
        end: the first sequence that will never exist; 0 if there never was a group.
    """

    since: ClassVar[int] = 5

    end: int

    @classmethod
    def type_code(cls, draft: int) -> int:
        """See :class:`TypedMessage`."""
        return 1

    def _write(self, writer: Writer, draft: int) -> None:
        writer.varint(self.end)

    @classmethod
    def _read(cls, reader: Reader, draft: int) -> Self:
        return cls(reader.varint("the end of the track"))


@attrs.frozen
class SubscribeDrop(TypedMessage):
    """Groups of the subscription that will not come.

    Attributes:
        start, end: the groups ``[start, end)``, at least one.
        code: why, as a stream error code; 0 is "they are simply not there".
    """

    start: int
    end: int
    code: int

    @classmethod
    def type_code(cls, draft: int) -> int:
        """See :class:`TypedMessage`."""
        return 1 if draft < 5 else 2

    def _write(self, writer: Writer, draft: int) -> None:
        if not self.start < self.end:
            raise ValueError(f"expected start < end in a drop, got [{self.start}, {self.end})")
        writer.varint(self.start)
        writer.varint(self.end - 1)
        writer.varint(self.code)

    @classmethod
    def _read(cls, reader: Reader, draft: int) -> Self:
        start = reader.varint("the first dropped group")
        at = reader.offset
        last = reader.varint("the last dropped group")
        if last < start:
            raise reader.error(f"a last dropped group >= {start}", last, offset=at)
        return cls(start, last + 1, stream_code_from(reader.varint("the error code"), draft))


SubscribeResponse: TypeAlias = SubscribeOk | SubscribeStart | SubscribeEnd | SubscribeDrop

RESPONSES: tuple[type[SubscribeResponse], ...] = (
    SubscribeOk,
    SubscribeStart,
    SubscribeEnd,
    SubscribeDrop,
)
"""What a publisher may send on a subscribe stream, over all drafts."""
