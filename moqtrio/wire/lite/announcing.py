"""The announcements of one stream, one after another.

Up to draft 05 each names its broadcast. Since draft 06 the first for a broadcast gives it a
number, one more than the last, and those that follow refer to that: the two ends of a stream
count alike.
"""

from __future__ import annotations

from ...errors import DecodeError
from ..versions import Version
from .announce import Announce, AnnounceEnd, AnnounceOk, AnnounceStart, AnnounceUpdate
from .codes import UNKNOWN_HOP, AnnounceStatus

DEFAULT_MAX_ANNOUNCED = 65536
_MAX_CHARACTERS = 4 * 2**20

NumberedAnnounce = AnnounceStart | AnnounceEnd | AnnounceUpdate

NUMBERED_ANNOUNCES: tuple[type[NumberedAnnounce], ...] = (
    AnnounceStart,
    AnnounceEnd,
    AnnounceUpdate,
)
"""What may follow ANNOUNCE_OK on an announce stream since draft 06."""


class AnnounceEncoder:
    """What the answering side of one announce stream sends.

    Args:
        version: the session's.
        hop_id: this endpoint's own hop id, if it tells one.
    """

    __slots__ = ("_hop_id", "_ids", "_started", "_version")

    def __init__(self, version: Version, hop_id: int = UNKNOWN_HOP) -> None:
        self._version = version
        self._hop_id = hop_id
        self._ids: dict[str, int] = {}
        self._started = 0

    def encode_ok(self, active_count: int) -> bytes:
        """What goes before the announcements, of which ``active_count`` follow at once.

        Nothing before draft 05. Raises ValueError as :meth:`Message.encode` does.
        """
        if not AnnounceOk.exists_in(self._version):
            return b""
        return AnnounceOk(self._hop_id, active_count).encode(self._version)

    def encode(self, announce: Announce) -> bytes:
        """One announcement; ``hops`` without this endpoint's own.

        Raises:
            ValueError: as :meth:`Message.encode` does, and for the end or the replacement
                of a broadcast that is not announced, or the start of one that is.
        """
        draft = self._version.draft
        if draft < 5:
            return self._encode_with_sender(announce)
        if draft < 6:
            return announce.encode(self._version)
        message = self._number(announce)
        encoded = message.encode(self._version)
        if isinstance(message, AnnounceStart):
            self._ids[announce.suffix] = self._started
            self._started += 1
        elif isinstance(message, AnnounceEnd):
            del self._ids[announce.suffix]
        return encoded

    def _encode_with_sender(self, announce: Announce) -> bytes:
        """The sender is in the list, and what was replaced has ended and started again."""
        suffix = announce.suffix
        hops = (*announce.hops, self._hop_id) if self._hop_id else announce.hops
        active = Announce(AnnounceStatus.ACTIVE, suffix, hops).encode(self._version)
        if announce.status is AnnounceStatus.ACTIVE:
            return active
        ended = Announce(AnnounceStatus.ENDED, suffix, hops).encode(self._version)
        return ended + active if announce.status is AnnounceStatus.RESTART else ended

    def _number(self, announce: Announce) -> NumberedAnnounce:
        suffix = announce.suffix
        announce_id = self._ids.get(suffix)
        if announce.status is AnnounceStatus.ACTIVE:
            if announce_id is not None:
                raise ValueError(f"expected a broadcast that is not announced, got {suffix!r}")
            return AnnounceStart(suffix, announce.hops, announce.cost, announce.cold_cost)
        if announce_id is None:
            raise ValueError(f"expected a broadcast that is announced, got {suffix!r}")
        if announce.status is AnnounceStatus.ENDED:
            return AnnounceEnd(announce_id)
        return AnnounceUpdate(announce_id, announce.hops, announce.cost, announce.cold_cost)


class AnnounceNumbers:
    """Which broadcast each number of one announce stream is, on the side that reads it.

    Args:
        max_announced: more broadcasts than these at once are an error; so are more than
            four million characters in their names.
    """

    __slots__ = ("_active", "_characters", "_max_announced", "_started", "_suffixes")

    def __init__(self, max_announced: int = DEFAULT_MAX_ANNOUNCED) -> None:
        self._max_announced = max_announced
        self._suffixes: dict[int, str] = {}
        self._active: set[str] = set()
        self._characters = 0
        self._started = 0

    def resolve(self, message: NumberedAnnounce) -> Announce:
        """What ``message`` says of which broadcast.

        Raises:
            DecodeError: if it is about a broadcast that is not announced, starts one that
                is, or is one too many.
        """
        if isinstance(message, AnnounceStart):
            self._start(message.suffix)
            return _announce(AnnounceStatus.ACTIVE, message.suffix, message)
        announce_id = message.announce_id
        suffix = self._suffixes.get(announce_id)
        if suffix is None:
            problem = "has ended" if announce_id < self._started else "has not been assigned"
            raise DecodeError(
                f"expected the id of an announced broadcast, got {announce_id}, which {problem}"
            )
        if isinstance(message, AnnounceUpdate):
            return _announce(AnnounceStatus.RESTART, suffix, message)
        del self._suffixes[announce_id]
        self._active.discard(suffix)
        self._characters -= len(suffix)
        return Announce(AnnounceStatus.ENDED, suffix)

    def _start(self, suffix: str) -> None:
        if suffix in self._active:
            raise DecodeError(f"expected a broadcast that is not announced yet, got {suffix!r}")
        if len(self._suffixes) >= self._max_announced:
            raise DecodeError(
                f"expected at most {self._max_announced} broadcasts at once, got one more"
            )
        if self._characters + len(suffix) > _MAX_CHARACTERS:
            raise DecodeError(
                f"expected at most {_MAX_CHARACTERS} characters in the names of all broadcasts, "
                f"got {self._characters} and {len(suffix)} more"
            )
        self._characters += len(suffix)
        self._suffixes[self._started] = suffix
        self._active.add(suffix)
        self._started += 1


def _announce(
    status: AnnounceStatus, suffix: str, route: AnnounceStart | AnnounceUpdate
) -> Announce:
    return Announce(status, suffix, route.hops, route.cost, route.cold_cost)
