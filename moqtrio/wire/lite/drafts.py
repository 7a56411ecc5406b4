"""What there is in which draft of moq-lite, beside what each message says of itself."""

from __future__ import annotations

from collections.abc import Mapping

from ..versions import Version
from .announce import AnnounceRequest
from .codes import BidiStreamType
from .connection import Goaway, Probe
from .message import Message
from .subscribe import Subscribe
from .track import Fetch, Track

REQUESTS: Mapping[int, type[Message]] = {
    BidiStreamType.ANNOUNCE: AnnounceRequest,
    BidiStreamType.SUBSCRIBE: Subscribe,
    BidiStreamType.FETCH: Fetch,
    BidiStreamType.PROBE: Probe,
    BidiStreamType.GOAWAY: Goaway,
    BidiStreamType.TRACK: Track,
}
"""The message each bidirectional stream begins with; a draft has both or neither."""


def request_type(stream_type: int | None, version: Version) -> type[Message] | None:
    """What a bidirectional stream of that type begins with; None if there is no such type."""
    request = None if stream_type is None else REQUESTS.get(stream_type)
    return request if request is not None and request.exists_in(version) else None


def has_timestamps(version: Version) -> bool:
    """Whether frames carry timestamps."""
    return version.draft >= 5


def has_datagrams(version: Version) -> bool:
    """Whether a group of one frame may come in a datagram."""
    return version.draft >= 5
