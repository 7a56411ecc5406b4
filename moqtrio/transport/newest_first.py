"""Streams of one kind of which the newest should go first."""

from __future__ import annotations

from bisect import insort
from operator import attrgetter
from typing import Any, Generic, Protocol, TypeVar


class Ranked(Protocol):
    """A stream as :class:`NewestFirst` sees it."""

    rank: int


StreamT = TypeVar("StreamT", bound=Ranked)
_rank: Any = attrgetter("rank")


class NewestFirst(Generic[StreamT]):
    """Streams that share their places in a connection's queue: the groups of one subscription.

    A stream has its place by priority and age, as any other. When a place comes up whose
    stream has not begun, the one with the highest rank takes it, and leaves its own. So what
    others get does not depend on the order within. What has begun is finished first: the
    peer's reader may be waiting for it, and must not find its windows full of what came later.
    """

    def __init__(self) -> None:
        self._waiting: list[StreamT] = []  # by rank; each has a place in the queue

    def add(self, stream: StreamT) -> None:
        """The stream has something to send, and has just got a place."""
        insort(self._waiting, stream, key=_rank)

    def discard(self, stream: StreamT) -> None:
        """The stream gives up its place: it has nothing to send, or it may not."""
        waiting = self._waiting
        if waiting[-1] is stream:
            waiting.pop()
        else:
            waiting.remove(stream)

    @property
    def newest(self) -> StreamT:
        """The one with the highest rank. There must be one that waits."""
        return self._waiting[-1]
