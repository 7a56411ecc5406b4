"""What one peer may ask of a session, and what becomes of one that asks for more."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import attrs
import trio

from ..errors import RequestError, SessionCode, StreamCode
from ..transport.connection import Connection
from ..wire import lite

logger: logging.Logger = logging.getLogger("moqtrio.session")


def _count(default: int) -> int:
    field: int = attrs.field(default=default, validator=attrs.validators.ge(0))
    return field


@attrs.frozen(kw_only=True)
class SessionLimits:
    """How many requests of one peer are served at once. What exceeds a limit is refused with
    :attr:`~moqtrio.StreamCode.NO_CAPACITY`; the rest goes on.

    That comes on top of the transport's limit on streams (``max_streams_bidi`` and
    ``max_streams_uni`` of :class:`~moqtrio.TransportSettings`).

    Attributes:
        subscriptions: SUBSCRIBE.
        fetches: FETCH.
        track_infos: TRACK.
        announcements: ANNOUNCE_REQUEST.
        probes: PROBE.
        offences: requests beyond a limit, malformed ones and streams that do not say what they
            are for, before the session is closed; each tenth of a second one is forgiven.
    """

    subscriptions: int = _count(200)
    fetches: int = _count(64)
    track_infos: int = _count(64)
    announcements: int = _count(32)
    probes: int = _count(4)
    offences: int = _count(500)

    def most(self, request: type[lite.Message]) -> int | None:
        """How many of such requests are served at once; None for any number."""
        name = _LIMITED.get(request)
        most: int | None = None if name is None else getattr(self, name)
        return most


_LIMITED: dict[type[lite.Message], str] = {
    lite.Subscribe: "subscriptions",
    lite.Fetch: "fetches",
    lite.Track: "track_infos",
    lite.AnnounceRequest: "announcements",
    lite.Probe: "probes",
}
_FORGIVEN_PER_SECOND = 10.0


class Guard:
    """Counts what one peer asks for, and what it does wrong.

    Args:
        connection: the peer, whose session ends where it goes too far.
        limits: how far it may go.
    """

    def __init__(self, connection: Connection, limits: SessionLimits) -> None:
        self._connection = connection
        self._limits = limits
        self._served: Counter[type[lite.Message]] = Counter()
        self._offences = 0.0
        self._counted_at = -float("inf")

    @contextmanager
    def serving(self, request: type[lite.Message]) -> Iterator[None]:
        """A request is served within the block. Raises RequestError where it is one too many."""
        most = self._limits.most(request)
        if most is not None and self._served[request] >= most:
            what = f"more than {most} {_LIMITED[request].replace('_', ' ')} at once"
            self.offended(what)
            raise RequestError(f"{what} are not served", code=StreamCode.NO_CAPACITY)
        self._served[request] += 1
        try:
            yield
        finally:
            self._served[request] -= 1

    def offended(self, how: str) -> None:
        """The peer did something that an honest one does not do often: where it is too often,
        the session is closed. Never raises."""
        now = trio.current_time()
        forgiven = (now - self._counted_at) * _FORGIVEN_PER_SECOND
        self._offences = max(self._offences - forgiven, 0.0) + 1
        self._counted_at = now
        if self._offences > self._limits.offences and self._connection.closed is None:
            reason = f"too many requests that cannot be served; the last one: {how}"
            logger.warning("%s: the session ends: %s", self._connection.remote_address, reason)
            self._connection.close(SessionCode.PROTOCOL_VIOLATION, reason)
