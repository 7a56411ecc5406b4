"""A UDP proxy on loopback: what routers do to the datagrams of one client."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import trio

#: What becomes of a datagram: the ones to pass on in its stead.
Rule = Callable[[bytes], list[bytes]]


def pass_on(data: bytes) -> list[bytes]:
    return [data]


class UdpProxy:
    """One client's way to a server, seen from the server as a port of its own."""

    def __init__(self, server_port: int) -> None:
        self._server = ("127.0.0.1", server_port)
        self._inside = _open_socket("127.0.0.1")
        self._outside = _open_socket("127.0.0.1")
        self.client: tuple[str, int] | None = None
        self.port: int = self._inside.getsockname()[1]
        self.to_server: list[bytes] = []
        self.to_client: list[bytes] = []
        #: Clients' addresses that nothing comes from or goes to any more.
        self.cut_off: set[tuple[str, int]] = set()
        #: Applied to what goes each way, before it goes.
        self.outbound: Rule = pass_on
        self.inbound: Rule = pass_on

    @property
    def address(self) -> tuple[str, int]:
        """What the server takes for the client's."""
        address: tuple[str, int] = self._outside.getsockname()
        return address

    def cut_off_client(self) -> None:
        """From now on the client's present address leads nowhere."""
        assert self.client is not None
        self.cut_off.add(self.client)

    def rebind(self, host: str = "127.0.0.1") -> None:
        """Forget the mapping: the client comes from another port, or host, from now on."""
        old, self._outside = self._outside, _open_socket(host)
        trio.lowlevel.notify_closing(old)
        old.close()

    def close(self) -> None:
        self._inside.close()
        self._outside.close()

    async def run_outbound(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._inside)
            for data, source in _received(self._inside):
                if source in self.cut_off:
                    continue
                self.client = source
                for each in self.outbound(data):
                    self.to_server.append(each)
                    self._outside.sendto(each, self._server)

    async def run_inbound(self) -> None:
        while True:
            try:
                await trio.lowlevel.wait_readable(self._outside)
            except trio.ClosedResourceError:
                continue  # moved
            for data, source in _received(self._outside):
                if source != self._server or self.client is None or self.client in self.cut_off:
                    continue
                for each in self.inbound(data):
                    self.to_client.append(each)
                    self._inside.sendto(each, self.client)


def _open_socket(host: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, 1 << 20)
    sock.bind((host, 0))
    return sock


def _received(sock: socket.socket) -> Iterator[tuple[bytes, tuple[str, int]]]:
    """What waits in a socket, up to a batch."""
    for _ in range(64):
        if sock.fileno() == -1:
            return
        try:
            yield sock.recvfrom(65536)
        except BlockingIOError:
            return


@asynccontextmanager
async def proxied(server_port: int) -> AsyncIterator[UdpProxy]:
    """A proxy before the server at that port of 127.0.0.1."""
    proxy = UdpProxy(server_port)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(proxy.run_outbound)
            nursery.start_soon(proxy.run_inbound)
            yield proxy
            nursery.cancel_scope.cancel()
    finally:
        proxy.close()
