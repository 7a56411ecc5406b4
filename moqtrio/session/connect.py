"""Sessions with a server: connecting to its URL."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import overload

from ..backoff import Backoff
from ..model import Origin
from ..transport.settings import TransportSettings
from ..transport.tls import ClientTls
from ..wire import OFFERED, Version
from .dialing import open_connection, version_of
from .goaway import AcceptRedirect, is_same_host
from .reconnect import ReconnectingSession, open_reconnecting
from .session import Session, SessionSettings, open_session_over
from .url import SessionUrl


@overload
def open_session(
    url: str,
    *,
    publish: Origin | None = None,
    tls: ClientTls | None = None,
    versions: Sequence[Version] = OFFERED,
    settings: SessionSettings | None = None,
    transport: TransportSettings | None = None,
    reconnect: None = None,
) -> AbstractAsyncContextManager[Session]: ...


@overload
def open_session(
    url: str,
    *,
    publish: Origin | None = None,
    tls: ClientTls | None = None,
    versions: Sequence[Version] = OFFERED,
    settings: SessionSettings | None = None,
    transport: TransportSettings | None = None,
    reconnect: Backoff,
    accept_redirect: AcceptRedirect = is_same_host,
) -> AbstractAsyncContextManager[ReconnectingSession]: ...


@overload
def open_session(
    url: str,
    *,
    publish: Origin | None = None,
    tls: ClientTls | None = None,
    versions: Sequence[Version] = OFFERED,
    settings: SessionSettings | None = None,
    transport: TransportSettings | None = None,
    reconnect: Backoff | None,
    accept_redirect: AcceptRedirect = is_same_host,
) -> AbstractAsyncContextManager[Session | ReconnectingSession]: ...


def open_session(
    url: str,
    *,
    publish: Origin | None = None,
    tls: ClientTls | None = None,
    versions: Sequence[Version] = OFFERED,
    settings: SessionSettings | None = None,
    transport: TransportSettings | None = None,
    reconnect: Backoff | None = None,
    accept_redirect: AcceptRedirect = is_same_host,
) -> AbstractAsyncContextManager[Session | ReconnectingSession]:
    """Connect to a server (or a relay) and use the session within the block.

    Args:
        url: ``https://HOST:PORT/PATH`` for WebTransport, or WebSocket where that does not get
            through; ``moqt://`` for raw QUIC, ``ws://`` and ``wss://`` for WebSocket alone.
            ``http://`` is for development: see ``tls``.
        publish: what to offer the peer; a relay offers it to others.
        tls: how to know the server; by default its certificate must be valid for the
            host and issued by an authority certifi lists. For ``http://`` the default is
            the fingerprint the server tells without encryption.
        versions: the protocol versions to offer, the preferred first.
        settings: how the session behaves.
        transport: windows, limits and timers of the connection.
        reconnect: connect again when the connection is lost, after delays like this; what
            the block gets is then a :class:`~moqtrio.ReconnectingSession`. The first time is
            tried once all the same: a wrong URL is told at once.
        accept_redirect: with ``reconnect``, where the server may send this client (GOAWAY);
            by default to its own host, whatever the port and path.

    Raises:
        ConnectError: there is no such host, nobody answers, the certificate does not hold,
            or there is no version in common. It says which.
        ValueError: the URL cannot be used.

    Leaving the block closes the session; an exception of the block's own comes out as it
    is. Cancelling closes the session too.
    """
    dial = partial(
        connect,
        publish=publish,
        tls=tls,
        versions=versions,
        settings=settings,
        transport=transport,
    )
    if reconnect is None:
        return dial(url)
    return open_reconnecting(url, dial, reconnect, accept_redirect=accept_redirect)


@asynccontextmanager
async def connect(
    url: str,
    *,
    publish: Origin | None,
    tls: ClientTls | None,
    versions: Sequence[Version],
    settings: SessionSettings | None,
    transport: TransportSettings | None,
) -> AsyncGenerator[Session, None]:
    """One connection; see :func:`open_session`."""
    where = SessionUrl.parse_to_connect(url)
    async with (
        open_connection(
            where,
            protocols=[version.alpn for version in versions],
            tls=tls,
            settings=TransportSettings() if transport is None else transport,
        ) as connection,
        open_session_over(
            connection,
            version_of(connection),
            publish=publish,
            path=where.path,
            settings=settings,
        ) as session,
    ):
        yield session
