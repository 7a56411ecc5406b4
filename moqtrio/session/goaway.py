"""GOAWAY: a session that is to end, and says so first (draft-lcurley-moq-lite, "Goaway")."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs
import trio

from ..errors import RequestError, SessionClosed, SessionCode, StreamCode
from ..scope import open_scope
from ..transport.connection import Connection
from ..wire import Version, lite
from .control import ControlStream
from .url import SessionUrl

logger: logging.Logger = logging.getLogger("moqtrio.session")

LONGEST_URI = 4096
"""Bytes a GOAWAY's URI may have; whatever it is, it ends up in logs."""

GRACE = 5.0
"""Seconds the requests of a session may take to end after it was said to."""

_LOOK_AGAIN = 0.02


@attrs.frozen
class GoingAway:
    """The peer is about to end the session.

    Attributes:
        uri: where it wants to be found instead; empty for nowhere in particular. It is
            what the peer says and nothing more: see :func:`check_redirect`.
    """

    uri: str


AcceptRedirect = Callable[[str, str], bool]
"""Called with the URL the session was opened with and the one a peer sends it to; says
whether to go there."""


def is_same_host(url: str, target: str) -> bool:
    """The redirects that are followed unless told otherwise: to another port or path."""
    return SessionUrl.parse(url).host.lower() == SessionUrl.parse(target).host.lower()


def check_redirect(url: str, uri: str, accept: AcceptRedirect = is_same_host) -> str:
    """Where to go when a peer at ``url`` says to go to ``uri``.

    Raises ValueError saying why that is no place to go.
    """
    size = len(uri.encode("utf-8", "replace"))
    if size > LONGEST_URI:
        raise ValueError(f"the URI has {size} bytes, expected at most {LONGEST_URI}")
    if not uri.isprintable() or " " in uri:
        raise ValueError(f"the URI {uri!r} holds characters no URI has")
    here, there = SessionUrl.parse(url), SessionUrl.parse(uri)
    if not 0 < there.port < 65536:
        raise ValueError(f"the URI {uri!r} has no port that can be connected to")
    if here.is_encrypted and not there.is_encrypted:
        raise ValueError(f"the URI {uri!r} gives up the encryption of {here.scheme}")
    if here.binding is not there.binding:
        raise ValueError(
            f"the URI {uri!r} is of another kind: expected {here.binding.value}, "
            f"got {there.binding.value}"
        )
    target = str(there)
    if not accept(url, target):
        raise ValueError(f"going from {url} to {target} is not allowed (accept_redirect)")
    return target


class Departure:
    """Whether one of the two sides of a session is about to leave it.

    Attributes:
        peer: what the peer has said of that; None while it has said nothing.
        leaving: whether this side is: it takes no new requests, and begins no new groups.
    """

    def __init__(self, connection: Connection, version: Version) -> None:
        self.peer: GoingAway | None = None
        self.leaving: bool = False
        self._connection = connection
        self._version = version
        self._heard = trio.Event()
        self._standing = 0

    # The peer's

    async def hear(self, control: ControlStream, request: lite.Goaway) -> None:
        """The peer has sent GOAWAY. Returns when it has ended that stream too.

        Raises RequestError for a second one, and what the stream raises.
        """
        if self.peer is not None:
            raise RequestError("a second GOAWAY", code=StreamCode.CANCEL)
        self.peer = GoingAway(request.uri)
        self._heard.set()
        where = f", to {request.uri[:200]!r}" if request.uri else ""
        logger.info("%s: the peer is going away%s", self._connection.remote_address, where)
        while await control.receive.receive_some():
            pass
        control.finish()

    async def wait_heard(self) -> GoingAway:
        """Wait for the peer's GOAWAY. Raises SessionClosed where the session ends first."""
        async with open_scope() as nursery:
            nursery.start_soon(self._raise_when_closed)
            await self._heard.wait()
        assert self.peer is not None
        return self.peer

    async def _raise_when_closed(self) -> None:
        raise await self._connection.wait_closed()

    # This side's

    def check(self) -> None:
        """Raise RequestError where no new requests are taken any more."""
        if self.leaving:
            raise RequestError("this side is going away", code=StreamCode.GOING_AWAY)

    @contextmanager
    def standing(self) -> Iterator[None]:
        """A request of the peer's that does not end by itself is being answered."""
        self._standing += 1
        try:
            yield
        finally:
            self._standing -= 1

    async def leave(self, uri: str, grace: float) -> None:
        """See :meth:`moqtrio.Session.go_away`."""
        self.leaving = True
        try:
            with trio.move_on_after(grace):
                told = await self._tell(uri)
                if uri and told is not None:
                    await self._connection.wait_closed()
                while self._is_busy(told is not None):  # noqa: ASYNC110  # no event
                    await trio.sleep(_LOOK_AGAIN)
        except SessionClosed:
            return
        self._connection.close(SessionCode.NO_ERROR, "going away")

    async def _tell(self, uri: str) -> ControlStream | None:
        if self._version.draft < lite.Goaway.since:
            return None
        control = ControlStream(await self._connection.open_bidi(), self._version)
        control.send.send_nowait(bytes([lite.BidiStreamType.GOAWAY]))
        await control.send_all(lite.Goaway(uri))
        return control

    def _is_busy(self, told: bool) -> bool:
        """Whether anything is being sent, besides answers that never end."""
        if self._connection.closed is not None:
            return False
        return self._connection.statistics().streams_open > self._standing + told


class Departures:
    """The sessions of one server, which leave together."""

    def __init__(self) -> None:
        self._departures: set[Departure] = set()
        self._leaving = False

    @contextmanager
    def joined(self, departure: Departure) -> Iterator[bool]:
        """A session is served in the block; False where the server is leaving."""
        self._departures.add(departure)
        try:
            yield not self._leaving
        finally:
            self._departures.discard(departure)

    async def leave(self, uri: str, grace: float) -> None:
        """See :meth:`moqtrio.Listener.go_away`."""
        self._leaving = True
        async with trio.open_nursery() as nursery:
            for departure in tuple(self._departures):
                nursery.start_soon(departure.leave, uri, grace)
