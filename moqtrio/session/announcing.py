"""Tells a peer of an origin's broadcasts: the publisher's side of an announce stream."""

from __future__ import annotations

import trio

from ..model import Announcement, Origin, strip_prefix
from ..scope import open_scope
from ..wire import lite
from ..wire.lite import AnnounceStatus
from .control import ControlStream


async def serve_announcements(
    control: ControlStream, origin: Origin, request: lite.AnnounceRequest, peer_hop: int | None
) -> None:
    """Tell what there is, then what changes, until the peer ends the stream.

    Args:
        control: the announce stream.
        origin: whose broadcasts.
        request: which of them the peer asked for.
        peer_hop: the peer's own hop id, if it has told one.
    """
    excluded = {hop for hop in (request.exclude_hop, peer_hop) if hop}
    teller = _Teller(control, origin, request.prefix, excluded)
    async with open_scope() as nursery:
        nursery.start_soon(_cancel_when_over, control, nursery.cancel_scope)
        await teller.run()
    control.finish()


class _Teller:
    """What one peer is told, and what it has been told."""

    def __init__(
        self, control: ControlStream, origin: Origin, prefix: str, excluded: set[int]
    ) -> None:
        self._control = control
        self._origin = origin
        self._prefix = prefix
        self._excluded = excluded
        self._encoder = lite.AnnounceEncoder(control.version, origin.hop_id)
        self._told: set[str] = set()

    async def run(self) -> None:
        async with self._origin.announced(self._prefix) as announcements:
            initial = []
            while True:
                try:
                    initial.append(self._encode(announcements.receive_nowait()))
                except trio.WouldBlock:
                    break
            # What is left out is not there to be counted.
            hello = self._encoder.encode_ok(len(self._told))
            await self._control.send.send_all(hello + b"".join(initial))
            async for found in announcements:
                message = self._encode(found)
                if message:
                    await self._control.send.send_all(message)

    def _encode(self, found: Announcement) -> bytes:
        """What to send for an announcement; nothing where the peer is not to know of it."""
        suffix = strip_prefix(found.path, self._prefix)
        assert suffix is not None
        if found.active and self._is_wanted(found):
            known = suffix in self._told
            status = AnnounceStatus.RESTART if known else AnnounceStatus.ACTIVE
            self._told.add(suffix)
        elif suffix in self._told:
            status = AnnounceStatus.ENDED
            self._told.discard(suffix)
        else:
            return b""
        return self._encoder.encode(
            lite.Announce(status, suffix, found.hops, found.cost, found.cold_cost)
        )

    def _is_wanted(self, found: Announcement) -> bool:
        """Not through whom it came (that would be a loop), nor what has come too far."""
        path = {*found.hops, self._origin.hop_id}
        return not path & self._excluded and len(found.hops) < lite.MAX_HOPS


async def _cancel_when_over(control: ControlStream, scope: trio.CancelScope) -> None:
    """Cancel ``scope`` when the peer ends its half, in whatever way."""
    try:
        while await control.receive.receive_some():
            pass
    except trio.BrokenResourceError:
        pass
    scope.cancel()
