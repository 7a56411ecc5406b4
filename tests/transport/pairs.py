"""Two connected ends, over real loopback UDP or in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cache, partial
from typing import Any

import attrs
import trio

from moqtrio.transport.connection import Connection
from moqtrio.transport.http import HttpListener, open_websocket, serve_http
from moqtrio.transport.memory import memory_connection_pair
from moqtrio.transport.quic import QuicListener, open_quic, serve_quic
from moqtrio.transport.settings import TransportSettings
from moqtrio.transport.tls import ClientTls, ServerTls, generate_certificate
from moqtrio.transport.webtransport import open_webtransport, serve_webtransport

ALPN = "moq-lite-05"

Handler = Callable[[Connection], Awaitable[object]]


@cache
def development_tls() -> ServerTls:
    return generate_certificate()


def plain_settings(**changes: Any) -> TransportSettings:
    return TransportSettings(**{"keylog_file": None, **changes})


async def start_server(
    nursery: trio.Nursery,
    handler: Handler,
    *,
    settings: TransportSettings | None = None,
    tls: ServerTls | None = None,
    alpn: tuple[str, ...] = (ALPN,),
    host: str = "127.0.0.1",
    port: int = 0,
) -> QuicListener:
    async def serve(task_status: trio.TaskStatus[QuicListener]) -> None:
        await serve_quic(
            handler,
            host,
            port,
            alpn=alpn,
            tls=tls or development_tls(),
            settings=settings or plain_settings(),
            task_status=task_status,
        )

    listener: QuicListener = await nursery.start(serve)
    return listener


def pinned() -> ClientTls:
    return ClientTls(fingerprint=development_tls().fingerprint)


@asynccontextmanager
async def quic_pair(
    *, client: TransportSettings | None = None, server: TransportSettings | None = None
) -> AsyncIterator[tuple[Connection, Connection]]:
    """A client's and a server's connection over loopback UDP."""
    send, receive = trio.open_memory_channel[Connection](1)

    async def handler(connection: Connection) -> None:
        send.send_nowait(connection)
        await connection.wait_closed()

    async with trio.open_nursery() as nursery:
        listener = await start_server(nursery, handler, settings=server)
        async with open_quic(
            "127.0.0.1",
            listener.port,
            alpn=[ALPN],
            tls=pinned(),
            settings=client or plain_settings(),
        ) as near:
            yield near, await receive.receive()
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def memory_pair(
    *, client: TransportSettings | None = None, server: TransportSettings | None = None
) -> AsyncIterator[tuple[Connection, Connection]]:
    """A pair in memory; ``server`` is not used: both sides share the settings."""
    near, far = memory_connection_pair(settings=client or server)
    yield near, far
    near.close()


@asynccontextmanager
async def websocket_pair(
    *,
    client: TransportSettings | None = None,
    server: TransportSettings | None = None,
    encrypted: bool = False,
) -> AsyncIterator[tuple[Connection, Connection]]:
    """A client's and a server's connection over loopback TCP."""
    send, receive = trio.open_memory_channel[Connection](1)

    async def handler(connection: Connection) -> None:
        send.send_nowait(connection)
        await connection.wait_closed()

    async def serve(task_status: trio.TaskStatus[HttpListener]) -> None:
        await serve_http(
            handler,
            "127.0.0.1",
            0,
            protocols=[ALPN],
            tls=development_tls(),
            settings=server or plain_settings(),
            task_status=task_status,
        )

    async with trio.open_nursery() as nursery:
        listener: HttpListener = await nursery.start(serve)
        async with open_websocket(
            "127.0.0.1",
            listener.port,
            protocols=[ALPN],
            encrypted=encrypted,
            tls=pinned(),
            settings=client or plain_settings(),
        ) as near:
            yield near, await receive.receive()
        nursery.cancel_scope.cancel()


# What HTTP/3 needs of the limits for itself: the bytes a stream starts with, the control
# stream, and the stream of the CONNECT request.
_PREFIX = 3
_H3_STREAMS = 1


def _for_webtransport(settings: TransportSettings | None) -> TransportSettings:
    settings = settings or plain_settings()
    return attrs.evolve(
        settings,
        stream_window=settings.stream_window + _PREFIX,
        max_streams_uni=settings.max_streams_uni + _H3_STREAMS,
        max_streams_bidi=settings.max_streams_bidi + _H3_STREAMS,
    )


@asynccontextmanager
async def webtransport_pair(
    *, client: TransportSettings | None = None, server: TransportSettings | None = None
) -> AsyncIterator[tuple[Connection, Connection]]:
    """A client's and a server's session over HTTP/3 on loopback UDP."""
    send, receive = trio.open_memory_channel[Connection](1)

    async def handle_session(session: Connection) -> None:
        send.send_nowait(session)
        await trio.sleep_forever()  # what arrived is let go once the handler has returned

    async def handle_connection(connection: Connection) -> None:
        await serve_webtransport(connection, handle_session, protocols=[ALPN])

    async with trio.open_nursery() as nursery:
        listener = await start_server(
            nursery, handle_connection, settings=_for_webtransport(server), alpn=("h3",)
        )
        async with (
            open_quic(
                "127.0.0.1",
                listener.port,
                alpn=["h3"],
                tls=pinned(),
                settings=_for_webtransport(client),
            ) as carrier,
            open_webtransport(carrier, authority="localhost", path="/", protocols=[ALPN]) as near,
        ):
            yield near, await receive.receive()
        nursery.cancel_scope.cancel()


PAIRS = {
    "memory": memory_pair,
    "quic": quic_pair,
    "websocket": websocket_pair,
    "webtransport": webtransport_pair,
    "websocket-tls": partial(websocket_pair, encrypted=True),
}


async def read_all(stream: Any) -> bytes:
    """Everything up to the end of a stream."""
    parts = []
    while data := await stream.receive_some():
        parts.append(data)
    return b"".join(parts)


class _Watch(trio.abc.Instrument):
    """Looks at a condition after each step of any task: nothing else can change it."""

    def __init__(self, condition: Callable[[], bool]) -> None:
        self._condition = condition
        self.met = trio.Event()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if self._condition():
            self.met.set()


async def until(condition: Callable[[], bool]) -> None:
    """Let other tasks, and the network, go on until ``condition`` holds."""
    watch = _Watch(condition)
    trio.lowlevel.add_instrument(watch)
    try:
        with trio.fail_after(5):
            await watch.met.wait()
    finally:
        trio.lowlevel.remove_instrument(watch)
