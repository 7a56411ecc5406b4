"""Which streams of a connection go first when not everything can be sent at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from ..model import TrackInfo
from ..transport.connection import Connection, SendStream


def request_priority(subscriber: int, info: TrackInfo) -> int:
    """How much a request is wanted: the subscriber's priority decides, the publisher's among
    equals. Both 0 to 255, higher is first."""
    return subscriber * 256 + info.priority


def stream_priority(request: int, *, live: bool) -> int:
    """The priority of one stream: who follows the live edge goes before who catches up, if
    both are wanted as much."""
    return request * 2 + live


class StreamPriorities:
    """Opens the group streams of one subscription, all of one priority.

    They go in the order of their groups. Were the latest to overtake those before it, they
    could fill the window of a subscriber that reads in order.
    """

    def __init__(self, connection: Connection, request: int) -> None:
        self._connection = connection
        self._request = request
        self._live = False
        self._handed_over: deque[SendStream] = deque()

    def open_stream(self) -> SendStream:
        """Open a stream. Raises trio.WouldBlock."""
        stream = self._connection.open_uni_nowait()
        stream.set_priority(self._priority)
        return stream

    def handed_over(self, stream: SendStream) -> None:
        """The transport has all of a stream, and may not have sent it yet."""
        streams = self._handed_over
        while streams and not streams[0].unsent:
            streams.popleft()
        if stream.unsent:
            streams.append(stream)

    def set_live(self, live: bool, under_way: Callable[[], Iterable[SendStream]]) -> None:
        """Whether the subscription has caught up; ``under_way`` says which of its streams have not
        been handed over."""
        if live != self._live:
            self._live = live
            self._apply(under_way)

    def set_request(self, request: int, under_way: Callable[[], Iterable[SendStream]]) -> None:
        """Change the priority of the request."""
        if request != self._request:
            self._request = request
            self._apply(under_way)

    @property
    def _priority(self) -> int:
        return stream_priority(self._request, live=self._live)

    def _apply(self, under_way: Callable[[], Iterable[SendStream]]) -> None:
        for stream in (*self._handed_over, *under_way()):
            stream.set_priority(self._priority)
