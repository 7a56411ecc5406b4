"""The streams of a connection that have something to send, and how much that is."""

from __future__ import annotations

import heapq
from typing import Any, Generic, Protocol, TypeVar

from .newest_first import NewestFirst

_SPARE_ENTRIES = 64


class Queued(Protocol):
    """A stream as :class:`SendQueue` sees it."""

    order: int  # age: the lower goes first, among those of one priority
    rank: int  # see NewestFirst
    entry: Any  # its place in the queue; None if it has none
    rivals: Any  # with whom it shares places; None if with nobody
    stuck: int  # unsent bytes, found to wait for credit of the stream's own

    @property
    def priority(self) -> int:
        """Higher goes first."""
        ...


StreamT = TypeVar("StreamT", bound=Queued)


class SendQueue(Generic[StreamT]):
    """Streams by priority, then by age.

    Streams must order by ``<`` in some way: those that have changed places tie with what is
    left of one another in the heap.

    Attributes:
        entries: a heap of (-priority, order, stream). An entry that is not its stream's own any
            more is skipped when it comes up.
        unsent: bytes taken on all streams and not sent once.
        unsent_at: the same by priority, where there is any.
        stuck: those of them that wait for credit of their own stream.
    """

    def __init__(self) -> None:
        self.entries: list[tuple[int, int, StreamT]] = []
        self._waiting = 0  # streams that have an entry
        self.unsent: int = 0
        self.unsent_at: dict[int, int] = {}
        self.stuck: int = 0

    def add(self, stream: StreamT) -> None:
        """The stream has something to send, or another priority or age."""
        if stream.entry is None:
            self._waiting += 1
            if stream.rivals is not None:
                stream.rivals.add(stream)
        entry = (-stream.priority, stream.order, stream)
        stream.entry = entry
        entries = self.entries
        heapq.heappush(entries, entry)
        if len(entries) > 2 * self._waiting + _SPARE_ENTRIES:
            # Streams were moved or given up, and nothing was sent that would meet them.
            entries[:] = [each for each in entries if each[2].entry is each]
            heapq.heapify(entries)

    def leave(self, stream: StreamT) -> None:
        """Give up the stream's place, if it has one."""
        if stream.entry is not None:
            stream.entry = None
            self._waiting -= 1
            if stream.rivals is not None:
                stream.rivals.discard(stream)

    def change_places(self, one: StreamT, other: StreamT) -> None:
        """Let each have the other's age."""
        one.order, other.order = other.order, one.order
        self.add(one)
        self.add(other)

    def share_places(self, stream: StreamT, rivals: NewestFirst[StreamT] | None, rank: int) -> None:
        """Let the highest rank among ``rivals`` go first in the place of any that has not
        begun."""
        waits = stream.entry is not None
        if waits and stream.rivals is not None:
            stream.rivals.discard(stream)
        stream.rivals, stream.rank = rivals, rank
        if waits and rivals is not None:
            rivals.add(stream)

    def count_unsent(self, priority: int, change: int) -> None:
        """So many bytes more, or less, are unsent of streams of a priority."""
        self.unsent += change
        left = self.unsent_at.get(priority, 0) + change
        if left:
            self.unsent_at[priority] = left
        else:
            self.unsent_at.pop(priority, None)

    def count_stuck(self, stream: StreamT, unsent: int) -> None:
        """So many bytes of the stream wait for credit of its own."""
        self.stuck += unsent - stream.stuck
        stream.stuck = unsent
