"""A server among hostile, slow and failing peers. Over loopback UDP."""

from __future__ import annotations

import errno
import logging
import os
import random
import socket
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from moqtrio.errors import ConnectError, SessionClosed
from moqtrio.transport.connection import Connection, ReceiveStream
from moqtrio.transport.quic import QuicListener, open_quic
from moqtrio.transport.settings import TransportSettings

from .pairs import ALPN, pinned, plain_settings, quic_pair, read_all, start_server, until


def opened(listener: QuicListener, settings: TransportSettings | None = None) -> Any:
    return open_quic(
        "127.0.0.1",
        listener.port,
        alpn=[ALPN],
        tls=pinned(),
        settings=settings or plain_settings(),
    )


async def echo(connection: Connection) -> None:
    while True:
        bidi = await connection.accept_bidi()
        await bidi.send.send_all(await read_all(bidi.receive))
        bidi.send.finish()


async def ask(connection: Connection, text: bytes) -> bytes:
    bidi = await connection.open_bidi()
    bidi.send.send_nowait(text, finish=True)
    with trio.fail_after(5):
        return await read_all(bidi.receive)


async def test_junk_is_ignored() -> None:
    noise = random.Random(1)
    async with trio.open_nursery() as nursery:
        listener = await start_server(nursery, echo)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as raw:
            raw.setblocking(False)
            raw.connect(("127.0.0.1", listener.port))
            for length in (0, 1, 2, 5, 6, 7, 20, 21, 100, 1199, 1200, 1201, 1452):
                for first in (0x00, 0x40, 0x80, 0xC0, 0xC3, 0xD0, 0xE0, 0xF0, 0xFF):
                    raw.send(bytes([first]) * min(length, 1) + noise.randbytes(max(0, length - 1)))
                    version_one = bytes([first]) + b"\x00\x00\x00\x01\x08" + noise.randbytes(8)
                    raw.send(version_one + noise.randbytes(length))
            unknown = b"\xc0\x0a\x0a\x0a\x0a\x08" + bytes(8) + b"\x08" + bytes(8)
            raw.send(unknown + bytes(100))
            raw.send(unknown + bytes(1200))
            async with opened(listener) as connection:
                assert await ask(connection, b"still there?") == b"still there?"
            # Only an unknown version in a full-sized datagram gets an answer, a short one.
            answers = []
            while True:
                try:
                    answers.append(raw.recv(65536))
                except BlockingIOError:
                    break
            assert len(answers) == 1
            assert len(answers[0]) < 100
            assert answers[0][1:5] == bytes(4)
        nursery.cancel_scope.cancel()


async def test_junk_from_a_known_peer_is_ignored() -> None:
    async with quic_pair() as (near, far):
        bidi = await near.open_bidi()
        bidi.send.send_nowait(b"before")
        sock: socket.socket = near._endpoint.socket._socket  # type: ignore[attr-defined]
        for length in (1, 9, 10, 25, 1200):
            sock.send(b"\x40" + os.urandom(length))
            sock.send(b"\xc0\x00\x00\x00\x01" + os.urandom(length))
        bidi.send.send_nowait(b" and after", finish=True)
        assert await read_all((await far.accept_bidi()).receive) == b"before and after"


async def test_a_failing_handler_ends_its_own_connection(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(connection: Connection) -> None:
        if await read_all(await connection.accept_uni()) == b"fail":
            raise RuntimeError("handler's own trouble")
        await echo(connection)

    async with trio.open_nursery() as nursery:
        listener = await start_server(nursery, handler)
        async with opened(listener) as good, opened(listener) as bad:
            good.open_uni_nowait().send_nowait(b"serve", finish=True)
            with caplog.at_level(logging.ERROR, logger="moqtrio"):
                bad.open_uni_nowait().send_nowait(b"fail", finish=True)
                end = await bad.wait_closed()
            assert (end.code, end.remote) == (1, True)
            assert "handler's own trouble" in caplog.text
            assert await ask(good, b"unharmed") == b"unharmed"
        nursery.cancel_scope.cancel()


async def test_a_handler_that_ends_with_its_connection_is_no_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    finished = trio.Event()

    async def handler(connection: Connection) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.accept_uni)
                nursery.start_soon(connection.accept_bidi)
        finally:
            finished.set()

    async with trio.open_nursery() as nursery:
        listener = await start_server(nursery, handler)
        with caplog.at_level(logging.INFO, logger="moqtrio"):
            async with opened(listener):
                pass
            await finished.wait()
            await trio.testing.wait_all_tasks_blocked()
        assert not [record for record in caplog.records if record.name.startswith("moqtrio")]
        nursery.cancel_scope.cancel()


async def test_a_handler_that_fails_while_it_is_cancelled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handler(connection: Connection) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise RuntimeError("trouble in cleaning up")

    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def serve(task_status: trio.TaskStatus[QuicListener]) -> None:
            with scope:
                async with trio.open_nursery() as inner:
                    task_status.started(await start_server(inner, handler))

        listener = await nursery.start(serve)
        async with opened(listener) as connection:
            scope.cancel()
            end = await connection.wait_closed()
        assert end.reason == "server shut down"
        assert "trouble in cleaning up" in caplog.text
        nursery.cancel_scope.cancel()


