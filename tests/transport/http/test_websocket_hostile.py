"""A server whose WebSocket clients do what they must not."""

from __future__ import annotations

import struct
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

import pytest
import trio
from wsproto.connection import Connection as Protocol
from wsproto.connection import ConnectionType
from wsproto.events import (
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    TextMessage,
)

from moqtrio.errors import SessionClosed, SessionCode
from moqtrio.transport.connection import Connection
from moqtrio.transport.qmux.frames import (
    CloseFrame,
    Frame,
    ParametersFrame,
    StreamFrame,
    decode_frames,
    encode_parameters,
    stream_header,
)
from moqtrio.transport.qmux.parameters import Parameters

from ..pairs import read_all
from ..qmux.qmux_tools import GENEROUS
from .http_tools import server, upgrade


class Client:
    """A WebSocket client that sends what it is told."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.protocol = Protocol(ConnectionType.CLIENT)

    async def send(self, *events: Event) -> None:
        await self.stream.send_all(b"".join([self.protocol.send(event) for event in events]))

    async def send_frames(self, *frames: bytes) -> None:
        await self.send(*[BytesMessage(data=frame) for frame in frames])

    async def events(self) -> AsyncGenerator[Event, None]:
        """What the server sends, until the connection ends."""
        while True:
            try:
                data = await self.stream.receive_some()
            except trio.BrokenResourceError:
                return
            if not data:
                return
            self.protocol.receive_data(bytes(data))
            for event in self.protocol.events():
                yield event

    async def ending(self) -> tuple[list[Frame], int | None]:
        """All frames until the end, and the code of the WebSocket's close."""
        frames: list[Frame] = []
        code = None
        with trio.fail_after(10):
            async for event in self.events():
                if isinstance(event, BytesMessage):
                    frames += decode_frames(bytes(event.data))
                elif isinstance(event, CloseConnection):
                    code = event.code
                    if self.protocol.state.name == "REMOTE_CLOSING":
                        await self.stream.send_all(self.protocol.send(event.response()))
        return frames, code


class Accepted:
    """The server's side: its connections, and what became of them."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[Connection](10)

    async def handle(self, connection: Connection) -> None:
        self._send.send_nowait(connection)
        await connection.wait_closed()

    async def next_at(self, path: str) -> Connection:
        """The first connection that asks for ``path``."""
        while (connection := await self.next()).request_path != path:
            pass
        return connection

    async def next(self) -> Connection:
        with trio.fail_after(5):
            return await self._receive.receive()


@asynccontextmanager
async def hostile_client(
    declare: bool = True, **settings: Any
) -> AsyncIterator[tuple[Client, Accepted]]:
    """A client after the handshake, and the server it talks to. The server must live."""
    accepted = Accepted()
    async with server(accepted.handle, **settings) as port:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            await stream.send_all(upgrade().encode())
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += await stream.receive_some(1)
            assert answer.startswith(b"HTTP/1.1 101 ")
            client = Client(stream)
            if declare:
                await client.send_frames(encode_parameters(GENEROUS.encode()))
            yield client, accepted
        await assert_serves(port, accepted)


async def assert_serves(port: int, accepted: Accepted) -> None:
    """Another client is served as if nothing had happened."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(upgrade("/next").encode())
        await Client(stream).send_frames(encode_parameters(Parameters().encode()))
        await accepted.next_at("/next")


async def test_frames_may_come_in_fragments() -> None:
    payload = stream_header(2, 0, 10_000, True) + bytes(10_000)
    async with hostile_client() as (client, accepted):
        pieces = [payload[at : at + 777] for at in range(0, len(payload), 777)]
        for piece in pieces[:-1]:
            await client.send(BytesMessage(data=piece, message_finished=False), Ping(b"x"))
        await client.send(BytesMessage(data=pieces[-1]))
        connection = await accepted.next()
        assert len(await read_all(await connection.accept_uni())) == 10_000


async def test_the_handshake_and_what_follows_may_come_at_once() -> None:
    accepted = Accepted()
    async with server(accepted.handle) as port:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            first = Protocol(ConnectionType.CLIENT)
            messages = (
                encode_parameters(GENEROUS.encode()),
                stream_header(2, 0, 5, True) + b"early",
            )
            packed = b"".join(first.send(BytesMessage(data=message)) for message in messages)
            await stream.send_all(upgrade().encode() + packed)
            connection = await accepted.next()
            assert await read_all(await connection.accept_uni()) == b"early"


