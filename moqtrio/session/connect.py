"""Where sessions come from: connecting to a server, and being one."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import attrs
import trio

from ..errors import SessionCode
from ..model import Origin
from ..transport.connection import Connection
from ..transport.quic import open_quic, serve_quic
from ..transport.settings import TransportSettings
from ..transport.tls import ClientTls, ServerTls
from ..wire import OFFERED, Version, version_for_alpn
from .session import Session, SessionSettings, open_session_over
from .url import SessionUrl

logger: logging.Logger = logging.getLogger("moqtrio.session")


@asynccontextmanager
async def open_session(
    url: str,
    *,
    publish: Origin | None = None,
    tls: ClientTls | None = None,
    versions: Sequence[Version] = OFFERED,
    settings: SessionSettings | None = None,
    transport: TransportSettings | None = None,
) -> AsyncGenerator[Session, None]:
    """Connect to a server (or a relay) and use the session within the block.

    Args:
        url: ``moqt://HOST:PORT``.
        publish: what to offer the peer; a relay offers it to others.
        tls: how to know the server; by default its certificate must be valid for the
            host and issued by an authority certifi lists.
        versions: the protocol versions to offer, the preferred first.
        settings: how the session behaves.
        transport: windows, limits and timers of the connection.

    Raises:
        ConnectError: there is no such host, nobody answers, the certificate does not hold,
            or there is no version in common. It says which.
        ValueError: the URL cannot be used.

    Leaving the block closes the session; an exception of the block's own comes out as it
    is. Cancelling closes the session too.
    """
    where = SessionUrl.parse(url)
    async with (
        open_quic(
            where.host,
            where.port,
            alpn=[version.alpn for version in versions],
            tls=ClientTls() if tls is None else tls,
            settings=TransportSettings() if transport is None else transport,
        ) as connection,
        open_session_over(
            connection,
            _version_of(connection),
            publish=publish,
            path=where.path,
            settings=settings,
        ) as session,
    ):
        yield session


@attrs.frozen
class Listener:
    """A server that is listening.

    Attributes:
        url: where it can be reached, with the real port.
        port: the UDP port.
        fingerprint: the SHA-256 of its certificate in hexadecimal, for clients to pin.
    """

    url: str
    port: int
    fingerprint: str


async def serve(
    origin: Origin,
    url: str,
    *,
    tls: ServerTls,
    on_session: Callable[[Session], None] | None = None,
    versions: Sequence[Version] = OFFERED,
    settings: SessionSettings | None = None,
    transport: TransportSettings | None = None,
    task_status: trio.TaskStatus[Listener] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve ``origin`` to every client, until cancelled.

    Start it with ``listener = await nursery.start(partial(serve, origin, url, tls=tls))``.

    Args:
        origin: what clients may have. It may change at any time.
        url: ``moqt://HOST:PORT`` to listen on; port 0 takes a free one, host ``::`` or
            ``0.0.0.0`` every interface.
        tls: the server's certificate and key.
        on_session: called with each new session, to watch or to close it; must not block.
        versions: the protocol versions to accept.
        settings: how sessions behave.
        transport: windows, limits and timers of connections.
        task_status: gets the :class:`Listener`.

    Raises:
        OSError: the address cannot be listened on.
        ValueError: the URL cannot be used.

    One client's trouble ends that client's session, with a line in the log. When cancelled
    it closes every session and then the socket.
    """
    where = SessionUrl.parse(url)

    async def handle(connection: Connection) -> None:
        session = Session(connection, _version_of(connection), publish=origin, settings=settings)
        logger.info("%s: connected, %s", connection.remote_address, session.version)
        if on_session is not None:
            on_session(session)
        await session.run()
        end = connection.closed
        logger.info("%s: %s", connection.remote_address, end or "gone")

    async with trio.open_nursery() as nursery:
        quic = await nursery.start(
            partial(
                serve_quic,
                handle,
                where.host,
                where.port,
                alpn=[version.alpn for version in versions],
                tls=tls,
                settings=TransportSettings() if transport is None else transport,
            )
        )
        listening = attrs.evolve(where, port=quic.port)
        task_status.started(Listener(str(listening), quic.port, quic.fingerprint))


def _version_of(connection: Connection) -> Version:
    version = version_for_alpn(connection.alpn)
    if version is None:
        connection.close(SessionCode.PROTOCOL_VIOLATION, "unknown protocol version")
        raise AssertionError(f"ALPN chose {connection.alpn!r}, which was not offered")
    return version
