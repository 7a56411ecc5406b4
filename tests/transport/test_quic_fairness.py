"""Connections of one endpoint share its event loop. Over loopback UDP."""

from __future__ import annotations

from typing import Any

import trio

from moqtrio.transport.connection import Connection
from moqtrio.transport.quic import open_quic

from .pairs import ALPN, pinned, plain_settings, read_all, start_server, until

LARGE = plain_settings(
    stream_window=8 << 20,
    connection_window=16 << 20,
    connection_send_high=8 << 20,
)


async def test_who_has_little_to_send_does_not_wait_for_who_has_much() -> None:
    """Nor does anything else that happens in the event loop."""
    accepted: list[Connection] = []

    async def handler(connection: Connection) -> None:
        accepted.append(connection)
        await connection.wait_closed()

    async with trio.open_nursery() as nursery:
        listener = await start_server(nursery, handler, settings=LARGE)

        def client() -> Any:
            return open_quic(
                "127.0.0.1", listener.port, alpn=[ALPN], tls=pinned(), settings=plain_settings()
            )

        async with client() as busy, client() as quiet:
            await until(lambda: len(accepted) == 2)
            much, little = accepted
            await transfer(much, busy, 6_000_000)  # so that its congestion window is large
            await transfer(little, quiet, 1)

            sent: list[tuple[Any, int]] = []
            sock = much._endpoint.socket  # type: ignore[attr-defined]  # to see who is served
            send = sock.send

            def watch(datagrams: list[tuple[bytes, Any]]) -> None:
                sent.append((datagrams[0][1], sum(len(data) for data, _ in datagrams)))
                send(datagrams)

            sock.send = watch
            (await much.open_uni()).send_nowait(bytes(2_000_000), finish=True)
            stream = await little.open_uni()
            stream.send_nowait(b"news", finish=True)
            first = await quiet.accept_uni()
            assert await read_all(first) == b"news"
            sizes = [size for _, size in sent]
            assert max(sizes) <= 40_000, "of one connection in one step"
            addresses = [address for address, _ in sent]
            port = quiet._endpoint.socket._socket.getsockname()[1]  # type: ignore[attr-defined]
            before = next(i for i, address in enumerate(addresses) if address[1] == port)
            assert sum(sizes[:before]) <= 80_000
            sock.send = send
        nursery.cancel_scope.cancel()


async def transfer(sender: Connection, receiver: Connection, size: int) -> None:
    async with trio.open_nursery() as nursery:
        stream = await sender.open_uni()
        nursery.start_soon(stream.send_all, bytes(size))
        received = await receiver.accept_uni()
        left = size
        while left:
            left -= len(await received.receive_some())
