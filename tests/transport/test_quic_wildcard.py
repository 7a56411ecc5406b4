"""A server bound to every address answers from the one that was asked."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import trio

from moqtrio.transport.quic import open_quic
from moqtrio.transport.quic.udp import UdpSocket

from .pairs import ALPN, pinned, plain_settings, start_server
from .test_quic_server import ask, echo


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


BOTH_FAMILIES = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 loopback here")


@pytest.mark.parametrize(
    ("listen", "connect"),
    [
        ("0.0.0.0", ("127.0.0.1", "127.0.0.2", "127.8.9.10")),
        pytest.param("::", ("127.0.0.1", "127.0.0.2", "::1"), marks=BOTH_FAMILIES),
        pytest.param("", ("127.0.0.1", "127.0.0.2", "::1"), marks=BOTH_FAMILIES),
    ],
)
async def test_every_address_of_the_machine_is_served(
    listen: str, connect: tuple[str, ...]
) -> None:
    # A client's connected socket takes nothing from another address than it sent to.
    async with trio.open_nursery() as nursery:
        listener = await start_server(nursery, echo, host=listen)
        for host in connect:
            async with open_quic(
                host,
                listener.port,
                alpn=[ALPN],
                tls=pinned(),
                settings=plain_settings(connect_timeout=2),
            ) as connection:
                payload = host.encode() * 10_000  # many datagrams: in runs, too
                assert await ask(connection, payload) == payload
        nursery.cancel_scope.cancel()


async def test_a_mapped_address_is_written_as_ipv4() -> None:
    if not has_ipv6():
        pytest.skip("no IPv6 loopback here")
    peers: list[str] = []

    async def note(connection: Any) -> None:
        peers.append(connection.remote_address)

    async with trio.open_nursery() as nursery:
        listener = await start_server(nursery, note, host="::")
        for host in ("127.0.0.1", "::1"):
            async with open_quic(
                host, listener.port, alpn=[ALPN], tls=pinned(), settings=plain_settings()
            ) as connection:
                await connection.wait_closed()
        nursery.cancel_scope.cancel()
    assert peers[0].startswith("127.0.0.1:")
    assert peers[1].startswith("[::1]:")


async def test_single_datagrams_and_runs_come_from_the_address_they_went_to() -> None:
    raw = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    raw.bind(("0.0.0.0", 0))
    server = UdpSocket(raw, buffer_size=1 << 20, peer=None)
    port = server.address[1]
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(2)
            client.bind(("127.0.0.1", 0))
            addresses = []
            for host in ("127.0.0.2", "127.0.0.3"):
                client.sendto(b"hello", (host, port))
                await server.wait_readable()
                [(data, address)] = server.receive(64)
                assert (data, address[:2]) == (b"hello", client.getsockname())
                addresses.append(address)
            # One peer by two ways: two addresses, which must not share a call.
            assert addresses[0] != addresses[1]
            server.send([(bytes(100), addresses[0])] * 3 + [(bytes(100), addresses[1])] * 3)
            senders = [client.recvfrom(1000)[1] for _ in range(6)]
            assert senders == [("127.0.0.2", port)] * 3 + [("127.0.0.3", port)] * 3
    finally:
        server.close()