@pytest.mark.parametrize(
    ("data", "code", "complaint"),
    [
        (b"\x81\x85\0\0\0\0hello", 1003, "a text message came"),
        (b"\x82\xff" + struct.pack(">Q", 1 << 40) + bytes(4 + 20_000), 1009, "16382 bytes"),
        (
            b"\x02\xfe\x27\x10" + bytes(4 + 10_000) + b"\x80\xfe\x27\x10" + bytes(4 + 10_000),
            1009,
            "16382 bytes",
        ),
        (b"\x82\x05hello", 1002, "unmasked"),
        (b"\x83\x85\0\0\0\0hello", 1002, "opcode"),
        (b"\xc2\x85\0\0\0\0hello", 1002, "Reserved bit"),
        (b"\x80\x85\0\0\0\0hello", 1002, "CONTINUATION"),
        (b"\x09\x80\0\0\0\0", 1002, "fragment control"),
        (b"\x89\xfe\x00\x80" + bytes(4 + 128), 1002, "Control frame"),
        (b"\x88\x82\0\0\0\0\x00\x01", 1002, "invalid code"),
    ],
)
async def test_what_is_no_binary_message_ends_the_connection(
    data: bytes, code: int, complaint: str
) -> None:
    async with hostile_client() as (client, accepted):
        connection = await accepted.next()
        await client.stream.send_all(data)
        _, closed_with = await client.ending()
        assert closed_with == code
        end = await connection.wait_closed()
        assert complaint in end.reason
        assert (end.code, end.remote) == (SessionCode.PROTOCOL_VIOLATION, False)


async def test_bad_frames_are_explained_before_the_end() -> None:
    async with hostile_client() as (client, accepted):
        connection = await accepted.next()
        await client.send_frames(stream_header(2, 5, 0, True))
        frames, code = await client.ending()
        assert code == 1000
        close = frames[-1]
        assert isinstance(close, CloseFrame)
        assert "byte 0 is next, 5 came" in close.reason
        assert not (await connection.wait_closed()).remote


@pytest.mark.parametrize("code", [1000, 1001, 4000])
async def test_a_websocket_closed_without_a_word_of_qmux(code: int) -> None:
    async with hostile_client() as (client, accepted):
        connection = await accepted.next()
        await client.send(CloseConnection(code=code))
        _, answer = await client.ending()
        assert answer == 1000
        end = await connection.wait_closed()
        assert end.remote


async def test_a_connection_cut_anywhere() -> None:
    async with hostile_client() as (client, accepted):
        connection = await accepted.next()
        await client.stream.send_all(b"\x82\xfe\x10")
        await client.stream.aclose()
        assert (await connection.wait_closed()).remote


async def test_many_pings_get_the_latest_answered() -> None:
    async with hostile_client() as (client, _):
        await client.send(*[Ping(payload=b"%d" % number) for number in range(1000)])
        pongs = []
        with trio.fail_after(5):
            async with aclosing(client.events()) as events:
                async for event in events:
                    if isinstance(event, Pong):
                        pongs.append(bytes(event.payload))
                        if event.payload == b"999":
                            break
        assert len(pongs) < 100


async def test_pings_of_who_does_not_read_take_no_room() -> None:
    async with hostile_client(declare=False) as (client, accepted):
        ample = 64 << 20
        parameters = Parameters(
            initial_max_data=ample, initial_max_stream_data_uni=ample, initial_max_streams_uni=1
        )
        await client.send_frames(encode_parameters(parameters.encode()))
        connection = await accepted.next()
        clogged = connection.open_uni_nowait()
        clogged.send_nowait(bytes(16 << 20), finish=True)
        for number in range(3000):
            await client.send(Ping(payload=b"%d" % number))
        before = 0
        with trio.fail_after(10):
            async with aclosing(client.events()) as events:
                async for event in events:
                    if isinstance(event, Pong):
                        if event.payload == b"2999":
                            break
                        before += 1
        assert before < 300


async def test_who_falls_silent_is_given_up() -> None:
    async with hostile_client(idle_timeout=0.4, keep_alive=0.1) as (client, accepted):
        connection = await accepted.next()
        with trio.fail_after(5):
            end = await connection.wait_closed()
        assert "idle timeout" in end.reason
        frames, _ = await client.ending()
        assert not [frame for frame in frames if isinstance(frame, CloseFrame)]


async def test_who_does_not_read_holds_up_its_own_streams_alone() -> None:
    async with hostile_client(stream_send_high=100_000, stream_send_low=1000) as (
        client,
        accepted,
    ):
        connection = await accepted.next()
        stream = connection.open_uni_nowait()
        taken = 0
        with suppress(trio.WouldBlock):
            while taken < 1_000_000:
                stream.send_nowait(bytes(10_000))
                taken += 10_000
        assert taken <= 100_000
        # The handler goes on: it does not wait for the client to close.
        connection.close(4, "enough")
        with trio.fail_after(5):
            frames, _ = await client.ending()
        assert isinstance(frames[0], ParametersFrame)
        sent = sum(len(frame.data) for frame in frames if isinstance(frame, StreamFrame))
        assert sent <= taken
        assert frames[-1] == CloseFrame(4, "enough", True)


async def test_text_in_the_middle_of_a_message() -> None:
    async with hostile_client() as (client, accepted):
        connection = await accepted.next()
        await client.send(TextMessage(data="x", message_finished=False))
        with pytest.raises(SessionClosed):
            await connection.accept_uni()
        assert (await client.ending())[1] == 1003
