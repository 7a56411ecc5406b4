"""A UDP proxy on loopback: what routers do to the datagrams of one client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

#: What becomes of a datagram: the ones to pass on in its stead.
Rule = Callable[[bytes], list[bytes]]


def pass_on(data: bytes) -> list[bytes]:
    return [data]


class UdpProxy:
    """One client's way to a server, seen from the server as a port of its own."""

    def __init__(self, server_port: int, near: trio.socket.SocketType) -> None:
        self._server = ("127.0.0.1", server_port)
        self._near = near
        self._client: tuple[str, int] | None = None
        self._outside = self._open("127.0.0.1")
        self._moved = trio.Event()
        self.port: int = near.getsockname()[1]
        self.to_server: list[bytes] = []
        self.to_client: list[bytes] = []
        #: Applied to what goes each way, before it goes.
        self.outbound: Rule = pass_on
        self.inbound: Rule = pass_on

    @property
    def address(self) -> tuple[str, int]:
        """What the server takes for the client's."""
        address: tuple[str, int] = self._outside.getsockname()
        return address

    def _open(self, host: str) -> trio.socket.SocketType:
        sock = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM)
        sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 1 << 20)
        # Bound at once: before the first datagram is sent nothing could be read.
        sock._sock.bind((host, 0))
        return sock

    def rebind(self, host: str = "127.0.0.1") -> None:
        """Forget the mapping: the client comes from another port, or host, from now on."""
        old, self._outside = self._outside, self._open(host)
        old.close()
        moved, self._moved = self._moved, trio.Event()
        moved.set()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_outbound)
            nursery.start_soon(self._run_inbound)

    async def _run_outbound(self) -> None:
        while True:
            data, self._client = await self._near.recvfrom(65536)
            for each in self.outbound(data):
                self.to_server.append(each)
                await self._outside.sendto(each, self._server)

    async def _run_inbound(self) -> None:
        while True:
            try:
                data, source = await self._outside.recvfrom(65536)
            except trio.ClosedResourceError:
                continue  # moved
            if source != self._server or self._client is None:
                continue
            for each in self.inbound(data):
                self.to_client.append(each)
                await self._near.sendto(each, self._client)


@asynccontextmanager
async def proxied(server_port: int) -> AsyncIterator[UdpProxy]:
    """A proxy before the server at that port of 127.0.0.1."""
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as near:
        await near.bind(("127.0.0.1", 0))
        near.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 1 << 20)
        proxy = UdpProxy(server_port, near)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(proxy.run)
                yield proxy
                nursery.cancel_scope.cancel()
        finally:
            proxy._outside.close()
