"""An endpoint under attack: what it keeps, and what it survives."""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from moqtrio.transport.connection import Connection
from moqtrio.transport.quic.configuration import ServerConfigurations, client_configuration
from moqtrio.transport.quic.connection import QuicConnection
from moqtrio.transport.quic.engine import Engine
from moqtrio.transport.quic.retry import RetryTokens
from moqtrio.transport.quic.server import Acceptor
from moqtrio.transport.quic.udp import UdpSocket
from moqtrio.transport.settings import TransportSettings

from .network import SERVER, Network, simulated_pair
from .pairs import ALPN, development_tls, pinned, plain_settings, read_all, start_server
from .test_quic_engine import Recorder

UNKNOWN_VERSION = b"\xc0\x0a\x0a\x0a\x0a\x08" + bytes(8) + b"\x08" + bytes(1200)


def junk_first_packet() -> bytes:
    """What looks like a client's first packet until one tries to decrypt it."""
    header = b"\xc0\x00\x00\x00\x01\x08" + os.urandom(8) + b"\x08" + os.urandom(8)
    return header + b"\x00\x44\x9e" + os.urandom(1182)


def connections_in_memory() -> int:
    gc.collect()
    return sum(type(each) is QuicConnection for each in gc.get_objects())


async def wait_closed(connection: Connection) -> None:
    await connection.wait_closed()


@asynccontextmanager
async def accepting(
    sock: UdpSocket, settings: TransportSettings | None = None
) -> AsyncIterator[Acceptor]:
    """An acceptor on a socket of any kind."""
    chosen = settings or plain_settings()
    configurations = ServerConfigurations(
        alpn=[ALPN], tls=development_tls(), settings=chosen, secrets=None
    )
    try:
        async with trio.open_nursery() as nursery:
            acceptor = Acceptor(wait_closed, nursery, configurations, chosen)
            nursery.start_soon(acceptor.add_endpoint(sock).run)
            yield acceptor
            nursery.cancel_scope.cancel()
    finally:
        sock.close()


async def test_answers_to_unknown_versions_do_not_block_an_endpoint_for_good(
    tmp_path: Path,
) -> None:
    # Unlike UDP on loopback, which drops, local datagrams push back.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
        peer.bind(str(tmp_path / "peer"))
        peer.setblocking(False)
        near = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        near.bind(str(tmp_path / "server"))
        peer.connect(str(tmp_path / "server"))
        sock = UdpSocket(near, buffer_size=1 << 20, peer=None)
        async with accepting(sock):
            with trio.fail_after(5):
                while not sock.blocked:
                    await trio.lowlevel.wait_writable(peer)
                    peer.send(UNKNOWN_VERSION)
                    await wait_all_tasks_blocked()
                while sock.blocked:
                    await trio.lowlevel.wait_readable(peer)
                    peer.recv(2000)
                    await wait_all_tasks_blocked(0.001)


async def test_junk_first_packets_are_not_kept_until_their_timers() -> None:
    async with trio.open_nursery() as nursery:
        before = connections_in_memory()
        listener = await start_server(nursery, wait_closed)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as raw:
            raw.connect(("127.0.0.1", listener.port))
            for _ in range(20):
                raw.send(junk_first_packet())
            raw.send(UNKNOWN_VERSION)
            await trio.lowlevel.wait_readable(raw)  # all before it was dealt with
        assert connections_in_memory() == before
        nursery.cancel_scope.cancel()


async def test_closed_connections_are_not_kept_until_their_timers(
    autojump_clock: MockClock,
) -> None:
    before = connections_in_memory()
    settings = plain_settings(idle_timeout=3600, keep_alive=None)
    async with simulated_pair(Network(), client=settings, server=settings) as (near, far):
        assert connections_in_memory() == before + 2
        await trio.sleep(20)  # from now on a timer waits for the idle timeout
        near.close()
        await far.wait_closed()
        del near, far
        await trio.sleep(60)
        # The context manager itself still holds the client's.
        assert connections_in_memory() <= before + 1


async def test_junk_first_packets_leave_no_qlog(tmp_path: Path) -> None:
    settings = plain_settings(qlog_directory=tmp_path)
    near = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    near.bind(("127.0.0.1", 0))
    sock = UdpSocket(near, buffer_size=1 << 20, peer=None)
    async with accepting(sock, settings) as acceptor:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as raw:
            raw.connect(sock.address)
            raw.send(junk_first_packet())
            raw.send(UNKNOWN_VERSION)
            await trio.lowlevel.wait_readable(raw)
        logger = acceptor._configurations.current.quic_logger
        assert logger is not None
        assert logger.to_dict()["traces"] == []
    assert os.listdir(tmp_path) == []


def first_flight() -> list[bytes]:
    """What a client sends first. Its address is anyone's guess."""
    pair_settings = plain_settings()
    engine = Engine(
        configuration=client_configuration(
            alpn=[ALPN],
            tls=pinned(),
            authorities=None,
            server_name="server.test",
            settings=pair_settings,
            secrets=None,
        ),
        settings=pair_settings,
        owner=Recorder(),
    )
    engine.connect(SERVER, trio.current_time())
    return [data for data, _ in engine.transmit(trio.current_time())]


async def test_forged_first_flights_keep_nobody_out(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    network = Network()
    settings = plain_settings(max_connections=20)

    async def flood() -> None:
        for number in range(100):
            forged = ("10.6.6.6", number)
            network.socket(forged)
            for data in first_flight():
                network.carry(data, forged, SERVER)

    await flood()
    async with simulated_pair(network, server=settings) as (near, far):
        near.open_uni_nowait().send_nowait(b"let in", finish=True)
        assert await read_all(await far.accept_uni()) == b"let in"
    assert not caplog.records


async def test_a_full_server_says_so_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    network = Network()
    settings = plain_settings(max_connections=1)
    async with simulated_pair(network, server=settings):
        for number in range(10):
            network.socket(("10.6.6.6", number))
            for data in first_flight():
                network.carry(data, ("10.6.6.6", number), SERVER)
        await trio.sleep(1)
    assert sum("at the limit" in record.message for record in caplog.records) == 1


def test_a_token_is_good_for_one_address_one_connection_and_a_while() -> None:
    tokens = RetryTokens()
    original, later, address = b"original", b"later id", ("10.0.0.1", 1)
    token = tokens.seal(original, later, address, 100.0)
    assert tokens.open(token, later, address, 101.0) == original
    assert tokens.open(token, later, address, 200.0) is None
    assert tokens.open(token, b"another!", address, 101.0) is None
    assert tokens.open(token, later, ("10.0.0.2", 1), 101.0) is None
    assert tokens.open(token[:-1], later, address, 101.0) is None
    assert tokens.open(b"", later, address, 101.0) is None
    assert RetryTokens().open(token, later, address, 101.0) is None
