"""A session that outlives its connections."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Literal, TypeVar

import trio

from ..backoff import Backoff, Tries
from ..errors import ConnectError, RequestError, SessionClosed, SessionCode, StreamReset
from ..model import GroupConsumer, TrackInfo
from ..scope import open_scope
from ..transport.connection import ConnectionStatistics
from .goaway import GRACE, AcceptRedirect, check_redirect, is_same_host
from .group_stream import StreamGroupConsumer
from .reconnect_announcements import ResumingAnnouncements
from .reconnect_group import ResumingGroup
from .reconnect_links import Link, Links, is_ending
from .reconnect_subscription import ResumingSubscription, Wish
from .session import Session

logger: logging.Logger = logging.getLogger("moqtrio.session")

T = TypeVar("T")

Connect = Callable[[str], AbstractAsyncContextManager[Session]]
"""Connects to a URL; raises ConnectError."""


class ReconnectingSession:
    """A peer, over one connection after the other. Made by :func:`moqtrio.open_session` with
    ``reconnect``.

    It asks as a :class:`~moqtrio.Session` does. Requests that a lost connection has left
    unanswered are asked again on the next one, and subscriptions go on where they were.
    Methods that wait raise :exc:`~moqtrio.SessionClosed` once there will be no other
    connection: closed by this side, refused by the peer for good, or not to be had within
    the time ``reconnect`` allows.
    """

    def __init__(self, links: Links, backoff: Backoff) -> None:
        self._links = links
        self._backoff = backoff
        self._scope: trio.CancelScope | None = None

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._links.is_up

    @property
    def connections(self) -> int:
        """How many connections there have been."""
        return self._latest.number + 1

    @property
    def version(self) -> str:
        """The protocol version of the latest connection, such as ``"moq-lite-05"``."""
        return self._latest.session.version

    @property
    def remote_address(self) -> str:
        """The peer's address on the latest connection."""
        return self._latest.session.remote_address

    @property
    def _latest(self) -> Link:
        link = self._links.latest
        assert link is not None, "made by open_session, once there is a connection"
        return link

    def statistics(self) -> ConnectionStatistics:
        """A snapshot of the latest connection's counters."""
        return self._latest.session.statistics()

    async def wait_connected(self, *, after: int = 0) -> int:
        """Wait until there is a connection, and there have been more than ``after`` of them.

        Returns how many there have been. Pass that the next time to wait for the next one.
        """
        return (await self._links.get(after=after - 1)).number + 1

    def close(self, code: int = SessionCode.NO_ERROR, reason: str = "") -> None:
        """End the session now, for good. Never blocks; idempotent."""
        self._links.fail(SessionClosed(reason, code=code, remote=False))
        if self._links.latest is not None:
            self._links.latest.session.close(code, reason)
        if self._scope is not None:
            self._scope.cancel()

    async def wait_closed(self) -> SessionClosed:
        """Wait until there will be no other connection; returns why."""
        return await self._links.wait_failed()

    # Asking

    @asynccontextmanager
    async def subscribe(
        self,
        broadcast: str,
        track: str,
        *,
        start: int | None = None,
        start_time: float | None = None,
        end: int | None = None,
        order: Literal["sequence", "arrival"] = "sequence",
        priority: int = 127,
        max_latency: float = math.inf,
        gap_timeout: float = 2.0,
    ) -> AsyncGenerator[ResumingSubscription, None]:
        """Follow a track, from history if asked to, over any number of connections.

        Arguments and errors are those of :meth:`moqtrio.Session.subscribe`.
        """
        if start_time is not None:
            if start is not None:
                raise ValueError("start and start_time exclude each other: give one")
            start = await self.find_time(broadcast, track, start_time)
        wish = Wish(
            broadcast=broadcast,
            track=track,
            start=start,
            end=end,
            order=order,
            priority=priority,
            max_latency=max_latency,
            gap_timeout=gap_timeout,
        )
        wish.check()
        subscription = ResumingSubscription(self._links, wish, self._backoff)
        async with open_scope() as nursery:
            await nursery.start(subscription.run)
            try:
                yield subscription
            finally:
                subscription.close()

    async def fetch(
        self, broadcast: str, track: str, sequence: int, *, priority: int = 127
    ) -> GroupConsumer:
        """Get one group of a track; see :meth:`moqtrio.Session.fetch`.

        A group that is cut off goes on over the next connection, unless it begins otherwise
        there: then reading it raises EpochChanged.
        """
        fetched = _Fetched(self, broadcast, track, sequence, priority)
        inner, link = await fetched.fetch()
        return ResumingGroup(fetched, inner, link)

    async def find_time(self, broadcast: str, track: str, when: float) -> int:
        """Ask where to start a track; see :meth:`moqtrio.Session.find_time`."""
        found, _ = await self._ask(lambda session: session.find_time(broadcast, track, when))
        return found

    async def track_info(self, broadcast: str, track: str) -> TrackInfo:
        """What the publisher has fixed about a track; see :meth:`moqtrio.Session.track_info`."""
        info, _ = await self._ask(lambda session: session.track_info(broadcast, track))
        return info

    @asynccontextmanager
    async def announced(self, prefix: str = "") -> AsyncGenerator[ResumingAnnouncements, None]:
        """Follow the peer's broadcasts at or below ``prefix``, those there now first."""
        announcements = ResumingAnnouncements(self._links, prefix)
        async with open_scope() as nursery:
            await nursery.start(announcements.run)
            try:
                yield announcements
            finally:
                announcements.close()

    async def _ask(self, ask: Callable[[Session], Awaitable[T]]) -> tuple[T, Link]:
        """Ask until there is an answer; returns also who gave it."""
        after = -1
        while True:
            link = await self._links.get(after=after)
            try:
                return await ask(link.session), link
            except SessionClosed:
                after = link.number
            except RequestError as error:
                if not await is_ending(link.session, error):
                    raise
                after = link.number


