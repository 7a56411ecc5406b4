"""The streams of one subscription: which of them go first, and what becomes of them when the
transport has all of a group and has not sent it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

from ..errors import StreamCode
from ..replay import Expiry
from ..transport.connection import Connection, SendStream
from ..transport.newest_first import NewestFirst
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
    could fill the window of a subscriber that reads in order. One that does not is sent its
    newest group first, once it has reached the live edge.

    Args:
        connection: where they go.
        request: how much they are wanted; see ``priorities``.
        ordered: whether older groups go first.
    """

    def __init__(self, connection: Connection, request: int, *, ordered: bool) -> None:
        self._connection = connection
        self._request = request
        self._ordered = ordered
        self._rivals: NewestFirst[Any] = NewestFirst()
        self._live = False
        self._caught_up = False
        self._handed_over: deque[_HandedOver] = deque()
        self._prune_at = _PRUNE_AT

    def open_stream(self, sequence: int) -> SendStream:
        """Open a group's stream. Raises trio.WouldBlock."""
        if self._caught_up and not self._live and not self._prune():
            self._live = True
        stream = self._connection.open_uni_nowait()
        stream.set_priority(self._priority)
        if self._caught_up and not self._ordered:
            stream.share_places(self._rivals, sequence)
        return stream

    def handed_over(self, sender: GroupSender) -> None:
        """The transport has all of a group, and may not have sent it yet."""
        assert sender.stream is not None
        groups = self._handed_over
        groups.append(_HandedOver(sender.sequence, sender.first_us, sender.stream))
        if len(groups) >= self._prune_at:
            self._prune()
            self._prune_at = max(2 * len(groups), _PRUNE_AT)

    async def wait_arrived(self) -> None:
        """Wait until all that was handed over has arrived, or nobody wants it any more.

        The end of the subscribe stream would overtake it, and who has read that waits for
        what is missing only so long.
        """
        for group in tuple(self._handed_over):
            await group.stream.wait_stopped()

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

    @property
    def is_caught_up(self) -> bool:
        """Whether what comes next is live."""
        return self._caught_up

    def catch_up(self) -> None:
        """The subscription has reached the live edge: when all it was sent is on its way, what
        follows goes before what others catch up with."""
        self._caught_up = True

    def fall_behind(self) -> None:
        """The subscription needs history."""
        self._caught_up = self._live = False

    def set_request(self, request: int, ordered: bool, under_way: Iterable[SendStream]) -> None:
        """Change how the groups are wanted; ``under_way`` are their streams that have not been
        handed over. Newest first begins with the next group."""
        in_order = ordered and not self._ordered
        self._ordered = ordered
        if request == self._request and not in_order:
            return
        self._request = request
        handed_over = [group.stream for group in self._handed_over]
        for stream in (*handed_over, *under_way):
            stream.set_priority(self._priority)
            if in_order:
                stream.share_places(None, 0)

    def _prune(self) -> deque[_HandedOver]:
        """Forget what was sent."""
        groups = self._handed_over
        while groups and not groups[0].stream.unsent:
            groups.popleft()
        return groups

    @property
    def _priority(self) -> int:
        return stream_priority(self._request, live=self._live)