async def test_a_defect_in_one_connection_spares_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    connections: list[Connection] = []

    async def handler(connection: Connection) -> None:
        connections.append(connection)
        await echo(connection)

    async with trio.open_nursery() as nursery:
        listener = await start_server(nursery, handler)
        async with opened(listener) as bad, opened(listener) as good:
            await until(lambda: len(connections) == 2)

            def broken(*_: object) -> None:
                raise RuntimeError("a defect")

            connections[0]._engine.receive_datagram = broken  # type: ignore[attr-defined]
            bad.open_uni_nowait().send_nowait(b"x")
            assert (await connections[0].wait_closed()).reason == "internal error"
            with trio.fail_after(2):
                assert (await bad.wait_closed()).reason == "internal error"
            assert await ask(good, b"unharmed") == b"unharmed"
            assert "a defect" in caplog.text
        nursery.cancel_scope.cancel()


async def test_a_slow_reader_delays_nobody() -> None:
    async def flood(connection: Connection) -> None:
        sender = await connection.open_uni()
        while True:
            await sender.send_all(bytes(50_000))

    async def handler(connection: Connection) -> None:
        if await read_all(await connection.accept_uni()) == b"flood":
            await flood(connection)
        await echo(connection)

    settings = plain_settings(stream_window=100_000)
    async with trio.open_nursery() as nursery:
        listener = await start_server(nursery, handler)
        async with opened(listener, settings) as slow, opened(listener) as quick:
            slow.open_uni_nowait().send_nowait(b"flood", finish=True)
            quick.open_uni_nowait().send_nowait(b"echo", finish=True)
            await until(lambda: slow.statistics().receive_buffered == 100_000)
            for number in range(50):
                assert await ask(quick, b"%d" % number) == b"%d" % number
            assert slow.statistics().receive_buffered == 100_000
        nursery.cancel_scope.cancel()


async def test_cancelling_the_server_tells_the_clients_and_frees_the_port() -> None:
    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def serve(task_status: trio.TaskStatus[QuicListener]) -> None:
            with scope:
                async with trio.open_nursery() as inner:
                    task_status.started(await start_server(inner, echo))

        listener = await nursery.start(serve)
        async with opened(listener) as connection:
            scope.cancel()
            with trio.fail_after(2):
                end = await connection.wait_closed()
        assert (end.code, end.remote, end.reason) == (0, True, "server shut down")
        again = await start_server(nursery, echo, port=listener.port)
        assert again.port == listener.port
        nursery.cancel_scope.cancel()


async def test_a_handler_that_returns_closes_the_connection() -> None:
    async def handler(connection: Connection) -> None:
        await connection.accept_uni()

    async with trio.open_nursery() as nursery:
        listener = await start_server(nursery, handler)
        async with opened(listener) as connection:
            connection.open_uni_nowait().finish()
            assert (await connection.wait_closed()).code == 0
        nursery.cancel_scope.cancel()


async def test_the_number_of_connections_is_bounded() -> None:
    async with trio.open_nursery() as nursery:
        listener = await start_server(nursery, echo, settings=plain_settings(max_connections=1))
        async with opened(listener) as first:
            with pytest.raises(ConnectError, match="did not answer"):
                async with opened(listener, plain_settings(connect_timeout=0.3)):
                    pytest.fail("a connection too many")
            assert await ask(first, b"fine") == b"fine"
        nursery.cancel_scope.cancel()


async def test_nobody_listening() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with trio.fail_after(2), pytest.raises(ConnectError, match=rf"127\.0\.0\.1:{port}"):
        async with open_quic("127.0.0.1", port, alpn=[ALPN], tls=pinned()):
            pytest.fail("connected to nobody")


async def test_an_unknown_host() -> None:
    with pytest.raises(ConnectError, match=r"nowhere\.invalid"):
        async with open_quic("nowhere.invalid", 4443, alpn=[ALPN]):
            pytest.fail("connected to nowhere")


async def test_a_taken_port() -> None:
    async with trio.open_nursery() as nursery:
        listener = await start_server(nursery, echo)
        with pytest.RaisesGroup(
            pytest.RaisesExc(ConnectError, match="in use"), flatten_subgroups=True
        ):
            async with trio.open_nursery() as other:
                await start_server(other, echo, port=listener.port)
        nursery.cancel_scope.cancel()


async def test_the_next_address_is_tried() -> None:
    async with trio.open_nursery() as nursery:
        listener = await start_server(nursery, echo)
        resolver = Resolver({"two.test": ["127.0.0.9", "127.0.0.1"]})
        trio.socket.set_custom_hostname_resolver(resolver)
        async with open_quic(
            "two.test", listener.port, alpn=[ALPN], tls=pinned(), settings=plain_settings()
        ) as connection:
            assert connection.remote_address == f"127.0.0.1:{listener.port}"
        nursery.cancel_scope.cancel()


