"""What clients put into HTTP and WebSockets that only looks right, and what becomes of it."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import memory_stream_pair
from wsproto.connection import Connection as Protocol
from wsproto.connection import ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping

from moqtrio.errors import ConnectError
from moqtrio.transport.http import open_websocket
from moqtrio.transport.http.websocket import WebSocketLink
from moqtrio.transport.qmux.frames import encode_ping

from ..pairs import ALPN, development_tls, pinned
from ..qmux.qmux_tools import linked
from .http_tools import read_to_end, request, say, server, upgrade
from .test_websocket_hostile import hostile_client


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Connection", b"Upgrade, \xff"),
        ("Host", b"\xff"),
        ("Host", b"xn--\xff." * 100),
        ("Sec-WebSocket-Protocol", b"\xff"),
        ("Sec-WebSocket-Extensions", b"\xff"),
    ],
)
async def test_header_fields_that_are_not_ascii(
    name: str, value: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [
        line
        for line in upgrade().encode().split(b"\r\n")
        if not line.startswith(name.encode() + b":")
    ]
    lines.insert(1, name.encode() + b": " + value)
    async with server() as port:
        answer = await say(port, b"\r\n".join(lines))
    assert answer.startswith("HTTP/1.1 400 "), answer
    assert not caplog.records


async def test_a_close_that_comes_together_with_a_message_ends_the_connection() -> None:
    async with hostile_client() as (client, accepted):
        connection = await accepted.next()
        ping = encode_ping(0, is_answer=False)
        await client.send(BytesMessage(data=ping), CloseConnection(code=1001))
        with trio.fail_after(5):
            await connection.wait_closed()


async def test_who_does_not_read_is_given_up_whatever_it_sends(
    autojump_clock: trio.testing.MockClock,
) -> None:
    settings = {"idle_timeout": 8.0, "keep_alive": 3.0}
    async with linked(lockstep=True, client=settings, server=settings) as pair:
        pair.drive_near()
        pair.drive_far()
        await pair.near.ready.wait()
        await pair.far.ready.wait()

        async def deaf() -> Any:
            await trio.sleep_forever()

        pair.far_link.receive = deaf  # type: ignore[method-assign]  # as one that reads no more
        sent_at = trio.current_time()
        end = await pair.near.wait_closed()
        assert trio.current_time() - sent_at < 30
        assert "does not read" in end.reason


async def test_a_refusal_says_what_the_server_has() -> None:
    async with server() as port:
        with pytest.raises(ConnectError, match=f"none of the protocols offered.*{ALPN}") as caught:
            async with open_websocket(
                "127.0.0.1", port, protocols=["moq-lite-99"], encrypted=False
            ):
                pass
    assert not caught.value.retryable


@pytest.mark.parametrize("beginning", ["", "GET / HTTP/1.1\r\n", "\x16\x03\x01\x02\x00"])
async def test_the_silent_make_room(beginning: str) -> None:
    async with server(tls=development_tls(), max_connections=24) as port:
        silent = []
        for _ in range(20):  # of whom three may wait
            silent.append(await trio.open_tcp_stream("127.0.0.1", port))
            await silent[-1].send_all(beginning.encode())
        with trio.fail_after(5):  # which is before its time is over
            assert await read_to_end(silent[0]) == b""
        assert (await say(port, request("GET /certificate.sha256"))).startswith("HTTP/1.1 200")
        async with open_websocket("127.0.0.1", port, protocols=[ALPN], tls=pinned()):
            pass
        for stream in silent:
            await trio.aclose_forcefully(stream)


async def test_others_get_their_turn_between_thousands_of_frames() -> None:
    near, far = memory_stream_pair()
    link = WebSocketLink(far, Protocol(ConnectionType.SERVER), largest_message=100)
    client = Protocol(ConnectionType.CLIENT)
    frames = [client.send(Ping()) for _ in range(1000)]
    await near.send_all(b"".join([*frames, client.send(BytesMessage(data=b"last"))]))
    turns = 0
    while not (messages := await link.receive()):
        turns += 1
    assert messages == [b"last"]
    assert turns > 10


async def test_what_ends_a_connection_before_it_is_used_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    async with hostile_client(declare=False) as (client, _):
        await client.send_frames(encode_ping(0, is_answer=False))
        await client.ending()
    assert "qmux PROTOCOL_VIOLATION: transport parameters must be the first frame" in caplog.text
