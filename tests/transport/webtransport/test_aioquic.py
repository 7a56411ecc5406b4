"""aioquic's own HTTP/3 client against this server: two readings of one specification."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest
import trio
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import (
    DatagramReceived,
    DataReceived,
    H3Event,
    HeadersReceived,
    WebTransportStreamDataReceived,
)
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from moqtrio.transport.connection import Connection
from moqtrio.transport.webtransport import serve_webtransport
from moqtrio.transport.webtransport.codes import H3Code

from ..pairs import read_all, start_server

_Event = TypeVar("_Event")
SESSION_GONE = 0x170D7B68
FIRST_MAPPED = 0x52E4A40FA8DB

# Frames of HTTP/3, and what QUIC says of streams and of the end.
Events = list[H3Event | events.QuicEvent]


class Client:
    """aioquic's state machines on a Trio socket."""

    def __init__(self, sock: trio.socket.SocketType, address: Any) -> None:
        self._sock, self._address = sock, address
        self.quic = QuicConnection(
            configuration=QuicConfiguration(
                alpn_protocols=["h3"], verify_mode=ssl.CERT_NONE, max_datagram_frame_size=65535
            )
        )
        self.quic.connect(address, now=trio.current_time())
        self.http = H3Connection(self.quic, enable_webtransport=True)
        self._events: Events = []
        self._news = trio.Event()

    async def flush(self) -> None:
        for data, _ in self.quic.datagrams_to_send(now=trio.current_time()):
            await self._sock.sendto(data, self._address)

    async def run(self) -> None:
        await self.flush()
        while True:
            timer = self.quic.get_timer()
            with trio.move_on_at(float("inf") if timer is None else timer) as scope:
                data, address = await self._sock.recvfrom(65536)
            if scope.cancelled_caught:
                self.quic.handle_timer(now=trio.current_time())
            else:
                self.quic.receive_datagram(data, address, now=trio.current_time())
            while (event := self.quic.next_event()) is not None:
                self._events.append(event)
                self._events += self.http.handle_event(event)
            news, self._news = self._news, trio.Event()
            news.set()
            await self.flush()

    async def expect(
        self, kind: type[_Event], accept: Callable[[_Event], bool] = lambda event: True
    ) -> _Event:
        """The first event of a kind that nobody waited for yet."""
        with trio.fail_after(5):
            while True:
                for index, event in enumerate(self._events):
                    if isinstance(event, kind) and accept(event):
                        del self._events[index]
                        return event
                await self._news.wait()

    async def connect(self, **changes: bytes) -> tuple[int, dict[bytes, bytes]]:
        session_id = self.quic.get_next_available_stream_id()
        fields = {
            b":method": b"CONNECT",
            b":scheme": b"https",
            b":authority": b"localhost",
            b":path": b"/",
            b":protocol": b"webtransport",
            b"wt-available-protocols": b'"p"',
        }
        fields.update({b":" + name.encode(): value for name, value in changes.items()})
        self.http.send_headers(session_id, list(fields.items()))
        await self.flush()
        answer = await self.expect(HeadersReceived, lambda e: e.stream_id == session_id)
        return session_id, dict(answer.headers)


@asynccontextmanager
async def connected(
    handler: Callable[[Connection], Any],
) -> AsyncIterator[Client]:
    async def serve(connection: Connection) -> None:
        await serve_webtransport(connection, handler, protocols=["p"])

    sock = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM)
    with sock:
        await sock.bind(("127.0.0.1", 0))
        async with trio.open_nursery() as nursery:
            listener = await start_server(nursery, serve, alpn=("h3",))
            client = Client(sock, ("127.0.0.1", listener.port))
            nursery.start_soon(client.run)
            yield client
            nursery.cancel_scope.cancel()


