"""Connecting to a QUIC server."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import QuicErrorCode
from aioquic.tls import AlertDescription

from ...errors import ConnectError
from ...scope import bare_exceptions
from ..connection import Connection
from ..happy_eyeballs import race, resolve
from ..settings import TransportSettings
from ..tls import ClientTls, explain_certificate_error
from .addresses import format_address
from .configuration import client_configuration, key_log
from .connection import QuicConnection
from .endpoint import Endpoint
from .engine import PeerCheck
from .udp import DatagramSocket, UdpSocket

_NO_APPLICATION_PROTOCOL = int(QuicErrorCode.CRYPTO_ERROR) + int(
    AlertDescription.no_application_protocol
)


@asynccontextmanager
async def open_quic(
    host: str,
    port: int,
    *,
    alpn: Sequence[str],
    tls: ClientTls | None = None,
    server_name: str | None = None,
    settings: TransportSettings | None = None,
) -> AsyncIterator[Connection]:
    """Connect to ``host``, and close the connection when the block is left.

    The addresses of ``host`` are tried one after the other, IPv6 and IPv4 by turns, each
    beside the one before it if that is silent for a quarter of a second (RFC 8305). An
    exception from the block comes out as it is.

    Args:
      host: a name or an IP address.
      port: the UDP port.
      alpn: the application protocols to offer, the preferred one first.
      tls: how to check the server's certificate, by default fully, and the client's own.
      server_name: the name to ask for and to expect in the certificate, if not ``host``.
      settings: limits and timers; ``connect_timeout`` holds for each address.

    Raises:
      ConnectError: no address led to a connection; says why for each of them.
    """
    tls = ClientTls() if tls is None else tls
    settings = TransportSettings() if settings is None else settings
    authorities = await tls.load_authorities()
    credentials = await tls.load_credentials()
    addresses = await resolve(host, port, socket.SOCK_DGRAM)
    with key_log(settings) as secrets, bare_exceptions():
        configuration = client_configuration(
            alpn=alpn,
            tls=tls,
            authorities=authorities,
            credentials=credentials,
            server_name=server_name or host,
            settings=settings,
            secrets=secrets,
        )
        async with trio.open_nursery() as nursery:
            endpoint, connection = await _connect_to_any(
                nursery, addresses, configuration, tls, settings
            )
            try:
                yield connection
            finally:
                endpoint.stop()


async def _connect_to_any(
    nursery: trio.Nursery,
    addresses: list[tuple[int, Any]],
    configuration: QuicConfiguration,
    tls: ClientTls,
    settings: TransportSettings,
) -> tuple[Endpoint, QuicConnection]:
    async def attempt(family: int, address: Any) -> tuple[Endpoint, QuicConnection]:
        reopen = partial(_open_socket, family, address, settings)
        endpoint, connection = await connect_over(
            nursery, reopen(), address, configuration, tls, settings
        )
        endpoint.reopen_with(reopen)
        return endpoint, connection

    return await race(
        [partial(attempt, family, address) for family, address in addresses],
        discard=lambda late: late[0].stop(),
    )


async def connect_over(
    nursery: trio.Nursery,
    sock: DatagramSocket,
    address: Any,
    configuration: QuicConfiguration,
    tls: ClientTls,
    settings: TransportSettings,
) -> tuple[Endpoint, QuicConnection]:
    """Shake hands with ``address`` over a socket; a task in ``nursery`` drives and closes it."""
    endpoint = Endpoint(sock)
    connection = QuicConnection(
        endpoint=endpoint,
        configuration=configuration,
        settings=settings,
        address=address,
        peer_check=PeerCheck(pin=tls.pin),
    )
    nursery.start_soon(_drive, endpoint)
    try:
        connection._engine.connect(address, trio.current_time())
        endpoint.add(connection, connection._engine.host_cid)
        endpoint.mark_dirty(connection)
        await connection._handshake_over.wait()
        if connection.closed is not None:
            await trio.lowlevel.checkpoint_if_cancelled()  # which closes it too
            raise _explain(connection, address, configuration)
    except BaseException:
        endpoint.stop()
        raise
    return endpoint, connection


async def _drive(endpoint: Endpoint) -> None:
    try:
        await endpoint.run()
    finally:
        # Cancelled from outside, this may come before the block that uses the connection
        # has ended: the peer is told all the same.
        endpoint.close_all(0, "")
        endpoint.socket.close()


def _open_socket(family: int, address: Any, settings: TransportSettings) -> UdpSocket:
    try:
        sock = socket.socket(family, socket.SOCK_DGRAM)
    except OSError as error:
        raise ConnectError(f"cannot open a UDP socket: {error}") from error
    try:
        # A connected socket learns that nobody listens, and takes from the peer alone.
        sock.connect(address)
        return UdpSocket(sock, buffer_size=settings.socket_buffer, peer=address)
    except OSError as error:
        sock.close()
        raise ConnectError(f"cannot reach {format_address(address)}: {error.strerror}") from error


def _explain(
    connection: QuicConnection, address: Any, configuration: QuicConfiguration
) -> ConnectError:
    where = format_address(address)
    end = connection.closed
    assert end is not None
    certificate_error = connection._engine.certificate_error
    if certificate_error is not None:
        name = f"{configuration.server_name} ({where})"
        return ConnectError(explain_certificate_error(certificate_error, name), retryable=False)
    cause = connection._engine.close_cause
    if cause is not None and cause[0] == _NO_APPLICATION_PROTOCOL:
        offered = ", ".join(configuration.alpn_protocols or ())
        return ConnectError(
            f"{where} speaks none of the protocols offered by this side (ALPN: {offered}); "
            "check which versions the server supports",
            retryable=False,
        )
    if connection._engine.was_asked_for_certificate and end.remote:
        return ConnectError(
            f"{where} did not accept this client ({end.reason}); it wants a certificate of an "
            "authority it knows: certificate_file and key_file of ClientTls",
            retryable=False,
        )
    if end.reason == "handshake timed out":
        timeout = connection._settings.connect_timeout
        return ConnectError(
            f"{where} did not answer within {timeout:g} s; "
            "check the address, the UDP port and firewalls"
        )
    return ConnectError(f"no connection to {where}: {end.reason or 'closed without a reason'}")
