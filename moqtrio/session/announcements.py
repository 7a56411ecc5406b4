"""Follows what a peer announces: the subscriber's side of an announce stream."""

from __future__ import annotations

from collections import deque

import trio

from ..errors import DecodeError, RequestError, StreamCode, StreamReset, describe_stream_code
from ..model import Announcement, join
from ..wire.lite import Announce, AnnounceOk
from .control import ControlStream

MAX_ANNOUNCED = 65536
"""Broadcasts a peer may have announced at once on one stream."""


class Announcements(trio.abc.ReceiveChannel[Announcement]):
    """Broadcasts of the peer, as they come and go. Made by ``Session.announced``.

    Those there are come first (:attr:`initial` of them). One that is replaced by another
    of the same path ends and becomes active again.

    ``receive`` raises RequestError where the peer ends the stream, SessionClosed when the
    session is over and DecodeError for what is not moq-lite. Cancelling it loses nothing.
    """

    def __init__(self, control: ControlStream, prefix: str, hello: AnnounceOk) -> None:
        self._control = control
        self._prefix = prefix
        self._hop_id = hello.hop_id
        self._active: dict[str, Announcement] = {}
        self._ready: deque[Announcement] = deque()
        self.initial: int = hello.active_count

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
            try:
                message = await self._control.read_announce()
            except StreamReset as error:
                raise RequestError(
                    f"the peer ended its announcements: {describe_stream_code(error.code)}",
                    code=error.code,
                ) from None
            except DecodeError:
                self._control.reset(StreamCode.MALFORMED)
                raise
            if message is None:
                raise trio.EndOfChannel
            self._apply(message)
        return self._ready.popleft()

    def _apply(self, message: Announce) -> None:
        path = join(self._prefix, message.suffix)
        known = self._active.pop(path, None)
        if known is not None:
            self._ready.append(Announcement(path, active=False, hops=known.hops))
        if not message.active:
            return
        if len(self._active) >= MAX_ANNOUNCED:
            self._control.reset(StreamCode.NO_CAPACITY)
            raise DecodeError(f"the peer announced more than {MAX_ANNOUNCED} broadcasts")
        # The announcer is not in the list: it has named itself at the start of the stream.
        hops = message.hops + ((self._hop_id,) if self._hop_id else ())
        self._active[path] = Announcement(path, active=True, hops=hops)
        self._ready.append(self._active[path])

    async def aclose(self) -> None:
        """Stop following. Cancelling it changes nothing."""
        self._control.finish()
        await trio.lowlevel.checkpoint()