async def test_a_whole_session() -> None:
    async def handler(session: Connection) -> None:
        stream = await session.accept_bidi()
        question = await read_all(stream.receive)
        stream.send.send_nowait(b"answer to " + question, finish=True)
        assert await read_all(await session.accept_uni()) == b"one way"
        session.open_uni_nowait().send_nowait(b"and back", finish=True)
        session.send_datagram_nowait(b"re: " + await session.receive_datagram())
        await trio.sleep_forever()

    async with connected(handler) as client:
        session_id, fields = await client.connect()
        assert fields[b":status"] == b"200"
        assert fields[b"wt-protocol"] == b'"p"'
        bidi = client.http.create_webtransport_stream(session_id)
        # Its own side of such a stream aioquic would read as a request's.
        with client.http._get_or_create_stream(bidi) as state:
            state.frame_type, state.session_id = 0x41, session_id
        client.quic.send_stream_data(bidi, b"a question", end_stream=True)
        uni = client.http.create_webtransport_stream(session_id, is_unidirectional=True)
        client.quic.send_stream_data(uni, b"one way", end_stream=True)
        client.http.send_datagram(session_id, b"hello")
        await client.flush()
        answer = await client.expect(WebTransportStreamDataReceived, lambda e: e.stream_id == bidi)
        assert answer.data == b"answer to a question"
        back = await client.expect(WebTransportStreamDataReceived, lambda e: e.stream_id & 2 == 2)
        assert (back.data, back.session_id) == (b"and back", session_id)
        datagram = await client.expect(DatagramReceived)
        assert (datagram.data, datagram.stream_id) == (b"re: hello", session_id)


async def test_codes_on_the_wire() -> None:
    """A session's own are mapped; HTTP/3's, and WebTransport's, are not."""

    async def handler(session: Connection) -> None:
        (await session.accept_uni()).stop(7)
        unsent = session.open_uni_nowait()
        unsent.send_nowait(b"x")
        unsent.reset(31)
        await session.accept_uni()
        session.close(3, "enough")

    async with connected(handler) as client:
        session_id, _ = await client.connect()
        for _ in range(2):
            uni = client.http.create_webtransport_stream(session_id, is_unidirectional=True)
            client.quic.send_stream_data(uni, b"x")
        await client.flush()
        stopped = await client.expect(events.StopSendingReceived)
        assert stopped.error_code == FIRST_MAPPED + 7
        reset = await client.expect(events.StreamReset)
        assert reset.error_code == FIRST_MAPPED + 31 + 1
        # The session's end, and then its streams'.
        end = await client.expect(DataReceived)
        assert end.data == b"\x68\x43\x0a\0\0\0\x03enough"
        assert end.stream_ended
        gone = await client.expect(events.StopSendingReceived)
        assert (gone.stream_id, gone.error_code) == (uni, SESSION_GONE)
        unknown = client.quic.get_next_available_stream_id(is_unidirectional=True)
        client.quic.send_stream_data(unknown, b"\x21whatever")
        await client.flush()
        refused = await client.expect(events.StopSendingReceived)
        assert (refused.stream_id, refused.error_code) == (unknown, H3Code.STREAM_CREATION_ERROR)


async def test_requests_that_are_no_sessions() -> None:
    async def handler(session: Connection) -> None:
        await session.wait_closed()

    async with connected(handler) as client:
        _, fields = await client.connect(protocol=b"connect-udp")
        assert fields[b":status"] == b"501"
        stream = client.quic.get_next_available_stream_id()
        get = {b":method": b"GET", b":scheme": b"https", b":authority": b"a", b":path": b"/"}
        client.http.send_headers(stream, list(get.items()), end_stream=True)
        await client.flush()
        answer = await client.expect(HeadersReceived, lambda e: e.stream_id == stream)
        assert (b":status", b"404") in answer.headers


@pytest.mark.parametrize("data", [b"\0\x07\x01\0", b"\x01\0"])
async def test_a_violation_closes_the_connection(data: bytes) -> None:
    async def handler(session: Connection) -> None:
        await session.wait_closed()

    async with connected(handler) as client:
        await client.connect()
        stream = client.quic.get_next_available_stream_id(is_unidirectional=True)
        client.quic.send_stream_data(stream, data)
        await client.flush()
        closed = await client.expect(events.ConnectionTerminated)
        # aioquic has opened its control stream: this is a second one, or a push.
        assert closed.error_code == H3Code.STREAM_CREATION_ERROR
        assert closed.frame_type is None
