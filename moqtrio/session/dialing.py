"""Connections to URLs: which binding, and in what order they are tried."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import attrs
import trio

from ..errors import SessionCode
from ..scope import bare_exceptions
from ..transport.connection import Connection
from ..transport.happy_eyeballs import race
from ..transport.http import fetch_fingerprint, open_websocket
from ..transport.quic import open_quic
from ..transport.settings import TransportSettings
from ..transport.tls import ClientTls
from ..transport.webtransport import open_webtransport
from ..wire import Version, version_for_alpn
from .url import Binding, SessionUrl

HEAD_START = 0.2
"""Seconds WebTransport is given before WebSocket is tried beside it: UDP is better where it
gets through, and a firewall that drops it does not say so."""

H3 = "h3"
"""The ALPN of HTTP/3, under WebTransport (RFC 9114 section 3.1)."""

Opener = Callable[[], AbstractAsyncContextManager[Connection]]


@asynccontextmanager
async def open_connection(
    url: SessionUrl,
    *,
    protocols: Sequence[str],
    tls: ClientTls | None,
    settings: TransportSettings,
) -> AsyncGenerator[Connection, None]:
    """Connect as the URL's scheme says, and close the connection when the block is left.

    Args:
        url: where to.
        protocols: the protocol versions to offer, the preferred first.
        tls: how to know the server; None checks its certificate fully, or for ``http``
            takes the fingerprint the server tells. With one, ``http`` leaves out the
            WebSocket, which could not hold the server to it.
        settings: the connection's windows, limits and timers.

    Raises:
        ConnectError: no connection came about; it says why for each way that was tried.

    Cancelling it gives up every attempt.
    """
    # Whoever says how to know the server is not to end at anybody's without encryption.
    is_demanding = tls is not None and not tls.insecure
    if url.scheme == "http" and tls is None:
        tls = ClientTls(fingerprint=await fetch_fingerprint(url.host, url.port, settings=settings))
    tls = ClientTls() if tls is None else tls
    # A file that cannot be used is one failure, not one of each way besides other reasons.
    await tls.load_authorities()
    await tls.load_credentials()
    dial = Dial(url, protocols, tls, settings)
    if url.binding is Binding.QUIC:
        opened = dial.quic()
    elif url.binding is Binding.WEBSOCKET:
        opened = dial.websocket()
    elif is_demanding and not url.is_encrypted:
        opened = dial.webtransport()
    else:
        opened = first_of(dial.webtransport, dial.websocket)
    async with opened as connection:
        yield connection


@attrs.frozen
class Dial:
    """The ways to one URL."""

    url: SessionUrl
    protocols: Sequence[str]
    tls: ClientTls
    settings: TransportSettings

    def quic(self, alpn: Sequence[str] = ()) -> AbstractAsyncContextManager[Connection]:
        """Raw QUIC, speaking one of the protocols or of ``alpn`` instead."""
        return open_quic(
            self.url.host,
            self.url.port,
            alpn=alpn or self.protocols,
            tls=self.tls,
            settings=self.settings,
        )

    @asynccontextmanager
    async def webtransport(self) -> AsyncGenerator[Connection, None]:
        """A WebTransport session on an HTTP/3 connection of its own."""
        async with (
            self.quic([H3]) as connection,
            open_webtransport(
                connection,
                authority=self.url.authority,
                path=self.url.target,
                protocols=self.protocols,
            ) as session,
        ):
            yield session

    def websocket(self) -> AbstractAsyncContextManager[Connection]:
        """qmux over a WebSocket."""
        return open_websocket(
            self.url.host,
            self.url.port,
            path=self.url.target,
            protocols=self.protocols,
            encrypted=self.url.is_encrypted,
            tls=self.tls,
            settings=self.settings,
        )


@asynccontextmanager
async def first_of(*openers: Opener) -> AsyncGenerator[Connection, None]:
    """The first connection there is, kept open for the block; the others are given up.

    Raises ConnectError where none comes about.
    """
    with bare_exceptions():
        async with trio.open_nursery() as nursery:
            connection, over = await race(
                [partial(nursery.start, _hold_open, opener) for opener in openers],
                discard=lambda late: late[1].set(),
                delay=HEAD_START,
            )
            try:
                yield connection
            finally:
                over.set()


async def _hold_open(
    opener: Opener,
    task_status: trio.TaskStatus[tuple[Connection, trio.Event]] = trio.TASK_STATUS_IGNORED,
) -> None:
    over = trio.Event()
    async with opener() as connection:
        task_status.started((connection, over))
        await over.wait()


def version_of(connection: Connection) -> Version:
    """The protocol version both sides agreed on."""
    version = version_for_alpn(connection.alpn)
    if version is None:
        connection.close(SessionCode.PROTOCOL_VIOLATION, "unknown protocol version")
        raise AssertionError(f"the peer chose {connection.alpn!r}, which was not offered")
    return version
