"""A subscriber whose bytes a test writes by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import trio
from trio.testing import wait_all_tasks_blocked

from moqtrio.model import Origin
from moqtrio.session.session import open_session_over
from moqtrio.transport.connection import BidiStream, Connection
from moqtrio.transport.memory import memory_connection_pair
from moqtrio.transport.settings import TransportSettings
from moqtrio.wire import LITE_05, Version, encode_varint, lite
from moqtrio.wire.lite import Message, UniStreamType

ANNOUNCE, SUBSCRIBE, FETCH, PROBE, GOAWAY, TRACK = range(1, 7)


@attrs.define
class RawSubscriber:
    """A client whose bytes a test writes by hand."""

    connection: Connection
    server_connection: Connection
    origin: Origin

    async def request(
        self, kind: int, message: Message | bytes = b"", *, finish: bool = False
    ) -> BidiStream:
        """Open a request stream with these bytes, and let them arrive."""
        stream = await self.connection.open_bidi()
        body = message if isinstance(message, bytes) else message.encode(LITE_05)
        await stream.send.send_all(encode_varint(kind) + body)
        if finish:
            stream.send.finish()
        await wait_all_tasks_blocked()
        return stream

    async def assert_works(self) -> None:
        """The session answers."""
        stream = await self.request(TRACK, lite.Track("b", "t"))
        assert stream.receive.receive_nowait()
        assert ended(stream)


def received(stream: BidiStream) -> bytes:
    """What has arrived."""
    data = b""
    try:
        while more := stream.receive.receive_nowait():
            data += more
    except trio.WouldBlock:
        pass
    return data


def ended(stream: BidiStream) -> bool:
    """Whether the answer has ended with a FIN, nothing being left of it."""
    try:
        return stream.receive.receive_nowait() == b""
    except trio.WouldBlock:
        return False


def responses(data: bytes, version: Version = LITE_05) -> list[lite.SubscribeResponse]:
    decoder = lite.MessageDecoder(version)
    decoder.feed(data)
    found = []
    while (response := decoder.next_response()) is not None:
        found.append(response)
    assert not decoder.buffered
    return found


@asynccontextmanager
async def raw_subscriber(
    origin: Origin | None = None,
    *,
    transport: TransportSettings | None = None,
    version: Version = LITE_05,
) -> AsyncIterator[RawSubscriber]:
    """A session that serves ``b/t`` to a peer without a mind."""
    if origin is None:
        origin = Origin()
        origin.create_broadcast("b").create_track("t")
    client, server = memory_connection_pair(settings=transport)
    async with open_session_over(server, version, publish=origin):
        if lite.Setup.exists_in(version):
            setup = await client.accept_uni()
            assert (await setup.receive_some())[0] == UniStreamType.SETUP
        yield RawSubscriber(client, server, origin)