class Resolver(trio.abc.HostnameResolver):
    def __init__(self, hosts: dict[str, list[str]]) -> None:
        self._hosts = hosts

    async def getaddrinfo(self, host: Any, port: Any, *_: Any, **__: Any) -> Any:
        kind = (socket.AF_INET, socket.SOCK_DGRAM, 17, "")
        return [(*kind, (address, port)) for address in self._hosts[host.decode()]]

    async def getnameinfo(self, *_: Any) -> Any:
        raise NotImplementedError


async def test_ipv6_and_everywhere() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 loopback here")
    async with trio.open_nursery() as nursery:
        listener = await start_server(nursery, echo, host="::")
        for host in ("::1", "127.0.0.1"):
            async with open_quic(
                host, listener.port, alpn=[ALPN], tls=pinned(), settings=plain_settings()
            ) as connection:
                assert await ask(connection, b"hello") == b"hello"
        nursery.cancel_scope.cancel()


async def test_everywhere_is_ipv4_where_there_is_no_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    class OldSocket(socket.socket):
        def __init__(self, family: int = -1, *arguments: Any, **options: Any) -> None:
            if family == socket.AF_INET6:
                number = errno.EAFNOSUPPORT
                raise OSError(number, os.strerror(number))
            super().__init__(family, *arguments, **options)

    monkeypatch.setattr(socket, "socket", OldSocket)
    async with trio.open_nursery() as nursery:
        listener = await start_server(nursery, echo, host="")
        assert listener.addresses == (("0.0.0.0", listener.port),)
        async with opened(listener) as connection:
            assert await ask(connection, b"hello") == b"hello"
        with pytest.RaisesGroup(pytest.RaisesExc(ConnectError), flatten_subgroups=True):
            async with trio.open_nursery() as other:
                await start_server(other, echo, host="::1")
        nursery.cancel_scope.cancel()


async def test_a_users_exception_comes_out_bare() -> None:
    async with trio.open_nursery() as nursery:
        listener = await start_server(nursery, echo)
        mine = KeyError("mine")
        with pytest.raises(KeyError) as raised:
            async with opened(listener):
                raise mine
        assert raised.value is mine

        async def use_after_close() -> None:
            async with opened(listener) as connection:
                connection.close(1, "done")
                await connection.accept_uni()

        with pytest.raises(SessionClosed):
            await use_after_close()
        nursery.cancel_scope.cancel()


async def test_cancelling_a_client_while_it_connects() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        with trio.move_on_after(0.1) as scope:
            async with open_quic("127.0.0.1", silent.getsockname()[1], alpn=[ALPN], tls=pinned()):
                pytest.fail("connected to silence")
        assert scope.cancelled_caught


async def test_nothing_is_left_behind() -> None:
    def sockets() -> int:
        return sum(
            os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
            for name in os.listdir("/proc/self/fd")
            if os.path.islink(f"/proc/self/fd/{name}")
        )

    before = trio.lowlevel.current_statistics().tasks_living, sockets()
    for _ in range(3):
        async with quic_pair() as (near, far):
            near.open_uni_nowait().send_nowait(b"x", finish=True)
            assert await read_all(await far.accept_uni()) == b"x"
    assert (trio.lowlevel.current_statistics().tasks_living, sockets()) == before


async def test_secrets_and_qlogs_are_written_where_asked(tmp_path: Path) -> None:
    keylog, qlogs = tmp_path / "keys.log", tmp_path / "qlog"
    settings = plain_settings(keylog_file=keylog, qlog_directory=qlogs)
    async with quic_pair(client=settings, server=settings) as (near, far):
        near.open_uni_nowait().send_nowait(b"x" * 5000, finish=True)
        receiver = await far.accept_uni()
        await read_all(receiver)
        bidi = await near.open_bidi()
        bidi.send.reset(1)
        bidi.receive.stop(1)
        near.send_datagram_nowait(b"d")
        await far.receive_datagram()
    assert "CLIENT_TRAFFIC_SECRET_0" in keylog.read_text()
    assert len(list(qlogs.iterdir())) >= 1


async def test_large_packets_and_many_connections() -> None:
    settings = plain_settings(max_datagram_size=16384)
    async with trio.open_nursery() as nursery:
        listener = await start_server(nursery, echo, settings=settings)

        async def client(number: int) -> None:
            async with opened(listener, settings) as connection:
                payload = bytes([number]) * 300_000
                bidi = await connection.open_bidi()
                async with trio.open_nursery() as inner:

                    async def send() -> None:
                        await bidi.send.send_all(payload)
                        bidi.send.finish()

                    inner.start_soon(send)
                    assert await read_all(bidi.receive) == payload

        async with trio.open_nursery() as clients:
            for number in range(8):
                clients.start_soon(client, number)
        nursery.cancel_scope.cancel()


async def test_a_writer_that_rarely_yields_is_flushed_when_it_does() -> None:
    async with quic_pair() as (near, far):
        for number in range(20):
            near.open_uni_nowait().send_nowait(b"%d" % number, finish=True)
        received: list[bytes] = []

        async def read(stream: ReceiveStream) -> None:
            received.append(await read_all(stream))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(read, await far.accept_uni())
        assert sorted(received) == sorted(b"%d" % number for number in range(20))
