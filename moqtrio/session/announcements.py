"""Follows what a peer announces: the subscriber's side of an announce stream."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import attrs
import trio

from ..errors import (
    DecodeError,
    RequestError,
    SessionClosed,
    StreamCode,
    StreamReset,
    describe_stream_code,
)
from ..model import Announcement, join, strip_prefix
from ..wire.lite import Announce, AnnounceOk, AnnounceStatus
from .control import ControlStream

MAX_ANNOUNCED = 65536
"""Broadcasts a peer may have announced at once on one stream."""

MAX_ANNOUNCED_CHARACTERS = 4 * 2**20
"""How long their paths may be, taken together."""

_LARGEST_COST = 2**62 - 1
_NAMED = 5


async def read_hello(control: ControlStream) -> AnnounceOk | None:
    """What comes before the announcements; None where the version has nothing there."""
    if not AnnounceOk.exists_in(control.version):
        return None
    return await control.require(AnnounceOk)


class Announcements(trio.abc.ReceiveChannel[Announcement]):
    """Broadcasts of the peer, as they come and go. Made by ``Session.announced``.

    Those there are come first (:attr:`initial` of them). One that is replaced by another of
    the same path ends and becomes active again; one that only comes by another way now is
    active once more. When the session or the stream ends, all of them end first.

    ``receive`` raises RequestError where the peer ends the stream with an error, SessionClosed
    when the session is over and DecodeError for what is not moq-lite. Cancelling it loses
    nothing.
    """

    def __init__(
        self,
        control: ControlStream,
        prefix: str,
        hello: AnnounceOk | None,
        *,
        own_hop: int | None = None,
        link_cost: int = 0,
        on_gone: Callable[[str], None] = lambda path: None,
    ) -> None:
        self._control = control
        self._prefix = prefix
        self._sender = () if hello is None or not hello.hop_id else (hello.hop_id,)
        self._own_hop = own_hop
        self._link_cost = link_cost
        self._on_gone = on_gone
        self._active: dict[str, Announcement] = {}
        self._characters = 0
        self._ready: deque[Announcement] = deque()
        self._end: Exception | None = None
        self.initial: int | None = None if hello is None else hello.active_count
        """How many there were at the start; None on moq-lite-03 and -04, which do not say."""

    @property
    def active(self) -> tuple[Announcement, ...]:
        """What is available now, as far as it has been received."""
        return tuple(self._active.values())

    async def receive(self) -> Announcement:
        """The next announcement."""
        if self._ready:
            await trio.lowlevel.checkpoint()
            return self._ready.popleft()
        while not self._ready:
            if self._end is not None:
                await trio.lowlevel.checkpoint()
                raise self._end
            try:
                message = await self._control.read_announce()
            except (StreamReset, SessionClosed, DecodeError) as error:
                self._finish(_explain(error))
                if isinstance(error, DecodeError):
                    self._control.reset(StreamCode.MALFORMED)
                continue
            if message is None:
                self._finish(trio.EndOfChannel())
            else:
                self._apply(message)
        return self._ready.popleft()

    def _finish(self, reason: Exception) -> None:
        """Nothing more will be heard of what is available, so none of it is."""
        self._end = reason
        for path in tuple(self._active):
            self._remove(path)

    def _apply(self, message: Announce) -> None:
        path = join(self._prefix, message.suffix)
        hops = message.hops + self._sender
        if message.status is AnnounceStatus.ENDED or self._own_hop in hops:
            self._remove(path)  # or it was a loop, of which nobody has been told
            return
        known = self._active.get(path)
        if known is not None and not _is_same(known.hops, hops):
            self._remove(path)
        if path not in self._active:
            if not self._has_room(path):
                self._control.reset(StreamCode.NO_CAPACITY)
                self._finish(
                    DecodeError(
                        f"expected at most {MAX_ANNOUNCED} broadcasts at once, and "
                        f"{MAX_ANNOUNCED_CHARACTERS} characters in their paths"
                    )
                )
                return
            self._characters += len(path)
        cost, cold_cost = (
            min(each + self._link_cost, _LARGEST_COST) for each in (message.cost, message.cold_cost)
        )
        found = Announcement(path, True, hops, cost, cold_cost)
        self._active[path] = found
        self._ready.append(found)

    def _has_room(self, path: str) -> bool:
        if len(self._active) >= MAX_ANNOUNCED:
            return False
        return self._characters + len(path) <= MAX_ANNOUNCED_CHARACTERS

    def _remove(self, path: str) -> None:
        known = self._active.pop(path, None)
        if known is not None:
            self._characters -= len(path)
            self._ready.append(attrs.evolve(known, active=False))
            self._on_gone(path)

    async def aclose(self) -> None:
        """Stop following. Cancelling it changes nothing."""
        self._control.finish()
        await trio.lowlevel.checkpoint()


def _is_same(before: tuple[int, ...], after: tuple[int, ...]) -> bool:
    """Whether two ways lead to one broadcast: nobody but its publisher tells it apart
    ("Routing" in draft-lcurley-moq-lite)."""
    return bool(before and after) and before[0] == after[0] != 0


def _explain(error: StreamReset | SessionClosed | DecodeError) -> Exception:
    if not isinstance(error, StreamReset):
        return error
    return RequestError(
        f"the peer ended its announcements: {describe_stream_code(error.code)}", code=error.code
    )


# Waiting for one of them.


class Announcer(Protocol):
    """What waiting needs of a session."""

    def announced(self, prefix: str = "") -> AbstractAsyncContextManager[Announcements]:
        """Follow the broadcasts at or below ``prefix``."""
        ...


async def wait_announced(session: Announcer, broadcast: str, within: float) -> Announcement:
    """See :meth:`Session.wait_announced`."""
    # Its neighbours are what a name that was misspelt is to be compared with.
    neighbours = broadcast.rpartition("/")[0]
    active: tuple[Announcement, ...] = ()
    ended = False
    with trio.move_on_after(within) if within < math.inf else trio.CancelScope():
        async with session.announced(neighbours) as announcements:
            try:
                while True:
                    found = await announcements.receive()
                    active = announcements.active
                    if found.active and strip_prefix(broadcast, found.path) == "":
                        return found
            except trio.EndOfChannel:
                ended = True
    how = "the peer has ended its announcements" if ended else f"waited for {within:g} s"
    where = f"at or below {neighbours!r}" if neighbours else "by this peer"
    raise RequestError(
        f"the broadcast {broadcast!r} was not announced: {how}; announced {where}: "
        f"{_names(active)}",
        code=StreamCode.UNROUTABLE,
    )


def _names(active: tuple[Announcement, ...]) -> str:
    if not active:
        return "nothing"
    names = ", ".join(repr(each.path) for each in active[:_NAMED])
    return names if len(active) <= _NAMED else f"{names} and {len(active) - _NAMED} more"
