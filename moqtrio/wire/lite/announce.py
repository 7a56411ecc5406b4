"""The messages of an announce stream: a request, its acceptance, announcements."""

from __future__ import annotations

from typing import ClassVar, Self

import attrs

from ..buffer import Reader, Writer
from .codes import MAX_HOPS, UNKNOWN_HOP, AnnounceStatus
from .message import Message, TypedMessage


@attrs.frozen
class AnnounceRequest(Message):
    """Asks for the broadcasts whose path starts with a prefix, now and as they change.

    Attributes:
        prefix: what the paths start with; the empty string asks for all.
        exclude_hop: broadcasts that came through this hop need not be announced; None
            excludes none. Drafts 03 and 06 leave it out.
    """

    prefix: str
    exclude_hop: int | None = None

    def _write(self, writer: Writer, draft: int) -> None:
        writer.string(self.prefix)
        if draft in (4, 5):
            writer.varint(self.exclude_hop or 0)

    @classmethod
    def _read(cls, reader: Reader, draft: int) -> Self:
        prefix = reader.string("the broadcast path prefix")
        if draft in (4, 5):
            return cls(prefix, reader.varint("the hop to exclude") or None)
        return cls(prefix)


@attrs.frozen
class AnnounceOk(Message):
    """The first message of the answer.

    Attributes:
        hop_id: the answering endpoint's own hop id, the implied last hop of every
            announcement of this stream; :data:`UNKNOWN_HOP` if it tells none.
        active_count: how many announcements follow at once, as the present state.
    """

    since: ClassVar[int] = 5

    hop_id: int = UNKNOWN_HOP
    active_count: int = 0

    def _write(self, writer: Writer, draft: int) -> None:
        writer.varint(self.hop_id)
        writer.varint(self.active_count)

    @classmethod
    def _read(cls, reader: Reader, draft: int) -> Self:
        return cls(reader.varint("the hop id"), reader.varint("the number of active broadcasts"))


@attrs.frozen
class Announce(Message):
    """One broadcast came, was replaced, or went.

    It is one message up to draft 05 (ANNOUNCE_BROADCAST) and one of three since, which only
    make sense one after another: :class:`AnnounceEncoder` and
    :meth:`MessageDecoder.next_announce` know both.

    Attributes:
        status: which of these.
        suffix: the broadcast's path without the requested prefix.
        hops: the hop ids from the origin to the one before the sender, at most
            :data:`MAX_HOPS`; the sender's own is in :class:`AnnounceOk`. Drafts 03 and 04
            have no such message: there the sender is the last hop. Draft 03 tells how many
            there are, so they read as :data:`UNKNOWN_HOP`.
        cost: what one more subscription by this way costs; drafts before 06 leave it out,
            which reads as 0.
        cold_cost: the same while nobody is subscribed yet; if not given, ``cost``.
    """

    until: ClassVar[int | None] = 5

    status: AnnounceStatus
    suffix: str
    hops: tuple[int, ...] = ()
    cost: int = 0
    cold_cost: int = attrs.field(default=attrs.Factory(lambda self: self.cost, takes_self=True))

    @property
    def active(self) -> bool:
        """Whether the broadcast is available from now on."""
        return self.status is not AnnounceStatus.ENDED

    def _write(self, writer: Writer, draft: int) -> None:
        if self.status not in _statuses(draft):
            raise ValueError(f"moq-lite-{draft:02} cannot say {self.status.name}")
        writer.u8(self.status)
        writer.string(self.suffix)
        if draft < 4:
            _check_hops(self.hops)
            writer.varint(len(self.hops))
        else:
            _write_hops(writer, self.hops)

    @classmethod
    def _read(cls, reader: Reader, draft: int) -> Self:
        status = _read_status(reader, draft)
        suffix = reader.string("the broadcast path suffix")
        if draft < 4:
            return cls(status, suffix, (UNKNOWN_HOP,) * _read_hop_count(reader))
        return cls(status, suffix, _read_hops(reader))


