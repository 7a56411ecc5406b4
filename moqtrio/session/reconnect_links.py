"""The connections of a session that reconnects: which one is up, and who still needs an old one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from ..errors import EpochChanged, RequestError, SessionClosed, StreamCode
from .session import Session

ENDING = (StreamCode.SESSION_CLOSED, StreamCode.GOING_AWAY)
"""What a publisher says of its requests when it is about to close the session."""

_CLOSES_WITHIN = 1.0
"""Seconds within which a publisher that says so does close."""


class News:
    """Tells any number of tasks that something has changed."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = trio.Event()

    def tell(self) -> None:
        """Wake everybody who waits."""
        self._event.set()
        self._event = trio.Event()

    async def wait(self) -> None:
        """Wait for the next change. Look at what has changed without a checkpoint between."""
        await self._event.wait()


class Link:
    """One of the connections.

    Attributes:
        session: the session on it.
        number: how many there were before it.
        superseded: set when a newer one has taken over while this one still works.
    """

    def __init__(self, session: Session, number: int) -> None:
        self.session: Session = session
        self.number: int = number
        self.superseded: trio.Event = trio.Event()
        self._holders = 0
        self._news = News()

    @property
    def is_open(self) -> bool:
        """Whether its session is not over."""
        return self.session.closed is None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Ask for the link to be kept while in the block, as long as that is bearable."""
        self._holders += 1
        try:
            yield
        finally:
            self._holders -= 1
            self._news.tell()

    async def wait_unused(self) -> None:
        """Wait until another link has taken over and nobody holds this one any more."""
        await self.superseded.wait()
        while self._holders:
            await self._news.wait()


class Links:
    """Which connection is up.

    Attributes:
        latest: the newest connection, up or not; None before the first.
        failure: why there will be no other, once that is so.
    """

    def __init__(self) -> None:
        self.latest: Link | None = None
        self.failure: SessionClosed | None = None
        self._count = 0
        self._news = News()

    @property
    def is_up(self) -> bool:
        """Whether there is a connection now."""
        return self.failure is None and self.latest is not None and self.latest.is_open

    def add(self, session: Session) -> Link:
        """A connection is up; from now on it is the one."""
        previous = self.latest
        self.latest = Link(session, self._count)
        self._count += 1
        if previous is not None:
            previous.superseded.set()
        self._news.tell()
        return self.latest

    def fail(self, error: SessionClosed) -> None:
        """There will be no other connection. The first call counts."""
        if self.failure is None:
            self.failure = error
        self._news.tell()

    async def get(self, *, after: int = -1) -> Link:
        """The connection that is up and came after number ``after``; waits for one.

        Raises SessionClosed once there will be none. Cancelling it changes nothing.
        """
        while True:
            if self.failure is not None:
                raise again(self.failure)
            link = self.latest
            if link is not None and link.number > after and link.is_open:
                return link
            await self._news.wait()

    async def wait_failed(self) -> SessionClosed:
        """Wait until there will be no other connection; returns why."""
        while self.failure is None:
            await self._news.wait()
        return self.failure


def again(error: Exception) -> Exception:
    """The same error, to be raised in one more task: raising one object in many mixes their
    tracebacks."""
    fresh: Exception
    if isinstance(error, SessionClosed):
        fresh = SessionClosed(error.reason, code=error.code, remote=error.remote)
    elif isinstance(error, EpochChanged):
        fresh = EpochChanged(str(error), previous=error.previous, current=error.current)
    elif isinstance(error, RequestError):
        fresh = RequestError(str(error), code=error.code)
    else:
        return error
    fresh.__cause__ = error.__cause__
    return fresh


async def is_ending(session: Session, error: RequestError) -> bool:
    """Whether a request was refused because its session ends: then it belongs to the next."""
    if error.code not in ENDING:
        return False
    if session.going_away is None:
        with trio.move_on_after(_CLOSES_WITHIN):
            await session.wait_closed()
            return True
    return session.going_away is not None
