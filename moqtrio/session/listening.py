"""Being a server: every binding on one port."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

import attrs
import trio

from ..errors import ConnectError, SessionCode
from ..model import Origin
from ..scope import bare_exceptions
from ..transport.connection import Connection
from ..transport.handling import Handler
from ..transport.http import HttpListener, Routes, serve_http
from ..transport.quic import QuicListener, serve_quic
from ..transport.settings import TransportSettings
from ..transport.tls import ServerTls
from ..transport.webtransport import serve_webtransport
from ..wire import OFFERED, Version
from .dialing import H3, version_of
from .goaway import GRACE, Departures
from .session import Session, SessionSettings
from .url import SessionUrl

logger: logging.Logger = logging.getLogger("moqtrio.session")

# A port that UDP has free may be taken for TCP: so many are tried where any will do.
_PORT_ATTEMPTS = 16


@attrs.frozen
class Listener:
    """A server that is listening.

    Attributes:
        url: where it can be reached, with the real port.
        port: the port, UDP's and TCP's.
        tls: its certificate, which may be renewed while it runs.
    """

    url: str
    port: int
    tls: ServerTls = attrs.field(repr=False)
    _departures: Departures = attrs.field(repr=False, eq=False, factory=Departures)

    async def go_away(self, uri: str = "", *, grace: float = GRACE) -> None:
        """End every session in good order (GOAWAY), and turn away new ones.

        Returns when the groups and answers that were under way have arrived, or after
        ``grace`` seconds; then all sessions are closed, and the server may be cancelled.

        Args:
            uri: where clients should go instead; they then have all of ``grace`` to do so.
            grace: the most seconds this takes.

        Cancelling it leaves those sessions open that still are.
        """
        await self._departures.leave(uri, grace)

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the certificate of now in hexadecimal, for clients to pin."""
        return self.tls.fingerprint


async def serve(
    origin: Origin,
    url: str,
    *,
    tls: ServerTls,
    on_session: Callable[[Session], None] | None = None,
    versions: Sequence[Version] = OFFERED,
    settings: SessionSettings | None = None,
    transport: TransportSettings | None = None,
    tcp: bool = True,
    routes: Routes | None = None,
    task_status: trio.TaskStatus[Listener] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve ``origin`` to every client, until cancelled.

    Start it with ``listener = await nursery.start(partial(serve, origin, url, tls=tls))``.

    Clients come over raw QUIC and WebTransport on the UDP port, and over WebSocket on the TCP
    port of the same number, whatever the URL's scheme.

    Args:
        origin: what clients may have. It may change at any time.
        url: ``https://HOST:PORT`` or ``moqt://HOST:PORT`` to listen on; port 0 takes a free
            one, host ``::`` or ``0.0.0.0`` every interface.
        tls: the server's certificate and key.
        on_session: called with each new session, to watch or to close it; must not block.
        versions: the protocol versions to accept.
        settings: how sessions behave.
        transport: windows, limits and timers of connections.
        tcp: whether to listen on the TCP port too: for clients whose network lets no UDP
            through, for the certificate's fingerprint, and for ``routes``.
        routes: what else there is to get over HTTP, by path.
        task_status: gets the :class:`Listener`.

    Raises:
        ConnectError: the address cannot be listened on.
        ValueError: the URL cannot be used.

    One client's trouble ends that client's session, with a line in the log. When cancelled
    it closes every session and then the sockets.
    """
    departures = Departures()
    server = _Server(
        url=SessionUrl.parse_to_listen(url),
        handle=partial(_serve_session, origin, settings, on_session, departures),
        departures=departures,
        protocols=[version.alpn for version in versions],
        tls=tls,
        settings=TransportSettings() if transport is None else transport,
        tcp=tcp,
        routes=routes,
    )
    with bare_exceptions():
        for attempt in range(_PORT_ATTEMPTS):
            final = attempt == _PORT_ATTEMPTS - 1 or server.url.port != 0
            await server.run(task_status, final=final)


async def _serve_session(
    origin: Origin,
    settings: SessionSettings | None,
    on_session: Callable[[Session], None] | None,
    departures: Departures,
    connection: Connection,
) -> None:
    session = Session(connection, version_of(connection), publish=origin, settings=settings)
    logger.info("%s: connected, %s", connection.remote_address, session.version)
    with departures.joined(session.departure) as is_welcome:
        if not is_welcome:
            session.close(SessionCode.NO_ERROR, "the server is going away")
            return
        if on_session is not None:
            on_session(session)
        await session.run()
    logger.info("%s: %s", connection.remote_address, connection.closed or "gone")


@attrs.frozen(kw_only=True)
class _Server:
    """All that listens on one port."""

    url: SessionUrl
    handle: Handler
    departures: Departures
    protocols: Sequence[str]
    tls: ServerTls
    settings: TransportSettings
    tcp: bool
    routes: Routes | None

    async def run(self, task_status: trio.TaskStatus[Listener], *, final: bool) -> None:
        """Serve until cancelled; returns if TCP's port is taken and another can be had."""
        async with trio.open_nursery() as nursery:
            quic = await nursery.start(self._serve_quic)
            try:
                if self.tcp:
                    await nursery.start(self._serve_http, quic.port)
            except ConnectError:
                if final:
                    raise
                nursery.cancel_scope.cancel()
                return
            listening = attrs.evolve(self.url, port=quic.port)
            task_status.started(Listener(str(listening), quic.port, self.tls, self.departures))

    async def _serve_quic(
        self, task_status: trio.TaskStatus[QuicListener] = trio.TASK_STATUS_IGNORED
    ) -> None:
        await serve_quic(
            self._handle_quic,
            self.url.host,
            self.url.port,
            alpn=[*self.protocols, H3],
            tls=self.tls,
            settings=self.settings,
            task_status=task_status,
        )

    async def _serve_http(
        self, port: int, task_status: trio.TaskStatus[HttpListener] = trio.TASK_STATUS_IGNORED
    ) -> None:
        await serve_http(
            self.handle,
            self.url.host,
            port,
            protocols=self.protocols,
            routes=self.routes,
            tls=self.tls,
            settings=self.settings,
            task_status=task_status,
        )

    async def _handle_quic(self, connection: Connection) -> None:
        if connection.alpn == H3:
            await serve_webtransport(connection, self.handle, protocols=self.protocols)
        else:
            await self.handle(connection)
