"""The socket under an endpoint: batches, fall-backs and a full kernel buffer."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest
import trio

from moqtrio.transport.quic import udp
from moqtrio.transport.quic.udp import UdpSocket


@pytest.fixture
async def sockets() -> AsyncIterator[tuple[UdpSocket, UdpSocket]]:
    """A bound socket, and one connected to it."""
    raw = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    raw.bind(("127.0.0.1", 0))
    server = UdpSocket(raw, buffer_size=1 << 20, peer=None)
    other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    other.connect(server.address)
    client = UdpSocket(other, buffer_size=1 << 20, peer=server.address)
    yield server, client
    server.close()
    client.close()
    client.close()


async def take(sock: UdpSocket, count: int) -> list[bytes]:
    received: list[bytes] = []
    with trio.fail_after(2):
        while len(received) < count:
            await sock.wait_readable()
            received.extend(data for data, _ in sock.receive(64))
    return received


def numbered(sizes: list[int]) -> list[bytes]:
    return [bytes([index % 256]) * size for index, size in enumerate(sizes)]


async def test_every_mixture_of_sizes_arrives_as_it_was_sent(
    sockets: tuple[UdpSocket, UdpSocket],
) -> None:
    server, client = sockets
    sizes = [1200] * 70 + [300] + [1200] * 3 + [40, 50, 60] + [1200, 1200, 7] + [9000] * 5 + [1]
    payloads = numbered(sizes)
    client.send([(data, server.address) for data in payloads])
    assert await take(server, len(payloads)) == payloads
    back = numbered([500] * 40)
    server.send([(data, client.address) for data in back])
    assert await take(client, len(back)) == back


async def test_each_peer_gets_its_own(sockets: tuple[UdpSocket, UdpSocket]) -> None:
    server, client = sockets
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as raw:
        raw.bind(("127.0.0.1", 0))
        second = raw.getsockname()
        server.send([(b"a" * 100, client.address), (b"b" * 100, second), (b"c" * 100, second)])
        assert await take(client, 1) == [b"a" * 100]
        raw.settimeout(2)
        assert [raw.recv(1000), raw.recv(1000)] == [b"b" * 100, b"c" * 100]


@pytest.mark.skipif(sys.platform != "linux", reason="segmentation offload is Linux's")
async def test_one_refusal_ends_segmentation_for_good(
    sockets: tuple[UdpSocket, UdpSocket], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, client = sockets
    monkeypatch.setattr(udp, "_GSO_MAX_SEGMENTS", 600)  # more than any kernel takes
    payloads = numbered([100] * 500)
    assert client._gso
    client.send([(data, server.address) for data in payloads])
    assert not client._gso
    assert await take(server, len(payloads)) == payloads


async def test_a_full_buffer_queues_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    # Unlike UDP on loopback, which drops, a local socket pushes back.
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    monkeypatch.setattr(udp, "_MAX_QUEUED_BYTES", 50_000)
    sock = UdpSocket(near, buffer_size=8192, peer="far")
    sock._gso = False
    try:
        payloads = numbered([1000] * 2000)
        sock.send([(data, "far") for data in payloads])
        assert sock.blocked
        sock.send([(b"behind the queue", "far")])
        far.setblocking(False)
        received: list[bytes] = []
        while sock.blocked:
            while True:
                try:
                    received.append(far.recv(2000))
                except BlockingIOError:
                    break
            with trio.fail_after(2):
                await sock.wait_writable()
            sock.send_queued()
        assert received == payloads[: len(received)]
        assert 50 < len(received) < 2000
    finally:
        sock.close()
        far.close()


async def test_a_refusal_is_noted_and_nothing_is_raised() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = taken.getsockname()
    raw = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    raw.connect(nobody)
    sock = UdpSocket(raw, buffer_size=8192, peer=nobody)
    try:
        sock.send([(b"hello?", nobody)])
        with trio.fail_after(2):
            await sock.wait_readable()
        assert sock.receive(64) == []
        assert sock.refused
    finally:
        sock.close()


async def test_a_datagram_too_large_is_a_datagram_lost(
    sockets: tuple[UdpSocket, UdpSocket],
) -> None:
    server, client = sockets
    client.send([(bytes(70_000), server.address), (b"next", server.address)])
    assert await take(server, 1) == [b"next"]


class Reporting(socket.socket):
    """A socket whose next reads report what routers said, as firewalls make them do."""

    reports: ClassVar[list[int]] = []

    def recvmsg(self, *arguments: Any) -> Any:
        if self.reports:
            number = self.reports.pop()
            raise OSError(number, os.strerror(number))
        return super().recvmsg(*arguments)


async def test_what_routers_report_is_survived() -> None:
    raw = Reporting(socket.AF_INET, socket.SOCK_DGRAM)
    raw.bind(("127.0.0.1", 0))
    sock = UdpSocket(raw, buffer_size=8192, peer=None)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            for number in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENOPROTOOPT, errno.ENOMEM):
                raw.reports.append(number)
                other.sendto(b"data", sock.address)
                assert await take(sock, 1) == [b"data"]
            assert not sock.refused
            raw.reports.append(errno.EBADF)
            with pytest.raises(OSError, match="Bad file descriptor"):
                sock.receive(64)
    finally:
        sock.close()


@pytest.mark.skipif(sys.platform != "linux", reason="segmentation offload is Linux's")
async def test_an_absent_peer_does_not_end_segmentation() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = taken.getsockname()
    raw = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    raw.connect(nobody)
    sock = UdpSocket(raw, buffer_size=8192, peer=nobody)
    try:
        sock.send([(b"hello?", nobody)])
        await sock.wait_readable()  # the refusal is there, and the next call reports it
        sock.send([(bytes(100), nobody)] * 10)
        assert sock.refused
        assert sock._gso
    finally:
        sock.close()
