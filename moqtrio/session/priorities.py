"""Which streams of a connection go first when not everything can be sent at once."""

from __future__ import annotations

from ..model import TrackInfo


def request_priority(subscriber: int, info: TrackInfo) -> int:
    """How much a request is wanted: the subscriber's priority decides, the publisher's among
    equals. Both 0 to 255, higher is first."""
    return subscriber * 256 + info.priority


def stream_priority(request: int, *, live: bool) -> int:
    """The priority of one stream: who follows the live edge goes before who catches up, if
    both are wanted as much."""
    return request * 2 + live
