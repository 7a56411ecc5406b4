"""The messages of a subscribe stream: the subscriber's wishes, the publisher's answers."""

from __future__ import annotations

from typing import ClassVar, Self, TypeAlias

import attrs

from ..buffer import Reader, Writer
from ..varint import encode_varint
from .codes import ResponseType
from .message import Message, check_range, read_seconds, write_seconds


@attrs.frozen
class SubscribeUpdate(Message):
    """New wishes for a subscription that is open.

    Attributes:
        priority: 0 to 255, higher is sent first.
        ordered: whether older groups go first when not all can be sent at once.
        max_latency: seconds a group may lag behind the latest before it is not worth
            sending any more; 0 is "only the latest".
        start: the first group wanted; None is the latest there is.
        end: the first group not wanted any more (so ``[start, end)``); None is no end.
    """

    priority: int = 0
    ordered: bool = False
    max_latency: float = 0.0
    start: int | None = None
    end: int | None = None

    def _write(self, writer: Writer) -> None:
        check_range(self.start, self.end)
        writer.u8(self.priority)
        writer.boolean(self.ordered)
        write_seconds(writer, self.max_latency)
        writer.optional(self.start)
        # The wire has the last group plus one: the end of the half-open range itself.
        writer.varint(self.end or 0)

    @classmethod
    def _read(cls, reader: Reader) -> Self:
        update = cls(
            priority=reader.u8("the subscriber priority"),
            ordered=reader.boolean("subscriber ordered"),
            max_latency=read_seconds(reader, "the subscriber max latency"),
            start=reader.optional("the group start"),
            end=reader.varint("the group end") or None,
        )
        if update.start is not None and update.end is not None and update.start > update.end:
            raise reader.error("a group start <= end", f"[{update.start}, {update.end})")
        return update


@attrs.frozen
class Subscribe(Message):
    """Opens a subscription.

    Attributes:
        subscribe_id: the subscriber's number for it, never used twice in a session.
        broadcast: the broadcast's path.
        track: the track's name.
        priority, ordered, max_latency, start, end: as in :class:`SubscribeUpdate`.
    """

    subscribe_id: int
    broadcast: str
    track: str
    priority: int = 0
    ordered: bool = False
    max_latency: float = 0.0
    start: int | None = None
    end: int | None = None

    def updated(self, update: SubscribeUpdate) -> Self:
        """This subscription with an update's wishes in place of its own."""
        return attrs.evolve(
            self,
            priority=update.priority,
            ordered=update.ordered,
            max_latency=update.max_latency,
            start=update.start,
            end=update.end,
        )

    def _write(self, writer: Writer) -> None:
        writer.varint(self.subscribe_id)
        writer.string(self.broadcast)
        writer.string(self.track)
        # SUBSCRIBE_UPDATE is the tail of SUBSCRIBE, field for field.
        tail = SubscribeUpdate(self.priority, self.ordered, self.max_latency, self.start, self.end)
        writer.raw(tail.encode_body())

    @classmethod
    def _read(cls, reader: Reader) -> Self:
        subscribe_id = reader.varint("the subscribe id")
        broadcast = reader.string("the broadcast path")
        track = reader.string("the track name")
        return cls(subscribe_id, broadcast, track).updated(SubscribeUpdate._read(reader))


class Response(Message):
    """What a publisher sends on a subscribe stream: a varint type before the length."""

    __slots__ = ()

    response_type: ClassVar[ResponseType]

    def encode(self) -> bytes:
        """The whole message, its type and length included.

        Raises:
            ValueError: if an attribute holds what the wire cannot carry.
        """
        return encode_varint(self.response_type) + super().encode()


@attrs.frozen
class SubscribeStart(Response):
    """The subscription is accepted (SUBSCRIBE_OK in the draft).

    Attributes:
        start: the first group that will come. Groups asked for before it will not, and
            no :class:`SubscribeDrop` says so.
    """

    response_type: ClassVar[ResponseType] = ResponseType.START

    start: int

    def _write(self, writer: Writer) -> None:
        writer.varint(self.start)

    @classmethod
    def _read(cls, reader: Reader) -> Self:
        return cls(reader.varint("the first group"))


@attrs.frozen
class SubscribeEnd(Response):
    """The track is over.

    Attributes:
        end: the first sequence that will never exist; 0 if there never was a group.
    """

    response_type: ClassVar[ResponseType] = ResponseType.END

    end: int

    def _write(self, writer: Writer) -> None:
        writer.varint(self.end)

    @classmethod
    def _read(cls, reader: Reader) -> Self:
        return cls(reader.varint("the end of the track"))


@attrs.frozen
class SubscribeDrop(Response):
    """Groups of the subscription that will not come.

    Attributes:
        start, end: the groups ``[start, end)``, at least one.
        code: why, as a stream error code; 0 is "they are simply not there".
    """

    response_type: ClassVar[ResponseType] = ResponseType.DROP

    start: int
    end: int
    code: int

    def _write(self, writer: Writer) -> None:
        if not self.start < self.end:
            raise ValueError(f"expected start < end in a drop, got [{self.start}, {self.end})")
        writer.varint(self.start)
        writer.varint(self.end - 1)
        writer.varint(self.code)

    @classmethod
    def _read(cls, reader: Reader) -> Self:
        start = reader.varint("the first dropped group")
        at = reader.offset
        last = reader.varint("the last dropped group")
        if last < start:
            raise reader.error(f"a last dropped group >= {start}", last, offset=at)
        return cls(start, last + 1, reader.varint("the error code"))


SubscribeResponse: TypeAlias = SubscribeStart | SubscribeEnd | SubscribeDrop

RESPONSES: dict[ResponseType, type[SubscribeResponse]] = {
    ResponseType.START: SubscribeStart,
    ResponseType.END: SubscribeEnd,
    ResponseType.DROP: SubscribeDrop,
}
"""Which class each response type is."""
