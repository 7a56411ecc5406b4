"""The streams of one subscription: how urgent they are, and what becomes of them when the
transport has all of a group and has not sent it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from ..errors import StreamCode
from ..replay import Expiry
from ..transport.connection import Connection, SendStream
from .group_sender import GroupSender
from .priorities import stream_priority

_PRUNE_AT = 64


class _HandedOver(NamedTuple):
    sequence: int
    first_us: int | None
    stream: SendStream


class OutgoingStreams:
    """The group streams of one subscription, all of one priority.

    Live groups go before history, but not before older groups of the same subscription: they
    could fill the window of a subscriber that reads in order.
    """

    def __init__(self, connection: Connection, request: int) -> None:
        self._connection = connection
        self._request = request
        self._live = False
        self._caught_up = False
        self._handed_over: deque[_HandedOver] = deque()
        self._prune_at = _PRUNE_AT

    def open_stream(self) -> SendStream:
        """Open a stream. Raises trio.WouldBlock."""
        if self._caught_up and not self._live and not self._prune():
            self._live = True
        stream = self._connection.open_uni_nowait()
        stream.set_priority(self._priority)
        return stream

    def handed_over(self, sender: GroupSender) -> None:
        """The transport has all of a group, and may not have sent it yet."""
        assert sender.stream is not None
        groups = self._handed_over
        groups.append(_HandedOver(sender.sequence, sender.first_us, sender.stream))
        if len(groups) >= self._prune_at:
            self._prune()
            self._prune_at = max(2 * len(groups), _PRUNE_AT)

    def reset_expired(self, expiry: Expiry) -> list[int]:
        """Reset the groups that are too old by now, of those that were handed over; returns
        their sequences."""
        expired = []
        for group in tuple(self._prune()):
            if not expiry.is_expired(group.sequence, group.first_us):
                continue
            self._handed_over.remove(group)
            if group.stream.unsent:
                group.stream.reset(StreamCode.OLD)
                expired.append(group.sequence)
        return expired

    def catch_up(self) -> None:
        """The subscription has reached the live edge: when all it was sent is on its way, what
        follows goes before what others catch up with."""
        self._caught_up = True

    def fall_behind(self) -> None:
        """The subscription needs history."""
        self._caught_up = self._live = False

    def set_request(self, request: int, under_way: Iterable[SendStream]) -> None:
        """Change the priority of the request; ``under_way`` are its streams that have not been
        handed over."""
        if request != self._request:
            self._request = request
            handed_over = [group.stream for group in self._handed_over]
            for stream in (*handed_over, *under_way):
                stream.set_priority(self._priority)

    def _prune(self) -> deque[_HandedOver]:
        """Forget what was sent."""
        groups = self._handed_over
        while groups and not groups[0].stream.unsent:
            groups.popleft()
        return groups

    @property
    def _priority(self) -> int:
        return stream_priority(self._request, live=self._live)