@attrs.frozen
class AnnounceStart(TypedMessage):
    """A broadcast came (ANNOUNCE_START). Its id is how many came before it on its stream.

    Attributes:
        suffix, hops, cost, cold_cost: as in :class:`Announce`.
    """

    since: ClassVar[int] = 6

    suffix: str
    hops: tuple[int, ...]
    cost: int
    cold_cost: int

    @classmethod
    def type_code(cls, draft: int) -> int:
        """See :class:`TypedMessage`."""
        return 0

    def _write(self, writer: Writer, draft: int) -> None:
        writer.string(self.suffix)
        _write_route(writer, self)

    @classmethod
    def _read(cls, reader: Reader, draft: int) -> Self:
        return cls(reader.string("the broadcast path suffix"), *_read_route(reader))


@attrs.frozen
class AnnounceEnd(TypedMessage):
    """A broadcast went (ANNOUNCE_END).

    Attributes:
        announce_id: which.
    """

    since: ClassVar[int] = 6

    announce_id: int

    @classmethod
    def type_code(cls, draft: int) -> int:
        """See :class:`TypedMessage`."""
        return 1

    def _write(self, writer: Writer, draft: int) -> None:
        writer.varint(self.announce_id)

    @classmethod
    def _read(cls, reader: Reader, draft: int) -> Self:
        return cls(reader.varint("the announce id"))


@attrs.frozen
class AnnounceUpdate(TypedMessage):
    """A broadcast was replaced, or its way here has changed (ANNOUNCE_UPDATE).

    Attributes:
        announce_id: which; it stays valid.
        hops, cost, cold_cost: as in :class:`Announce`.
    """

    since: ClassVar[int] = 6

    announce_id: int
    hops: tuple[int, ...]
    cost: int
    cold_cost: int

    @classmethod
    def type_code(cls, draft: int) -> int:
        """See :class:`TypedMessage`."""
        return 2

    def _write(self, writer: Writer, draft: int) -> None:
        writer.varint(self.announce_id)
        _write_route(writer, self)

    @classmethod
    def _read(cls, reader: Reader, draft: int) -> Self:
        return cls(reader.varint("the announce id"), *_read_route(reader))


def _statuses(draft: int) -> tuple[AnnounceStatus, ...]:
    if draft < 5:
        return (AnnounceStatus.ENDED, AnnounceStatus.ACTIVE)
    return tuple(AnnounceStatus)


def _read_status(reader: Reader, draft: int) -> AnnounceStatus:
    code = reader.u8("the announce status")
    if code not in _statuses(draft):
        expected = ", ".join(str(int(status)) for status in _statuses(draft))
        raise reader.error(f"an announce status of {expected}", code, offset=0)
    return AnnounceStatus(code)


def _write_route(writer: Writer, route: AnnounceStart | AnnounceUpdate) -> None:
    _write_hops(writer, route.hops)
    writer.varint(route.cost)
    writer.varint(route.cold_cost)


def _read_route(reader: Reader) -> tuple[tuple[int, ...], int, int]:
    return _read_hops(reader), reader.varint("the cost"), reader.varint("the cold cost")


def _write_hops(writer: Writer, hops: tuple[int, ...]) -> None:
    _check_hops(hops)
    writer.varint(len(hops))
    for hop in hops:
        writer.varint(hop)


def _read_hops(reader: Reader) -> tuple[int, ...]:
    return tuple(reader.varint("a hop id") for _ in range(_read_hop_count(reader)))


def _check_hops(hops: tuple[int, ...]) -> None:
    if len(hops) > MAX_HOPS:
        raise ValueError(f"expected at most {MAX_HOPS} hops, got {len(hops)}")


def _read_hop_count(reader: Reader) -> int:
    start = reader.offset
    count = reader.varint("the number of hops")
    if count > MAX_HOPS:
        raise reader.error(f"at most {MAX_HOPS} hops", count, offset=start)
    return count
