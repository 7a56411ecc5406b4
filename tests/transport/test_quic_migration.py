"""Clients whose address changes: over loopback UDP, and with engines alone."""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from aioquic._buffer import Buffer
from aioquic.quic.packet import QuicTransportParameters, push_quic_transport_parameters
from aioquic.tls import Epoch, ExtensionType

from moqtrio.transport.connection import Connection
from moqtrio.transport.quic import open_quic

from .pairs import ALPN, pinned, plain_settings, read_all, start_server, until
from .proxy import UdpProxy, proxied
from .test_quic_engine import CLIENT, SERVER, Pair
from .test_quic_server import ask, echo

_SIZE = 1_500_000


def content(number: int) -> bytes:
    """Bytes that tell any loss, repetition or mixture."""
    block = hashlib.sha256(b"%d" % number).digest()
    return b"".join(block[:28] + at.to_bytes(4, "big") for at in range(_SIZE // 32))


@asynccontextmanager
async def through_proxy(
    **client: Any,
) -> AsyncIterator[tuple[UdpProxy, Connection, Connection]]:
    """A proxy, and both ends of a connection through it; the server echoes."""
    send, receive = trio.open_memory_channel[Connection](1)

    async def handler(connection: Connection) -> None:
        send.send_nowait(connection)
        await echo(connection)

    async with trio.open_nursery() as nursery:
        listener = await start_server(nursery, handler)
        async with (
            proxied(listener.port) as proxy,
            open_quic(
                "127.0.0.1",
                proxy.port,
                alpn=[ALPN],
                tls=pinned(),
                settings=plain_settings(**client),
            ) as near,
        ):
            yield proxy, near, await receive.receive()
        nursery.cancel_scope.cancel()


def address_of(proxy: UdpProxy) -> str:
    return "{}:{}".format(*proxy.address)


async def exchange(near: Connection, far: Connection, number: int) -> None:
    """Move content in both directions at once, and compare."""
    expected = content(number)

    async def send(connection: Connection) -> None:
        stream = await connection.open_uni()
        await stream.send_all(expected)
        stream.finish()

    async def receive(connection: Connection) -> None:
        assert await read_all(await connection.accept_uni()) == expected

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for connection in (near, far):
                nursery.start_soon(send, connection)
                nursery.start_soon(receive, connection)


async def test_a_port_that_changes_again_and_again_loses_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "moqtrio.transport")
    async with through_proxy() as (proxy, near, far):
        assert far.remote_address == address_of(proxy)
        moves = 0

        def move_now_and_then(data: bytes) -> list[bytes]:
            nonlocal moves
            if moves < 4 and len(proxy.to_server) > 150 * (moves + 1):
                moves += 1
                proxy.rebind()
            return [data]

        proxy.outbound = move_now_and_then
        await exchange(near, far, 1)
        assert moves == 4
        assert await ask(near, b"still here") == b"still here"
        assert far.remote_address == address_of(proxy)
        assert f"is at {address_of(proxy)} now" in caplog.text
        # The same path but for the port: what is known of it still holds.
        assert far.statistics().smoothed_rtt > 0


async def test_another_host_is_another_path() -> None:
    async with through_proxy() as (proxy, near, far):
        await exchange(near, far, 2)
        before = far._engine._loss._cc  # type: ignore[attr-defined]
        proxy.rebind("127.0.0.2")
        await exchange(near, far, 3)
        assert far.remote_address == address_of(proxy)
        assert far.remote_address.startswith("127.0.0.2:")
        assert far._engine._loss._cc is not before  # type: ignore[attr-defined]
        assert far._engine._loss.bytes_in_flight >= 0  # type: ignore[attr-defined]
        assert far.statistics().estimated_bitrate is not None


async def test_a_copy_that_is_faster_does_not_take_the_connection_away() -> None:
    # RFC 9000 section 9.3.2: an attacker on the path lets its own copies arrive first.
    async with through_proxy() as (proxy, near, far):
        with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as attacker:
            await attacker.bind(("127.0.0.6", 0))
            sent = stolen = copies = 0

            def copy(data: bytes) -> list[bytes]:
                nonlocal sent, copies
                if len(proxy.to_server) > 200 and copies < 20:
                    copies += 1
                    sent += len(data)
                    attacker._sock.sendto(data, proxy._server)
                return [data]

            proxy.outbound = copy
            await exchange(near, far, 4)
            assert copies == 20
            while True:
                with trio.move_on_after(0.05) as quiet:
                    stolen += len(await attacker.recv(65536))
                if quiet.cancelled_caught:
                    break
            # What it could do: be sent a little (RFC 9000 section 8.1).
            assert stolen <= 3 * sent
            assert far.remote_address == address_of(proxy)
            assert await ask(near, b"unharmed") == b"unharmed"


async def test_an_address_that_never_answers_is_given_up() -> None:
    # The copy arrives, and the client is silent afterwards: only time tells.
    async with through_proxy(keep_alive=None) as (proxy, near, far):
        with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as attacker:
            await attacker.bind(("127.0.0.6", 0))

            diverted: list[int] = []

            def divert(data: bytes) -> list[bytes]:
                diverted.append(len(data))
                attacker._sock.sendto(data, proxy._server)
                return []

            proxy.outbound = divert
            near.send_datagram_nowait(b"the last for a while")
            await until(lambda: far.remote_address.startswith("127.0.0.6:"))
            proxy.outbound = lambda _: []
            sender = await far.open_uni()
            sender.send_nowait(bytes(100_000), finish=True)
            received = 0
            with trio.fail_after(10):
                while far.remote_address != address_of(proxy):
                    with trio.move_on_after(0.05):
                        received += len(await attacker.recv(65536))
            assert received <= 3 * sum(diverted)
            proxy.outbound = lambda data: [data]
            with trio.fail_after(10):
                assert await read_all(await near.accept_uni()) == bytes(100_000)


async def test_old_packets_from_elsewhere_move_nothing() -> None:
    async with through_proxy() as (proxy, near, far):
        await exchange(near, far, 5)
        with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as attacker:
            await attacker.bind(("127.0.0.6", 0))
            for data in proxy.to_server[-50:]:
                await attacker.sendto(data, proxy._server)
                await attacker.sendto(data[:-1] + b"\0", proxy._server)
            assert await ask(near, b"unharmed") == b"unharmed"
            assert far.remote_address == address_of(proxy)
            with trio.move_on_after(0.05) as quiet:
                await attacker.recv(65536)
            assert quiet.cancelled_caught


async def test_a_client_whose_own_address_leads_nowhere_takes_another(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "moqtrio.transport")
    async with through_proxy() as (proxy, near, far):
        await exchange(near, far, 6)
        old = proxy.client
        proxy.cut_off_client()
        await exchange(near, far, 7)
        assert proxy.client != old
        assert near.closed is None
        assert "going on from another port" in caplog.text


async def test_a_server_that_is_gone_is_given_up_in_time() -> None:
    async with through_proxy(idle_timeout=1, keep_alive=0.2) as (proxy, near, _):
        proxy.outbound = lambda _: []
        with trio.fail_after(5):
            assert "nothing was heard for 1 s" in (await near.wait_closed()).reason


# Engines alone


class MovingPair(Pair):
    """Two engines, one of which is a client that can come from elsewhere."""

    client_address: Any = CLIENT

    def round_trip(self) -> None:
        self.now += 0.005
        for data, _ in self.client.transmit(self.now):
            self.server.receive_datagram(data, self.client_address, self.now)
        self.now += 0.005
        for data, to in self.server.transmit(self.now):
            if to == self.client_address:
                self.client.receive_datagram(data, SERVER, self.now)

    def settle(self) -> None:
        for _ in range(6):
            self.round_trip()

    def slow_packets(self) -> list[str]:
        """Watch for packets that go the long way in; there are acknowledgements."""
        seen: list[str] = []
        for name, engine in (("client", self.client), ("server", self.server)):
            inner = engine._receive_short

            def watched(
                data: bytes, addr: Any, now: float, name: str = name, inner: Any = inner
            ) -> bool:
                taken = bool(inner(data, addr, now))
                if not taken:
                    seen.append(name)
                return taken

            engine._receive_short = watched  # type: ignore[method-assign]
        return seen


@pytest.mark.parametrize("fast_path", [True, False])
def test_moves_and_key_updates_change_nothing(fast_path: bool) -> None:
    pair = MovingPair(fast_path=fast_path)
    pair.settle()
    up = pair.client.open_stream(uni=True)
    down = pair.server.open_stream(uni=True)
    for number in range(8):
        pair.client.write(up, b"%d" % number * 2000, number == 7)
        pair.server.write(down, b"%d" % number * 2000, number == 7)
        pair.client_address = ("10.0.1.1", number)
        if number % 3 == 0:
            pair.client.move()
        if number % 2:
            (pair.client if number == 3 else pair.server).request_key_update()
        pair.settle()
        assert pair.server.get_peer_address() == pair.client_address
    expected = b"".join(b"%d" % number * 2000 for number in range(8))
    assert pair.far.received == {2: expected}
    assert pair.near.received == {3: expected}
    assert pair.client.close_cause is pair.server.close_cause is None
    # RFC 9000 section 9.5: moving took an id nobody had seen.
    assert pair.server.host_cid in {each.cid for each in pair.server._host_cids}


def test_the_short_way_in_is_found_again_after_a_move() -> None:
    pair = MovingPair()
    pair.settle()
    first_id = pair.client.host_cid
    pair.client_address = ("10.0.1.1", 1)
    pair.client.move()
    pair.settle()
    # The server answers to an id of the client's that was not used before.
    assert pair.client.host_cid != first_id
    pair.server.request_key_update()
    pair.settle()
    slow = pair.slow_packets()
    for source, name in ((pair.client, "server"), (pair.server, "client")):
        slow.clear()
        stream = source.open_stream(uni=True)
        source.write(stream, bytes(50_000), True)
        pair.settle()
        assert slow.count(name) == 0, name


def test_a_move_forgets_what_was_in_flight() -> None:
    pair = MovingPair()
    pair.settle()
    stream = pair.server.open_stream(uni=True)
    pair.server.write(stream, bytes(100_000), True)
    pair.round_trip()
    assert pair.server._loss.bytes_in_flight > 0
    pair.server._forget_the_path()
    assert pair.server._loss.bytes_in_flight == 0
    for _ in range(200):
        pair.round_trip()
        assert pair.server._loss.bytes_in_flight >= 0
        if pair.near.received.get(3) == bytes(100_000):
            break
    assert pair.near.received == {3: bytes(100_000)}
    pair.settle()
    assert pair.server._loss.bytes_in_flight == 0


def test_a_server_that_forbids_moving_is_not_moved_from() -> None:
    pair = MovingPair()
    pair.settle()
    assert pair.client.can_move()
    assert not pair.server.can_move()
    said = Buffer(capacity=64)
    push_quic_transport_parameters(said, QuicTransportParameters(disable_active_migration=True))
    pair.client.tls.received_extensions = [(ExtensionType.QUIC_TRANSPORT_PARAMETERS, said.data)]
    assert not pair.client.can_move()


def test_without_an_id_to_spare_a_client_stays() -> None:
    pair = MovingPair()
    pair.settle()
    for number in range(20):
        if not pair.client.can_move():
            break
        pair.client_address = ("10.0.1.1", number)
        pair.client.move()
    assert not pair.client.can_move()
    pair.settle()  # once the server has heard of it there are others
    assert pair.client.can_move()
    assert pair.client._cryptos[Epoch.ONE_RTT].send.is_valid()


class RoughPair(MovingPair):
    """The network loses, repeats and delays; what is late comes from the address before."""

    def __init__(self, seed: int, **options: Any) -> None:
        self.chance = random.Random(seed)
        self.calm = True
        self.late: list[tuple[bytes, Any]] = []
        super().__init__(**options)
        self.calm = False

    def round_trip(self) -> None:
        if self.calm:
            super().round_trip()
            return
        self.now += 0.005
        self._fire(self.client)
        late, self.late = self.late, []
        for data, address in late + [
            (data, self.client_address) for data, _ in self.client.transmit(self.now)
        ]:
            fate = self.chance.random()
            if fate < 0.1:
                continue
            if fate < 0.2:
                self.late.append((data, address))
            if not 0.15 < fate < 0.2:
                self.server.receive_datagram(data, address, self.now)
        self.now += 0.005
        self._fire(self.server)
        for data, to in self.server.transmit(self.now):
            if to == self.client_address and self.chance.random() > 0.1:
                self.client.receive_datagram(data, SERVER, self.now)

    def _fire(self, engine: Any) -> None:
        deadline = engine.next_timer()
        if deadline is not None and deadline <= self.now:
            engine.handle_timer(self.now)

    def roam(self) -> None:
        fate = self.chance.random()
        if fate < 0.02:
            self.client_address = ("10.0.1.1", self.chance.randrange(1, 60000))
        elif fate < 0.04:
            self.client_address = (f"10.0.2.{self.chance.randrange(1, 250)}", 1)
            if self.client.can_move():
                self.client.move()
        elif fate < 0.06:
            self.chance.choice([self.client, self.server])._renew_keys()


@pytest.mark.parametrize("fast_path", [True, False])
# The last three move while a key update is under way.
@pytest.mark.parametrize("seed", [1, 2, 3, 44, 45, 147])
def test_on_a_rough_way_nothing_is_lost_either(seed: int, fast_path: bool) -> None:
    pair = RoughPair(seed, fast_path=fast_path)
    pair.settle()
    up = pair.client.open_stream(uni=True)
    down = pair.server.open_stream(uni=True)
    for number in range(100):
        pair.client.write(up, b"%d" % number * 500, number == 99)
        pair.server.write(down, b"%d" % number * 500, number == 99)
        pair.roam()
        pair.round_trip()
    expected = b"".join(b"%d" % number * 500 for number in range(100))
    for _ in range(5000):
        if (
            len(pair.far.received.get(2, b""))
            == len(pair.near.received.get(3, b""))
            == len(expected)
        ):
            break
        pair.round_trip()
    assert pair.far.received == {2: expected}
    assert pair.near.received == {3: expected}
    assert pair.client.close_cause is pair.server.close_cause is None
    assert pair.server.get_peer_address() == pair.client_address
