"""Connections over a simulated network, for tests in virtual time."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from moqtrio.transport.connection import Connection
from moqtrio.transport.quic.client import connect_over
from moqtrio.transport.quic.configuration import ServerConfigurations, client_configuration
from moqtrio.transport.quic.server import Acceptor
from moqtrio.transport.settings import TransportSettings
from moqtrio.transport.tls import ClientTls, ServerTls

from .pairs import ALPN, development_tls, plain_settings

CLIENT, SERVER = ("10.0.0.1", 1111), ("10.0.0.2", 4443)


@attrs.define(slots=False)
class Network:
    """Delays, loses, duplicates and so reorders datagrams, the same way for one seed; as
    slow as ``rate`` says, with a queue before the bottleneck that drops what is too much."""

    seed: int = 0
    delay: float = 0.01
    jitter: float = 0.0
    loss: float = 0.0
    duplication: float = 0.0
    cut: bool = False
    #: Bytes per second each end can send; None for any number.
    rate: float | None = None
    #: Bytes that may wait before the bottleneck.
    queue: int = 64 * 1024
    #: When each datagram set out, from where, and its size.
    sent: list[tuple[float, Any, int]] = attrs.Factory(list)

    def __attrs_post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._sockets: dict[Any, SimulatedSocket] = {}
        self._under_way: list[tuple[float, int, bytes, Any, Any]] = []
        self._order = itertools.count()
        self._news = trio.Event()
        self._free_at: dict[Any, float] = {}

    def socket(self, address: Any) -> SimulatedSocket:
        self._sockets[address] = sock = SimulatedSocket(self, address)
        return sock

    def carry(self, data: bytes, source: Any, target: Any) -> None:
        now = trio.current_time()
        self.sent.append((now, source, len(data)))
        copies = 2 if self._random.random() < self.duplication else 1
        for _ in range(copies):
            if self.cut or self._random.random() < self.loss:
                continue
            at = now + self.delay + self._random.random() * self.jitter
            if self.rate is not None:
                waits = max(0.0, self._free_at.get(source, 0.0) - now)
                if waits * self.rate > self.queue:
                    continue
                takes = waits + len(data) / self.rate
                self._free_at[source] = now + takes
                at += takes
            heapq.heappush(self._under_way, (at, next(self._order), data, source, target))
        self._news.set()

    async def run(self) -> None:
        while True:
            self._news = trio.Event()
            deadline = self._under_way[0][0] if self._under_way else float("inf")
            with trio.move_on_at(deadline):
                await self._news.wait()
            while self._under_way and self._under_way[0][0] <= trio.current_time():
                _, _, data, source, target = heapq.heappop(self._under_way)
                self._sockets[target].deliver(data, source)


class SimulatedSocket:
    def __init__(self, network: Network, address: Any) -> None:
        self._network = network
        self.address = address
        self.refused = False
        self.blocked = False
        self.closed = False
        self._inbox: deque[tuple[bytes, Any]] = deque()
        self._readers = trio.lowlevel.ParkingLot()

    def deliver(self, data: bytes, source: Any) -> None:
        if not self.closed:
            self._inbox.append((data, source))
            self._readers.unpark_all()

    def close(self) -> None:
        self.closed = True

    async def wait_readable(self) -> None:
        await trio.lowlevel.checkpoint()
        while not self._inbox:
            await self._readers.park()

    async def wait_writable(self) -> None:
        await trio.lowlevel.checkpoint()

    def receive(self, limit: int) -> list[tuple[bytes, Any]]:
        return [self._inbox.popleft() for _ in range(min(limit, len(self._inbox)))]

    def send(self, datagrams: list[tuple[bytes, Any]]) -> None:
        for data, target in datagrams:
            self._network.carry(data, self.address, target)

    def send_queued(self) -> None:
        """Nothing is ever queued."""


@asynccontextmanager
async def simulated_pair(
    network: Network,
    *,
    client: TransportSettings | None = None,
    server: TransportSettings | None = None,
    tls: ServerTls | None = None,
) -> AsyncIterator[tuple[Connection, Connection]]:
    """A client's and a server's connection over ``network``."""
    tls = tls or development_tls()
    pin = ClientTls(fingerprint=tls.fingerprint)
    send, receive = trio.open_memory_channel[Connection](1)
    near_settings, far_settings = client or plain_settings(), server or plain_settings()

    async def handler(connection: Connection) -> None:
        send.send_nowait(connection)
        await connection.wait_closed()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(network.run)
        acceptor = Acceptor(
            handler,
            nursery,
            ServerConfigurations(alpn=[ALPN], tls=tls, settings=far_settings, secrets=None),
            far_settings,
        )
        nursery.start_soon(acceptor.add_endpoint(network.socket(SERVER)).run)
        configuration = client_configuration(
            alpn=[ALPN],
            tls=pin,
            authorities=None,
            server_name="server.test",
            settings=near_settings,
            secrets=None,
        )
        _, near = await connect_over(
            nursery, network.socket(CLIENT), SERVER, configuration, pin, near_settings
        )
        yield near, await receive.receive()
        nursery.cancel_scope.cancel()
