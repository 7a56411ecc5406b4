"""A server, and clients that say exactly what the test says."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio

from moqtrio.transport.connection import Connection
from moqtrio.transport.http import HttpListener, serve_http
from moqtrio.transport.tls import ServerTls

from ..pairs import ALPN, Handler, development_tls, plain_settings


async def hold(connection: Connection) -> None:
    """A handler that waits for the end."""
    await connection.wait_closed()


@asynccontextmanager
async def server(
    handler: Handler = hold,
    *,
    tls: ServerTls | None = None,
    routes: Any = None,
    protocols: tuple[str, ...] = (ALPN,),
    **settings: Any,
) -> AsyncIterator[int]:
    """Serve on loopback over the block; its port."""
    async with trio.open_nursery() as nursery:
        listener: HttpListener = await nursery.start(
            partial(
                serve_http,
                handler,
                "127.0.0.1",
                0,
                protocols=protocols,
                routes=routes,
                tls=tls,
                settings=plain_settings(**settings),
            )
        )
        yield listener.port
        nursery.cancel_scope.cancel()


async def read_to_end(stream: trio.abc.ReceiveStream) -> bytes:
    """Everything up to the end, be it an abrupt one."""
    data = b""
    try:
        while chunk := await stream.receive_some():
            data += chunk
    except trio.BrokenResourceError:
        pass
    return data


async def say(port: int, text: str | bytes) -> str:
    """What a server answers before it closes the connection."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(text.encode() if isinstance(text, str) else text)
        with trio.fail_after(10):
            return (await read_to_end(stream)).decode()


def request(line: str, *headers: str, close: bool = True) -> str:
    """A request's head."""
    last = ["Connection: close"] if close else []
    return "\r\n".join([f"{line} HTTP/1.1", "Host: test", *headers, *last, "", ""])


def upgrade(path: str = "/", **changes: str | None) -> str:
    """The head of a WebSocket's handshake; None leaves a header out."""
    headers: dict[str, str | None] = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Protocol": f"qmux-02.{ALPN}",
    }
    headers |= {name.replace("_", "-"): value for name, value in changes.items()}
    lines = [f"{name}: {value}" for name, value in headers.items() if value is not None]
    return request(f"GET {path}", *lines, close=False)


def unchecked_tls() -> ssl.SSLContext:
    """A client's context that takes any certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@asynccontextmanager
async def answering(answer: Callable[[trio.SocketStream], Any]) -> AsyncIterator[int]:
    """A TCP server that is none of ours; its port."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, answer, listeners)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


__all__ = [
    "answering",
    "development_tls",
    "hold",
    "read_to_end",
    "request",
    "say",
    "server",
    "unchecked_tls",
    "upgrade",
]
