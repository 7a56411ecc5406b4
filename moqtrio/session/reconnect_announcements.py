"""Announcements that go on over the next connection."""

from __future__ import annotations

from collections import deque

import trio

from ..errors import RequestError, SessionClosed
from ..model import Announcement
from ..scope import open_scope
from .announcements import Announcements
from .reconnect_links import Link, Links, News, again, is_ending


class ResumingAnnouncements(trio.abc.ReceiveChannel[Announcement]):
    """Broadcasts of the peer, as they come and go. Made by ``ReconnectingSession.announced``.

    When the connection is lost every broadcast that was active ends; what the next one
    announces becomes active again.

    ``receive`` raises as that of ``Session.announced`` does; SessionClosed when there will be
    no other connection. Cancelling it loses nothing.

    Attributes:
        initial: how many there were when the first connection was asked, where it says.
    """

    def __init__(self, links: Links, prefix: str) -> None:
        self.initial: int | None = 0
        self._links = links
        self._prefix = prefix
        self._link: Link | None = None
        self._inner: Announcements | None = None
        self._active: dict[str, Announcement] = {}
        self._ready: deque[Announcement] = deque()
        self._failure: Exception | None = None
        self._closed = False
        self._receiving: trio.CancelScope | None = None
        self._news = News()
        self._scope: trio.CancelScope | None = None

    @property
    def active(self) -> tuple[Announcement, ...]:
        """What is available now, as far as it has been received."""
        return tuple(self._active.values())

    async def receive(self) -> Announcement:
        """The next announcement. While there is no connection it waits for the next one."""
        await trio.lowlevel.checkpoint()
        while not self._ready:
            if self._closed:
                raise trio.ClosedResourceError("this side follows no more")
            link, inner = self._link, self._inner
            if link is None or inner is None:
                if self._failure is not None:
                    raise again(self._failure)
                await self._news.wait()
                continue
            try:
                with trio.CancelScope() as self._receiving:
                    announcement = await inner.receive()
                    self._active.pop(announcement.path, None)
                    if announcement.active:
                        self._active[announcement.path] = announcement
                    self._ready.append(announcement)
            except SessionClosed:
                self._lose(inner)
            except RequestError as error:
                if not await is_ending(link.session, error):
                    raise
                self._lose(inner)
            finally:
                self._receiving = None
        return self._ready.popleft()

    async def aclose(self) -> None:
        """Stop following. Cancelling it changes nothing."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Stop following at once. Never blocks; idempotent."""
        self._closed = True
        if self._scope is not None:
            self._scope.cancel()
        self._news.tell()

    def _lose(self, inner: Announcements) -> None:
        if inner is not self._inner:
            return
        self._inner = None
        for announcement in self._active.values():
            self._ready.append(
                Announcement(announcement.path, active=False, hops=announcement.hops)
            )
        self._active.clear()
        self._news.tell()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Ask on each connection in turn. Says that it has started when the first peer has
        answered; raises what ``Session.announced`` does before that."""
        async with open_scope() as nursery:
            self._scope = nursery.cancel_scope
            after = -1
            try:
                while True:
                    link = await self._links.get(after=after)
                    after = link.number
                    try:
                        await nursery.start(self._follow, link)
                    except SessionClosed:
                        continue
                    nursery.cancel_scope.shield = True  # it ends with the block that uses it
                    task_status.started()
                    task_status = trio.TASK_STATUS_IGNORED
            except (SessionClosed, RequestError) as error:
                if task_status is not trio.TASK_STATUS_IGNORED:
                    raise
                self._failure = error
                self._news.tell()
            await trio.sleep_forever()  # what has arrived can still be read

    async def _follow(self, link: Link, *, task_status: trio.TaskStatus[None]) -> None:
        async with link.session.announced(self._prefix) as inner:
            if self._link is None:
                self.initial = inner.initial
            if self._inner is not None:
                self._lose(self._inner)
                if self._receiving is not None:
                    self._receiving.cancel()
            self._link, self._inner = link, inner
            self._news.tell()
            task_status.started()
            while self._inner is inner:
                await self._news.wait()
