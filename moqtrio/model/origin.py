"""An origin: the broadcasts one program offers, and who watches them come and go."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Mapping
from types import MappingProxyType

import attrs
import trio

from ..errors import ProtocolError
from .broadcast import Broadcast
from .clock import MediaClock
from .notify import Wakeup, Watchers
from .path import strip_prefix
from .route import Route


@attrs.frozen
class Announcement:
    """A broadcast became available, or ceased to be, or comes by another way now.

    Attributes:
        path: the whole path of the broadcast.
        active: whether it is available now. An active one for a path that is active already
            says that the same broadcast comes by another way now.
        hops: the identifiers of the endpoints it came through, the publisher's first; 0 is
            one that does not tell its own.
        cost: what subscribing to it here costs, in units of the deployment's choice. Of
            several ways to one broadcast the cheaper one is the better. 0 where the protocol
            version has no costs (before moq-lite-06).
        cold_cost: the same where nobody subscribes to it yet.
    """

    path: str
    active: bool
    hops: tuple[int, ...] = ()
    cost: int = 0
    cold_cost: int = 0

    @property
    def route(self) -> Route:
        """The way it comes by: what a relay says of it (:meth:`Origin.create_broadcast`)."""
        return Route(self.hops, self.cost, self.cold_cost)


class Origin:
    """The broadcasts a program publishes. Give it to :func:`moqtrio.serve`, or to
    :func:`moqtrio.open_session` to publish through a relay; any number of sessions may
    share it.

    Attributes:
        hop_id: a random number that identifies this origin in announcements, so that
            relays can see loops.
        clock: stamps the frames of its tracks.
    """

    def __init__(self, *, clock: MediaClock | None = None) -> None:
        self.hop_id: int = secrets.randbelow(2**62 - 1) + 1
        self.clock: MediaClock = MediaClock() if clock is None else clock
        self._broadcasts: dict[str, Broadcast] = {}
        self._watchers = Watchers()

    @property
    def broadcasts(self) -> Mapping[str, Broadcast]:
        """The broadcasts by path (a live view)."""
        return MappingProxyType(self._broadcasts)

    def create_broadcast(self, path: str, *, route: Route | None = None) -> Broadcast:
        """Create a broadcast and announce it.

        Args:
            path: its name, segments with slashes between them.
            route: the way it came by, where it is somebody else's and this is a relay; None
                for one of our own. Peers that are on that way are not told of it.

        Raises ProtocolError where there is one with that path, ValueError where one of the
        path's segments is empty: below a prefix, ``"room/"`` could not be told from ``"room"``.
        """
        if path and not all(path.split("/")):
            raise ValueError(f"the broadcast path {path!r} has an empty segment")
        if path in self._broadcasts:
            raise ProtocolError(f"there already is a broadcast {path!r}")
        broadcast = Broadcast(
            path,
            self.clock,
            self._remove,
            route=Route() if route is None else route,
            on_reroute=self._watchers.notify,
        )
        self._broadcasts[path] = broadcast
        self._watchers.notify()
        return broadcast

    def _remove(self, broadcast: Broadcast) -> None:
        del self._broadcasts[broadcast.path]
        self._watchers.notify()

    def announced(self, prefix: str = "") -> OriginAnnouncements:
        """Follow the broadcasts at or below ``prefix``, those there now first.

        Close it (``async with``) when done.
        """
        return OriginAnnouncements(self, prefix)


class OriginAnnouncements(trio.abc.ReceiveChannel[Announcement]):
    """Announcements of one origin.

    Nothing is queued: what to tell is worked out from what was told and what is true
    now, so a reader that is slow costs no memory, and one that looks late is not told of
    a broadcast that came and went meanwhile.
    """

    def __init__(self, origin: Origin, prefix: str) -> None:
        self._origin = origin
        self._prefix = prefix
        self._told: dict[str, tuple[Broadcast, Route]] = {}
        self._ready: deque[Announcement] = deque()
        self._wakeup = Wakeup()
        self._remove = origin._watchers.add(self._wakeup.set)
        self._closed = False

    def receive_nowait(self) -> Announcement:
        """The next announcement, or :exc:`trio.WouldBlock` where nothing has changed."""
        if self._closed:
            raise trio.ClosedResourceError
        if not self._ready:
            self._compare()
        if not self._ready:
            raise trio.WouldBlock
        return self._ready.popleft()

    async def receive(self) -> Announcement:
        """The next announcement. Cancelling it loses nothing."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            try:
                announcement = self.receive_nowait()
            except trio.WouldBlock:
                await self._wakeup.wait()
            else:
                await trio.lowlevel.cancel_shielded_checkpoint()
                return announcement

    def _compare(self) -> None:
        current = {
            path: (broadcast, broadcast.route)
            for path, broadcast in self._origin.broadcasts.items()
            if strip_prefix(path, self._prefix) is not None
        }
        for path, (broadcast, route) in self._told.items():
            if path not in current or current[path][0] is not broadcast:
                self._ready.append(_announcement(path, False, route))
        for path, (broadcast, route) in current.items():
            if self._told.get(path) != (broadcast, route):
                self._ready.append(_announcement(path, True, route))
        self._told = current

    async def aclose(self) -> None:
        """Stop following."""
        self._closed = True
        self._remove()
        self._wakeup.set()
        await trio.lowlevel.checkpoint()


def _announcement(path: str, active: bool, route: Route) -> Announcement:
    return Announcement(path, active, route.hops, route.cost, route.cold_cost)
