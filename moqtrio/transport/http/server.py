"""Serving HTTP/1.1 and WebSockets, with and without TLS, on one TCP port."""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from functools import partial

import attrs
import trio

from ...errors import ConnectError
from ..handling import Handler
from ..quic.connection import format_address
from ..settings import TransportSettings
from ..tls import ServerTls
from .conversation import Conversation
from .resources import FINGERPRINT_PATH, Routes, fingerprint_route
from .tls import ALPN
from .waiting import Waiting

logger: logging.Logger = logging.getLogger("moqtrio.transport")

_TLS_HANDSHAKE = 0x16  # the first byte of a ClientHello (RFC 8446 section 5.1), and of no request
_WARNING_INTERVAL = 10.0  # seconds
# The part of all clients who may not have said what they want yet.
_WAITING = 1 / 8


@attrs.frozen
class HttpListener:
    """Where a server listens: (host, port) pairs, and the port all of them share."""

    addresses: tuple[tuple[str, int], ...]
    port: int


async def serve_http(
    handler: Handler,
    host: str | None,
    port: int,
    *,
    protocols: Sequence[str],
    routes: Routes | None = None,
    tls: ServerTls | None = None,
    settings: TransportSettings | None = None,
    task_status: trio.TaskStatus[HttpListener] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Listen for HTTP, and run ``handler(connection)`` in a task for each WebSocket.

    A WebSocket is taken at any path; ``connection.request_path`` is what was asked for. A
    connection is closed when its handler returns. A handler that raises is logged, and
    neither it nor a misbehaving client disturbs the others. Cancelling closes every
    connection, telling the peers, and the sockets.

    Args:
      handler: what to do with a WebSocket's connection.
      host: a name or an IP address. None or "" listen everywhere, "::" too where there
        is IPv6.
      port: the TCP port; 0 picks a free one.
      protocols: the application protocols spoken over WebSocket, the preferred one first.
      routes: what else there is to get, by path.
      tls: the certificate, which may change meanwhile. Clients may use TLS then, or not, on
        the same port; ``/certificate.sha256`` tells its fingerprint. Where it requires
        certificates of clients, WebSockets are for those that use TLS.
      settings: limits and timers; ``max_connections`` holds for clients of any kind. An
        eighth of them may be silent; then the one that was silent longest makes room.

    Raises:
      ConnectError: the address cannot be found or is taken.
    """
    settings = TransportSettings() if settings is None else settings
    routes = dict(routes or {})
    if tls is not None:
        routes.setdefault(FINGERPRINT_PATH, fingerprint_route(tls))
    waiting = Waiting(max(1, int(settings.max_connections * _WAITING)))
    server = _Server(
        partial(
            Conversation,
            routes=routes,
            protocols=protocols,
            handler=handler,
            needs_tls=bool(tls and tls.client_authorities and tls.require_client_certificate),
            waiting=waiting,
            settings=settings,
        ),
        tls,
        waiting,
        settings,
    )
    listeners = await _listen(host, port)
    async with trio.open_nursery() as nursery:
        if tls is not None:
            nursery.start_soon(tls.keep_current)
        addresses = tuple(listener.socket.getsockname()[:2] for listener in listeners)
        await nursery.start(partial(trio.serve_listeners, server.serve, listeners))
        task_status.started(HttpListener(addresses, addresses[0][1]))


class _Server:
    """Bounds the clients, and finds out which want TLS."""

    def __init__(
        self,
        make_conversation: partial[Conversation],
        tls: ServerTls | None,
        waiting: Waiting,
        settings: TransportSettings,
    ) -> None:
        self._make_conversation = make_conversation
        self._tls = tls
        self._waiting = waiting
        self._settings = settings
        self._clients = 0
        self._warn_at = trio.current_time()

    async def serve(self, stream: trio.SocketStream) -> None:
        """One client, from the first byte to the last."""
        if self._clients >= self._settings.max_connections:
            self._warn()
            await trio.aclose_forcefully(stream)
            return
        self._clients += 1
        try:
            await self._converse(stream)
        except Exception:
            logger.exception("an HTTP connection failed")
        finally:
            self._clients -= 1

    async def _converse(self, stream: trio.SocketStream) -> None:
        try:
            try:
                client = format_address(stream.socket.getpeername())
                secured = await self._secure(stream)
            except (OSError, trio.BrokenResourceError):
                return  # the client is gone, or its TLS does not fit
            if secured is not None:
                await self._make_conversation(secured, client).run()
        finally:
            await trio.aclose_forcefully(stream)

    async def _secure(self, stream: trio.SocketStream) -> trio.abc.Stream | None:
        """The stream to talk over: TLS for a client that starts with it. None for one that
        does not come to the point."""
        with (
            trio.move_on_after(self._settings.connect_timeout) as scope,
            self._waiting.one_more(scope),
        ):
            first = await stream.socket.recv(1, socket.MSG_PEEK)
            if not first:
                return None
            if first[0] != _TLS_HANDSHAKE:
                return stream
            if self._tls is None:
                return None
            context = self._tls.ssl_context(ALPN)
            secured = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
            await secured.do_handshake()
            return secured
        return None

    def _warn(self) -> None:
        now = trio.current_time()
        if now >= self._warn_at:
            self._warn_at = now + _WARNING_INTERVAL
            logger.warning("at the limit of %d connections: closing new ones", self._clients)


async def _listen(host: str | None, port: int) -> list[trio.SocketListener]:
    where = f"TCP {format_address((host or '*', port))}"
    try:
        # Trio's listeners at "::" are for IPv6 alone; as UDP's, this one is for all.
        everywhere = not host or host == "::"
        return await trio.open_tcp_listeners(port, host=None if everywhere else host)
    except socket.gaierror as error:
        raise ConnectError(f"cannot find the address of {host!r}: {error.strerror}") from error
    except OSError as error:
        raise ConnectError(f"cannot listen on {where}: {error.strerror}") from error
