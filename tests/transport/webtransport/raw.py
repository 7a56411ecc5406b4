"""A peer of WebTransport whose every byte the test decides, over connections in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pylsqpack
import trio
from aioquic._buffer import Buffer
from aioquic.buffer import encode_uint_var

from moqtrio.errors import SessionClosed
from moqtrio.transport.connection import BidiStream, Connection, ReceiveStream, SendStream
from moqtrio.transport.memory import memory_connection_pair
from moqtrio.transport.webtransport import serve_webtransport

from ..pairs import plain_settings

PROTOCOL = "moq-lite-05"
DATA, HEADERS, SETTINGS, GOAWAY = 0x0, 0x1, 0x4, 0x7
CONTROL, PUSH, ENCODER, DECODER = 0x0, 0x1, 0x2, 0x3
UNI, BIDI = 0x54, 0x41
CLOSE, DRAIN = 0x2843, 0x78AE
# Enough for either side to speak WebTransport.
SPEAKS = {0x8: 1, 0x33: 1, 0x2B603742: 1}

Fields = Sequence[tuple[bytes, bytes]]


def varints(*numbers: int) -> bytes:
    return b"".join(encode_uint_var(number) for number in numbers)


def frame(kind: int, value: bytes = b"") -> bytes:
    return varints(kind, len(value)) + value


def settings(pairs: dict[int, int]) -> bytes:
    return frame(SETTINGS, b"".join(varints(*pair) for pair in pairs.items()))


def headers(fields: Fields) -> bytes:
    _, section = pylsqpack.Encoder().encode(0, list(fields))
    return frame(HEADERS, section)


def connect_fields(**changes: bytes | None) -> list[tuple[bytes, bytes]]:
    """A good request, but for ``changes``: by name, with _ for - and : left out."""
    fields = {
        b":method": b"CONNECT",
        b":protocol": b"webtransport",
        b":scheme": b"https",
        b":authority": b"example.test",
        b":path": b"/room?x=1",
        b"wt-available-protocols": b'"zz", "moq-lite-05"',
    }
    for key, value in changes.items():
        name = key.replace("_", "-").encode()
        name = b":" + name if b":" + name in fields else name
        if value is None:
            del fields[name]
        else:
            fields[name] = value
    return list(fields.items())


def accepted(protocol: bytes = b'"moq-lite-05"') -> bytes:
    return headers([(b":status", b"200"), (b"wt-protocol", protocol)])


def capsule(kind: int, value: bytes = b"") -> bytes:
    """In a DATA frame of its own."""
    return frame(DATA, frame(kind, value))


def frames_of(data: bytes) -> list[tuple[int, bytes]]:
    buffer, frames = Buffer(data=data), []
    while not buffer.eof():
        kind = buffer.pull_uint_var()
        frames.append((kind, buffer.pull_bytes(buffer.pull_uint_var())))
    return frames


def settings_of(value: bytes) -> dict[int, int]:
    buffer, pairs = Buffer(data=value), {}
    while not buffer.eof():
        key = buffer.pull_uint_var()
        pairs[key] = buffer.pull_uint_var()
    return pairs


def fields_of(section: bytes) -> dict[bytes, bytes]:
    _, fields = pylsqpack.Decoder(0, 0).feed_header(0, section)
    return dict(fields)


async def next_frame(stream: ReceiveStream) -> tuple[int, bytes]:
    """One frame, taking no more."""

    async def exactly(count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = await stream.receive_some(count - len(data))
            assert piece, "the stream ended within a frame"
            data += piece
        return data

    async def varint() -> int:
        first = await exactly(1)
        rest = (1 << (first[0] >> 6)) - 1
        return Buffer(data=first + (await exactly(rest) if rest else b"")).pull_uint_var()

    kind, length = await varint(), await varint()
    return kind, await exactly(length) if length else b""


class Peer:
    """The other end of an HTTP/3 connection."""

    def __init__(self, connection: Connection, other_side: trio.CancelScope | None = None) -> None:
        self.connection = connection
        self._other_side = other_side

    def cancel_server(self) -> None:
        assert self._other_side is not None
        self._other_side.cancel()

    async def open(self, data: bytes, *, finish: bool = False) -> SendStream:
        stream = await self.connection.open_uni()
        stream.send_nowait(data, finish=finish)
        return stream

    async def request(self, data: bytes, *, finish: bool = False) -> BidiStream:
        stream = await self.connection.open_bidi()
        stream.send.send_nowait(data, finish=finish)
        return stream

    async def hello(self, pairs: dict[int, int] | None = None) -> SendStream:
        """Open the control stream."""
        return await self.open(varints(CONTROL) + settings(SPEAKS if pairs is None else pairs))

    async def connect(self, **changes: bytes | None) -> tuple[BidiStream, dict[bytes, bytes]]:
        """Ask for a session; the answer's fields."""
        stream = await self.request(headers(connect_fields(**changes)))
        kind, section = await next_frame(stream.receive)
        assert kind == HEADERS
        return stream, fields_of(section)

    async def session(self) -> BidiStream:
        """A session that is accepted."""
        stream, fields = await self.connect()
        assert fields[b":status"] == b"200"
        return stream

    async def closed_with(self) -> int:
        with trio.fail_after(60):
            end: SessionClosed = await self.connection.wait_closed()
        assert end.remote
        return end.code


@asynccontextmanager
async def serving(handler: Any = None, **options: Any) -> AsyncIterator[Peer]:
    """A peer of a server; its sessions go to ``handler``."""
    limits = options.pop("settings", plain_settings())
    near, far = memory_connection_pair(alpn="h3", settings=limits)

    async def wait(session: Connection) -> None:
        await session.wait_closed()

    server = trio.CancelScope()
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            with server:
                await serve_webtransport(
                    far, handler or wait, **{"protocols": [PROTOCOL], **options}
                )

        nursery.start_soon(serve)
        yield Peer(near, server)
        near.close()
        nursery.cancel_scope.cancel()
