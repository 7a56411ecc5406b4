"""What was asked about tracks, so that it need not be asked again."""

from __future__ import annotations

from collections import OrderedDict

from ..model import TrackInfo

MAX_TRACKS = 1024
"""How many tracks are remembered; of more, those used longest ago are forgotten."""


class TrackInfos:
    """The properties of a peer's tracks, for as long as they are sure to be true.

    They are fixed while a track lives ("Track" in draft-lcurley-moq-lite). So they are
    forgotten when the peer says that its broadcast ends or is replaced, when a subscription to
    the track ends, and when a request for it is refused or its frames make no sense.
    """

    def __init__(self, limit: int = MAX_TRACKS) -> None:
        self._limit = limit
        self._infos: OrderedDict[tuple[str, str], TrackInfo] = OrderedDict()

    def get(self, broadcast: str, track: str) -> TrackInfo | None:
        """What is known of a track."""
        info = self._infos.get((broadcast, track))
        if info is not None:
            self._infos.move_to_end((broadcast, track))
        return info

    def put(self, broadcast: str, track: str, info: TrackInfo) -> None:
        """Remember an answer."""
        self._infos[broadcast, track] = info
        self._infos.move_to_end((broadcast, track))
        if len(self._infos) > self._limit:
            self._infos.popitem(last=False)

    def forget(self, broadcast: str, track: str) -> None:
        """It may not be true any more."""
        self._infos.pop((broadcast, track), None)

    def forget_broadcast(self, broadcast: str) -> None:
        """Nor may any of the broadcast's tracks."""
        for key in [key for key in self._infos if key[0] == broadcast]:
            del self._infos[key]
