"""Serving QUIC connections."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import attrs
import trio
from aioquic._buffer import Buffer, BufferReadError
from aioquic.quic.packet import (
    QuicPacketType,
    encode_quic_version_negotiation,
    pull_quic_header,
)

from ...errors import ConnectError, SessionCode
from ..handling import Handler, run_handler
from ..settings import SMALLEST_DATAGRAM_SIZE, TransportSettings
from ..tls import ServerTls
from .addresses import format_address
from .configuration import ServerConfigurations, key_log
from .connection import QuicConnection
from .endpoint import CONNECTION_ID_LENGTH, Endpoint
from .retry import RetryTokens, encode_retry, encode_token_refusal, is_retry_token
from .udp import DatagramSocket, UdpSocket

logger: logging.Logger = logging.getLogger("moqtrio.transport")

_WARNING_INTERVAL = 10.0  # seconds
# How a machine without IPv6 says so.
_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


@attrs.frozen
class QuicListener:
    """Where a server listens.

    ``addresses`` are (host, port) pairs, ``port`` the one all of them share.
    """

    addresses: tuple[tuple[str, int], ...]
    port: int
    _tls: ServerTls = attrs.field(repr=False)

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the certificate new connections get now, for clients to pin."""
        return self._tls.fingerprint


async def serve_quic(
    handler: Handler,
    host: str | None,
    port: int,
    *,
    alpn: Sequence[str],
    tls: ServerTls,
    settings: TransportSettings | None = None,
    task_status: trio.TaskStatus[QuicListener] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Listen, and run ``handler(connection)`` in a task for each connection.

    A connection is closed when its handler returns. A handler that raises is logged, and
    neither it nor a misbehaving peer disturbs the others. Cancelling closes every
    connection, telling the peers, and the sockets.

    Args:
      handler: what to do with a connection whose handshake is over.
      host: a name or an IP address. None or "" listen everywhere, "::" too where there
        is IPv6.
      port: the UDP port; 0 picks a free one.
      alpn: the application protocols spoken, the preferred one first.
      tls: the certificate, which may change meanwhile, and whether clients need one.
      settings: limits and timers.

    Raises:
      ConnectError: the address cannot be found or is taken.
    """
    settings = TransportSettings() if settings is None else settings
    with ExitStack() as stack:
        secrets = stack.enter_context(key_log(settings))
        configurations = ServerConfigurations(
            alpn=alpn, tls=tls, settings=settings, secrets=secrets
        )
        sockets = await _open_sockets(host, port, settings)
        for sock in sockets:
            stack.callback(sock.close)
        addresses = tuple((sock.address[0], sock.address[1]) for sock in sockets)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tls.keep_current)
            server = Acceptor(handler, nursery, configurations, settings)
            for sock in sockets:
                endpoint = server.add_endpoint(sock)
                stack.callback(endpoint.close_all, SessionCode.NO_ERROR, "server shut down")
                nursery.start_soon(endpoint.run)
            task_status.started(QuicListener(addresses, addresses[0][1], tls))


class Acceptor:
    """Makes connections out of first datagrams, and handlers' tasks out of handshakes."""

    def __init__(
        self,
        handler: Handler,
        nursery: trio.Nursery,
        configurations: ServerConfigurations,
        settings: TransportSettings,
    ) -> None:
        self._handler = handler
        self._nursery = nursery
        self._configurations = configurations
        self._settings = settings
        self._endpoints: list[Endpoint] = []
        self._tokens = RetryTokens()
        # Those who did not prove their address must not take up every place there is.
        self._retry_threshold = min(settings.retry_threshold, settings.max_connections // 2)
        self._warn_at = trio.current_time()

    def add_endpoint(self, sock: DatagramSocket) -> Endpoint:
        endpoint = Endpoint(sock)
        endpoint.accept_with(lambda data, address, now: self._accept(endpoint, data, address, now))
        self._endpoints.append(endpoint)
        return endpoint

    def _accept(
        self, endpoint: Endpoint, data: bytes, address: Any, now: float
    ) -> QuicConnection | None:
        # RFC 9000 section 14.1: a first datagram is at least this long, so what is
        # answered to it (version negotiation included) amplifies nothing.
        if len(data) < SMALLEST_DATAGRAM_SIZE:
            return None
        try:
            header = pull_quic_header(Buffer(data=data), host_cid_length=CONNECTION_ID_LENGTH)
        except (ValueError, BufferReadError):
            return None
        if header.packet_type == QuicPacketType.VERSION_NEGOTIATION:
            return None
        configuration = self._configurations.current
        if header.version not in configuration.supported_versions:
            answer = encode_quic_version_negotiation(
                source_cid=header.destination_cid,
                destination_cid=header.source_cid,
                supported_versions=configuration.supported_versions,
            )
            _answer(endpoint, answer, address)
            return None
        # RFC 9000 section 7.2: a client's first connection id has 8 bytes or more.
        if header.packet_type != QuicPacketType.INITIAL or len(header.destination_cid) < 8:
            return None
        known = sum(each.connection_count for each in self._endpoints)
        if known >= self._settings.max_connections:
            if now >= self._warn_at:
                self._warn_at = now + _WARNING_INTERVAL
                logger.warning("at the limit of %d connections: ignoring %s", known, address)
            return None
        original_id = self._tokens.open(header.token, header.destination_cid, address, now)
        if original_id is None:
            if is_retry_token(header.token):
                _answer(endpoint, encode_token_refusal(header), address)
                return None
            if self._is_beleaguered():
                _answer(endpoint, encode_retry(self._tokens, header, address, now), address)
                return None
        connection = QuicConnection(
            endpoint=endpoint,
            configuration=configuration,
            settings=self._settings,
            address=address,
            original_destination_connection_id=original_id or header.destination_cid,
            retry_source_connection_id=None if original_id is None else header.destination_cid,
            peer_check=self._configurations.client_check,
        )
        connection._on_established = self._start_handler
        endpoint.add(connection, header.destination_cid, connection._engine.host_cid)
        return connection

    def _is_beleaguered(self) -> bool:
        """Whether so many handshakes are under way that some may be forged."""
        return sum(each.handshake_count for each in self._endpoints) >= self._retry_threshold

    def _start_handler(self, connection: QuicConnection) -> None:
        self._nursery.start_soon(
            run_handler, self._handler, connection, name=f"quic {connection.remote_address}"
        )


def _answer(endpoint: Endpoint, datagram: bytes, address: Any) -> None:
    """Say something to who is no connection, unless there is no room for it."""
    if not endpoint.socket.blocked:
        endpoint.send([(datagram, address)])


async def _open_sockets(
    host: str | None, port: int, settings: TransportSettings
) -> list[UdpSocket]:
    if not host:
        return [_bind_everywhere(port, settings)]
    try:
        found = await trio.socket.getaddrinfo(
            host, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise ConnectError(f"cannot find the address of {host!r}: {error.strerror}") from error
    sockets: list[UdpSocket] = []
    try:
        for family, address in dict.fromkeys((int(f), a) for f, _, _, _, a in found):
            # Every address gets the port that was picked for the first.
            shared = sockets[0].address[1] if sockets else port
            sockets.append(_bind(family, (address[0], shared, *address[2:]), settings))
    except ConnectError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _bind_everywhere(port: int, settings: TransportSettings) -> UdpSocket:
    try:
        return _bind(socket.AF_INET6, ("::", port), settings)
    except ConnectError as error:
        cause = error.__cause__
        if not isinstance(cause, OSError) or cause.errno not in _NO_IPV6:
            raise
    return _bind(socket.AF_INET, ("0.0.0.0", port), settings)


def _bind(family: int, address: Any, settings: TransportSettings) -> UdpSocket:
    sock = None
    try:
        sock = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            # "::" takes IPv4 too; any other address is IPv6 alone.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address[0] != "::")
        sock.bind(address)
    except OSError as error:
        if sock is not None:
            sock.close()
        raise ConnectError(
            f"cannot listen on UDP {format_address(address)}: {error.strerror}"
        ) from error
    return UdpSocket(sock, buffer_size=settings.socket_buffer, peer=None)