class _Fetched:
    """Where a group that was fetched comes from."""

    def __init__(
        self,
        session: ReconnectingSession,
        broadcast: str,
        track: str,
        sequence: int,
        priority: int,
    ) -> None:
        self._session = session
        self._broadcast = broadcast
        self._track = track
        self._sequence = sequence
        self._priority = priority

    async def fetch(self) -> tuple[StreamGroupConsumer, Link]:
        group, link = await self._session._ask(
            lambda session: session.fetch(
                self._broadcast, self._track, self._sequence, priority=self._priority
            )
        )
        assert isinstance(group, StreamGroupConsumer)
        return group, link

    async def reopen(self, group: ResumingGroup) -> StreamGroupConsumer:
        try:
            inner, group.link = await self.fetch()
        except RequestError as error:
            raise StreamReset(error.code) from error
        return inner

    def group_began(self, group: ResumingGroup) -> None:
        """Nothing depends on it."""

    def group_over(self, group: ResumingGroup) -> None:
        """Nothing depends on it."""


class Connector:
    """Sees to it that there is a connection.

    Args:
        url: where to connect to.
        connect: does it.
        backoff: how it is tried again.
        accept_redirect: where a peer may send this side.
        links: is told of each connection, and of the end.
    """

    def __init__(
        self,
        url: str,
        connect: Connect,
        backoff: Backoff,
        accept_redirect: AcceptRedirect,
        links: Links,
    ) -> None:
        self._url = url
        self._connect = connect
        self._tries = Tries(backoff)
        self._accept_redirect = accept_redirect
        self._links = links

    async def run(
        self, *, task_status: trio.TaskStatus[trio.CancelScope] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Connect, again and again. Says that it has started when there is a connection; that
        the first one fails is raised."""
        async with open_scope() as nursery:
            link: Link | None = await nursery.start(self._hold, self._url)
            task_status.started(nursery.cancel_scope)
            while link is not None:
                link = await self._next(nursery, link)

    async def _hold(self, url: str, *, task_status: trio.TaskStatus[Link]) -> None:
        """Keep one connection until it is lost, or another has taken over from it."""
        async with self._connect(url) as session:
            link = self._links.add(session)
            task_status.started(link)
            async with open_scope() as nursery:
                nursery.start_soon(_cancel_when_closed, session, nursery.cancel_scope)
                await link.superseded.wait()
                with trio.move_on_after(GRACE):
                    await link.wait_unused()

    async def _next(self, nursery: trio.Nursery, link: Link) -> Link | None:
        """The connection that follows ``link``; None where there is none."""
        connected_at = trio.current_time()
        target = await self._wait_redirect(link.session)
        lasted = trio.current_time() - connected_at
        self._tries.succeeded(lasting=lasted >= self._tries.backoff.maximum)
        if target is not None:
            moved = await self._move(nursery, link, target)
            if moved is not None:
                return moved
        end = await link.session.wait_closed()
        if not self._is_worth_another(end):
            self._links.fail(end)
            return None
        logger.warning("%s: connection lost (%s); trying again", self._url, end)
        return await self._reconnect(nursery, end)

    async def _wait_redirect(self, session: Session) -> str | None:
        """Wait until the peer says where to go; None where the session ends first."""
        try:
            going = await session.wait_going_away()
        except SessionClosed:
            return None
        if not going.uri:
            await session.wait_closed()
            return None
        try:
            return check_redirect(self._url, going.uri, self._accept_redirect)
        except ValueError as error:
            logger.warning(
                "%s: the peer sends us elsewhere, which is refused: %s", self._url, error
            )
            return None

    async def _move(self, nursery: trio.Nursery, link: Link, target: str) -> Link | None:
        """Connect to where the peer has said; None where that fails."""
        next_try = self._tries.failed()
        if next_try is not None and link.is_open:
            with trio.move_on_at(next_try):
                await link.session.wait_closed()
        try:
            moved: Link = await nursery.start(self._hold, target)
        except ConnectError as error:
            logger.warning("%s: cannot go to %s: %s", self._url, target, error)
            return None
        logger.warning("%s: moved to %s, as it said", self._url, target)
        return moved

    async def _reconnect(self, nursery: trio.Nursery, end: SessionClosed) -> Link | None:
        lost_at = trio.current_time()
        error: Exception = end
        while (next_try := self._tries.failed()) is not None:
            await trio.sleep_until(next_try)
            try:
                link: Link = await nursery.start(self._hold, self._url)
            except ConnectError as failure:
                error = failure
                logger.info("%s: %s", self._url, failure)
                if not failure.retryable:
                    break
            else:
                after = trio.current_time() - lost_at
                logger.warning("%s: connected again after %.1f s", self._url, after)
                return link
        logger.warning("%s: not connected again: %s", self._url, error)
        final = SessionClosed(f"the connection was lost, and: {error}", remote=False)
        final.__cause__ = error
        self._links.fail(final)
        return None

    def _is_worth_another(self, end: SessionClosed) -> bool:
        return self._links.failure is None and end.code != SessionCode.UNAUTHORIZED


async def _cancel_when_closed(session: Session, scope: trio.CancelScope) -> None:
    await session.wait_closed()
    scope.cancel()


@asynccontextmanager
async def open_reconnecting(
    url: str,
    connect: Connect,
    backoff: Backoff,
    *,
    accept_redirect: AcceptRedirect = is_same_host,
) -> AsyncGenerator[ReconnectingSession, None]:
    """Connect to ``url`` with ``connect``, and again when the connection is lost.

    Raises what the first ``connect`` does. Leaving the block closes the session; an exception
    of the block's own comes out as it is.
    """
    links = Links()
    session = ReconnectingSession(links, backoff)
    async with open_scope() as nursery:
        connector = Connector(url, connect, backoff, accept_redirect, links)
        session._scope = await nursery.start(connector.run)
        try:
            yield session
        finally:
            session.close()
