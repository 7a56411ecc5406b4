"""Streams of one kind of which the newest should go first."""

from __future__ import annotations

from bisect import insort
from operator import attrgetter
from typing import Any, Generic, Protocol, TypeVar

import attrs


class Ranked(Protocol):
    """A stream as :class:`NewestFirst` sees it."""

    rank: int


StreamT = TypeVar("StreamT", bound=Ranked)
_rank: Any = attrgetter("rank")


@attrs.define
class _Begun:
    before: int  # what all had sent when this one began
    own: int  # what it has sent itself
    waits: bool = True


class NewestFirst(Generic[StreamT]):
    """Streams that share their places in a connection's queue: the groups of one subscription.

    A stream has its place by priority and age, as any other. When a place comes up that is
    one of these streams', the one with the highest rank takes it, and leaves its own. So
    what others get does not depend on the order within.

    What has been overtaken after its peer has seen some of it may be what the peer's reader
    waits for. It must not find the windows full of what came later: beyond ``most_ahead``
    bytes, the stream that began first goes first.

    Attributes:
        most_ahead: bytes that may be sent of others between the first and the last of a
            stream. May be changed at any time.
    """

    def __init__(self, most_ahead: int) -> None:
        self.most_ahead: int = most_ahead
        self._waiting: list[StreamT] = []  # by rank; each has a place in the queue
        # Those that have sent some of what they have, in the order of their first bytes.
        self._begun: dict[StreamT, _Begun] = {}
        self._sent = 0

    def add(self, stream: StreamT) -> None:
        """The stream has something to send, and has just got a place."""
        insort(self._waiting, stream, key=_rank)
        if stream in self._begun:
            self._begun[stream].waits = True

    def discard(self, stream: StreamT, *, is_empty: bool) -> None:
        """The stream gives up its place: it has nothing to send, or it may not."""
        waiting = self._waiting
        if waiting[-1] is stream:
            waiting.pop()
        else:
            waiting.remove(stream)
        if is_empty:
            self._begun.pop(stream, None)
        elif stream in self._begun:
            self._begun[stream].waits = False

    def first(self) -> StreamT:
        """Whose turn it is. There must be one that waits."""
        for stream, begun in self._begun.items():
            if self._sent - begun.before - begun.own < self.most_ahead:
                break  # those that began later were overtaken by less
            if begun.waits:
                return stream
        return self._waiting[-1]

    def count(self, stream: StreamT, size: int) -> None:
        """``size`` bytes of a waiting stream were sent."""
        begun = self._begun.get(stream)
        if begun is None:
            self._begun[stream] = _Begun(self._sent, size)
        else:
            begun.own += size
        self._sent += size
