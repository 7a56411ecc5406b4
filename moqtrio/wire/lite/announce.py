"""The messages of an announce stream: a request, its acceptance, announcements."""

from __future__ import annotations

from typing import Self

import attrs

from ..buffer import Reader, Writer
from .codes import MAX_HOPS, UNKNOWN_HOP, AnnounceStatus
from .message import Message


@attrs.frozen
class AnnounceRequest(Message):
    """Asks for the broadcasts whose path starts with a prefix, now and as they change.

    Attributes:
        prefix: what the paths start with; the empty string asks for all.
        exclude_hop: broadcasts that came through this hop need not be announced; None
            excludes none.
    """

    prefix: str
    exclude_hop: int | None = None

    def _write(self, writer: Writer) -> None:
        writer.string(self.prefix)
        writer.varint(self.exclude_hop or 0)

    @classmethod
    def _read(cls, reader: Reader) -> Self:
        prefix = reader.string("the broadcast path prefix")
        return cls(prefix, reader.varint("the hop to exclude") or None)


@attrs.frozen
class AnnounceOk(Message):
    """The first message of the answer.

    Attributes:
        hop_id: the answering endpoint's own hop id, the implied last hop of every
            announcement of this stream; :data:`UNKNOWN_HOP` if it tells none.
        active_count: how many announcements follow at once, as the present state.
    """

    hop_id: int = UNKNOWN_HOP
    active_count: int = 0

    def _write(self, writer: Writer) -> None:
        writer.varint(self.hop_id)
        writer.varint(self.active_count)

    @classmethod
    def _read(cls, reader: Reader) -> Self:
        return cls(reader.varint("the hop id"), reader.varint("the number of active broadcasts"))


@attrs.frozen
class Announce(Message):
    """One broadcast came, was replaced, or went (ANNOUNCE_BROADCAST).

    Attributes:
        status: which of these.
        suffix: the broadcast's path without the requested prefix.
        hops: the hop ids from the origin to the one before the sender, at most
            :data:`MAX_HOPS`; the sender's own is in :class:`AnnounceOk`.
    """

    status: AnnounceStatus
    suffix: str
    hops: tuple[int, ...] = ()

    @property
    def active(self) -> bool:
        """Whether the broadcast is available from now on."""
        return self.status is not AnnounceStatus.ENDED

    def _write(self, writer: Writer) -> None:
        if len(self.hops) > MAX_HOPS:
            raise ValueError(f"expected at most {MAX_HOPS} hops, got {len(self.hops)}")
        writer.u8(AnnounceStatus(self.status))
        writer.string(self.suffix)
        writer.varint(len(self.hops))
        for hop in self.hops:
            writer.varint(hop)

    @classmethod
    def _read(cls, reader: Reader) -> Self:
        status = _read_status(reader)
        suffix = reader.string("the broadcast path suffix")
        return cls(status, suffix, _read_hops(reader))


def _read_status(reader: Reader) -> AnnounceStatus:
    code = reader.u8("the announce status")
    try:
        return AnnounceStatus(code)
    except ValueError:
        raise reader.error("an announce status of 0, 1 or 2", code, offset=0) from None


def _read_hops(reader: Reader) -> tuple[int, ...]:
    start = reader.offset
    count = reader.varint("the number of hops")
    if count > MAX_HOPS:
        raise reader.error(f"at most {MAX_HOPS} hops", count, offset=start)
    return tuple(reader.varint("a hop id") for _ in range(count))
