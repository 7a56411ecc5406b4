"""What clients do to a server over TCP, WebSocket, qmux and WebTransport that they must not:
another one is served all the while, and memory stays within bounds."""

from __future__ import annotations

import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import pylsqpack
import pytest
import trio
import trio.lowlevel
from aioquic.buffer import encode_uint_var
from e2e_tools import end_process, start_python
from test_e2e_slow_readers import MIB, Process

import moqtrio
from moqtrio.transport.connection import BidiStream, Connection
from moqtrio.transport.qmux.frames import (
    encode_datagram,
    encode_max_data,
    encode_parameters,
    encode_ping,
    encode_reset,
    encode_stop,
    stream_header,
)
from moqtrio.transport.qmux.parameters import Parameters
from moqtrio.transport.quic import open_quic
from moqtrio.transport.webtransport.codes import H3Code

PROTOCOL = "moq-lite-05"
GONE = (trio.BrokenResourceError, trio.ClosedResourceError, moqtrio.SessionClosed)


@attrs.frozen
class Target:
    """The server under attack."""

    process: Process
    port: int
    fingerprint: str
    _sockets: list[trio.SocketStream] = attrs.field(factory=list)

    @property
    def tls(self) -> moqtrio.ClientTls:
        return moqtrio.ClientTls(fingerprint=self.fingerprint)

    async def check_served(self, scheme: str) -> None:
        """Somebody else gets what there is."""
        with trio.fail_after(SOON):
            url = f"{scheme}://127.0.0.1:{self.port}/room"
            async with moqtrio.open_session(url, tls=self.tls) as session:
                group = await session.fetch("b", "t", 0)
                assert len((await group.read_all())[0].payload) == 64 * 1024

    async def tcp(self) -> trio.SocketStream:
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        self._sockets.append(stream)
        return stream

    def let_go(self) -> None:
        """Close all TCP connections, without a word."""
        for stream in self._sockets:
            stream.socket.close()
        self._sockets.clear()

    async def secured(self) -> trio.SSLStream[trio.SocketStream]:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return trio.SSLStream(await self.tcp(), context, server_hostname="localhost")

    async def upgraded(self, *, secured: bool = False) -> trio.abc.Stream:
        stream: trio.abc.Stream = await (self.secured() if secured else self.tcp())
        await stream.send_all(upgrade())
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += await stream.receive_some(1)
        assert answer.startswith(b"HTTP/1.1 101 "), answer
        return stream

    @asynccontextmanager
    async def http3(self) -> AsyncIterator[Connection]:
        """A QUIC connection whose HTTP/3 is the test's business."""
        async with open_quic("127.0.0.1", self.port, alpn=["h3"], tls=self.tls) as connection:
            yield connection


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    script = Path(__file__).with_name("hostile_web_server.py").read_text()
    process = start_python(script, ())
    try:
        yield Process(process)
        assert process.stdin is not None
        process.stdin.close()
        process.wait(timeout=20)
    finally:
        process.kill()
        errors = end_process(process)
        assert "Traceback" not in errors, errors


_WHERE: dict[int, dict[str, Any]] = {}


@pytest.fixture
async def target(server: Process) -> Target:
    if id(server) in _WHERE:
        return Target(server, **_WHERE[id(server)])
    _WHERE[id(server)] = await server.line()
    target = Target(server, **_WHERE[id(server)])
    for scheme in ("moqt", "https", "ws", "wss"):  # so that what is only made once is there
        await target.check_served(scheme)
    return target


def upgrade() -> bytes:
    return (
        "GET /room HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Extensions: permessage-deflate\r\n"
        f"Sec-WebSocket-Protocol: qmux-02.{PROTOCOL}\r\n\r\n"
    ).encode()


async def read_until(stream: trio.abc.ReceiveStream, *ends: bytes) -> bytes:
    """What comes, until one of ``ends`` is among it, or up to the end."""
    data = b""
    with suppress(*GONE):
        while not any(end in data for end in ends) and (chunk := await stream.receive_some()):
            data += chunk
    return data


async def read_to_end(stream: trio.abc.ReceiveStream) -> bytes:
    """What comes up to the end, be it an abrupt one."""
    data = b""
    with suppress(*GONE):
        while chunk := await stream.receive_some():
            data += chunk
    return data


# TCP, TLS and HTTP/1.1


async def silent_connections(target: Target) -> None:
    for _ in range(400):
        await target.tcp()
    await trio.sleep_forever()


async def handshakes_begun(target: Target) -> None:
    for _ in range(400):
        await (await target.tcp()).send_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    await trio.sleep_forever()


async def handshakes_left(target: Target) -> None:
    """A whole ClientHello, and no more."""
    context = ssl.create_default_context()
    for _ in range(200):
        outgoing = ssl.MemoryBIO()
        client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
        with suppress(ssl.SSLWantReadError):
            client.do_handshake()
        await (await target.tcp()).send_all(outgoing.read())
    await trio.sleep_forever()


async def dripping_heads(target: Target) -> None:
    streams = [await target.tcp() for _ in range(100)]
    for stream in streams:
        await stream.send_all(b"GET / HTTP/1.1\r\n")
    with suppress(*GONE):
        while True:
            for stream in streams:
                await stream.send_all(b"X-A: b\r\n")
                await trio.lowlevel.checkpoint()


async def endless_head(target: Target) -> None:
    stream = await target.tcp()
    await stream.send_all(b"GET / HTTP/1.1\r\nX: ")
    with suppress(*GONE):
        while True:
            await stream.send_all(b"a" * 65536)


async def huge_body(target: Target) -> None:
    stream = await target.tcp()
    await stream.send_all(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1073741824\r\n\r\n")
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            with suppress(*GONE):
                for _ in range(1 << 14):
                    await stream.send_all(bytes(65536))
                pytest.fail("1 GB was read")

        nursery.start_soon(send)
        assert (await read_to_end(stream)).startswith(b"HTTP/1.1 400 ")


async def endless_requests(target: Target) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(endless_head, target)
        nursery.start_soon(huge_body, target)


async def pipelined_garbage(target: Target) -> None:
    for _ in range(100):
        stream = await target.tcp()
        with suppress(*GONE):
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n" + b"\xff\x00\r\n\r\n" * 1000)
            assert b"HTTP/1.1 400 " in await read_to_end(stream)
        await stream.aclose()


async def answers_unread(target: Target) -> None:
    stream = await target.tcp()
    while True:
        await stream.send_all(b"GET /certificate.sha256 HTTP/1.1\r\nHost: h\r\n\r\n" * 500)


async def headers_that_are_no_text(target: Target) -> None:
    for name in (b"Host", b"Connection", b"Sec-WebSocket-Protocol"):
        lines = [each for each in upgrade().split(b"\r\n") if not each.startswith(name)]
        stream = await target.tcp()
        await stream.send_all(b"\r\n".join([lines[0], name + b": \xff\xfe", *lines[1:]]))
        assert (await read_to_end(stream)).startswith(b"HTTP/1.1 400 ")


# WebSocket


def ws_frame(
    opcode: int, payload: bytes, *, length: int | None = None, masked: bool = True
) -> bytes:
    """A frame; ``opcode`` with its flags, and ``length`` if not the true one."""
    size = len(payload) if length is None else length
    mask = 0x80 if masked else 0
    if size < 126:
        head = struct.pack(">BB", opcode, mask | size)
    elif size < 1 << 16:
        head = struct.pack(">BBH", opcode, mask | 126, size)
    else:
        head = struct.pack(">BBQ", opcode, mask | 127, size)
    return head + (bytes(4) if masked else b"") + payload


BINARY, CONTINUATION, PING = 0x82, 0x00, 0x89
FIRST = 0x02  # of a message in several frames

WS_VIOLATIONS: dict[str, tuple[bytes, int]] = {
    "a length beyond what there is": (struct.pack(">BBQ", BINARY, 0xFF, 1 << 63), 1002),
    "a length in more bytes than it needs": (struct.pack(">BBQ", BINARY, 0xFF, 5), 1002),
    "unmasked": (ws_frame(BINARY, b"abc", masked=False), 1002),
    "compressed": (ws_frame(BINARY | 0x40, b"abc"), 1002),
    "a control frame of 126 bytes": (ws_frame(PING, bytes(126)), 1002),
    "a control frame in pieces": (ws_frame(PING & 0x7F, b""), 1002),
    "a continuation of nothing": (ws_frame(0x80, b"abc"), 1002),
    "two messages at once": (ws_frame(FIRST, b"a") + ws_frame(FIRST, b"a"), 1002),
    "an unknown kind": (ws_frame(0x83, b""), 1002),
    "text": (ws_frame(0x81, b"hello"), 1003),
    "text that is none": (ws_frame(0x81, b"\xff\xff"), 1007),
    "a message that is too long": (ws_frame(BINARY, bytes(20_000)), 1009),
}


async def ws_violations(target: Target) -> None:
    for name, (data, code) in WS_VIOLATIONS.items():
        stream = await target.upgraded(secured=len(name) % 2 == 0)
        await stream.send_all(data)
        close = struct.pack(">BBH", 0x88, 2, code)
        end = await read_until(stream, close)
        assert close in end, (name, end[-20:])
        await trio.aclose_forcefully(stream)


async def endless_message(target: Target) -> None:
    """One frame said to have 2^62 bytes, sent as long as somebody takes them."""
    stream = await target.upgraded()
    await stream.send_all(ws_frame(BINARY, b"", length=1 << 62))
    with suppress(*GONE):
        for _ in range(1000):
            await stream.send_all(bytes(65536))
        pytest.fail("64 MB of one message were read")


async def endless_fragments(target: Target) -> None:
    stream = await target.upgraded(secured=True)
    await stream.send_all(ws_frame(FIRST, b"a"))
    with suppress(*GONE):
        while True:
            await stream.send_all(ws_frame(CONTINUATION, b"a") * 1000)
    empty = await target.upgraded()
    await empty.send_all(ws_frame(FIRST, b"a"))
    with suppress(*GONE):
        while True:
            await empty.send_all(ws_frame(CONTINUATION, b"") * 10_000)


async def ws_pings(target: Target) -> None:
    stream = await target.upgraded()
    while True:
        await stream.send_all(ws_frame(PING, bytes(125)) * 1000)


# qmux

GENEROUS = encode_parameters(
    Parameters(
        initial_max_data=1 << 40,
        initial_max_stream_data_bidi_local=1 << 40,
        initial_max_stream_data_bidi_remote=1 << 40,
        initial_max_stream_data_uni=1 << 40,
        initial_max_streams_bidi=1 << 40,
        initial_max_streams_uni=1 << 40,
        max_datagram_frame_size=16382,
    ).encode()
)


def varints(*values: int) -> bytes:
    return b"".join(encode_uint_var(value) for value in values)


def qmux(*frames: bytes) -> bytes:
    return b"".join(ws_frame(BINARY, frame) for frame in frames)


FLOW_CONTROL, STREAM_LIMIT, STREAM_STATE, ENCODING, PARAMETER, VIOLATION = 3, 4, 5, 7, 8, 10
QMUX_VIOLATIONS: dict[str, tuple[bytes, int]] = {
    "a length beyond the message": (qmux(GENEROUS, varints(0x0A, 2, 1 << 60)), ENCODING),
    "a stream beyond the limit": (qmux(GENEROUS, stream_header(2 + 4 * 1024, 0, 0, True)), 4),
    "a stream of mine": (qmux(GENEROUS, stream_header(3, 0, 0, True)), STREAM_STATE),
    "one never opened": (qmux(GENEROUS, encode_reset(1, 0, 0)), STREAM_STATE),
    "a stop of what only comes": (qmux(GENEROUS, encode_stop(2, 0)), STREAM_STATE),
    "a final size beyond the window": (qmux(GENEROUS, encode_reset(2, 0, 1 << 50)), FLOW_CONTROL),
    "a hole": (qmux(GENEROUS, stream_header(2, 5, 0, False)), VIOLATION),
    "an unknown frame": (qmux(GENEROUS, varints(0x1F)), ENCODING),
    "parameters twice": (qmux(GENEROUS, GENEROUS), VIOLATION),
    "no parameters": (qmux(encode_max_data(1)), VIOLATION),
    "a parameter twice": (qmux(encode_parameters(varints(4, 1, 0, 4, 1, 0))), PARAMETER),
    "a parameter cut short": (qmux(encode_parameters(varints(4, 8))), PARAMETER),
    "more streams than there are": (
        qmux(encode_parameters(varints(9, 8, (1 << 62) - 1))),
        PARAMETER,
    ),
    "an answer nobody asked for": (qmux(GENEROUS, encode_ping(99, is_answer=True)), VIOLATION),
    "pings that go back": (
        qmux(GENEROUS, encode_ping(5, is_answer=False) + encode_ping(4, is_answer=False)),
        VIOLATION,
    ),
}


async def qmux_violations(target: Target) -> None:
    for name, (data, code) in QMUX_VIOLATIONS.items():
        stream = await target.upgraded(secured=len(name) % 2 == 0)
        with suppress(*GONE):
            await stream.send_all(data)
        close = bytes([0x1C, code, 0])
        end = await read_until(stream, close)
        assert close in end, (name, end[-200:])
        await trio.aclose_forcefully(stream)


async def qmux_oddities(target: Target) -> None:
    """What may be: limits that do not grow, what comes after the end, streams in any order."""
    stream = await target.upgraded()
    odd = [
        encode_max_data(0) + varints(0x12, 1) + varints(0x13, 1) + bytes(1000),
        stream_header(2 + 4 * 1000, 0, 0, True),
        stream_header(2 + 4 * 1000, 7, 0, False) + encode_reset(2 + 4 * 1000, 0, 99),
        stream_header(6, 0, 0, True) + stream_header(2, 0, 0, True),
        varints(0x14, 1) + varints(0x15, 2, 1) + varints(0x16, 1) + varints(0x17, 1),
        encode_datagram(b"nobody's") * 1000,
        encode_ping(1, is_answer=False),
    ]
    await stream.send_all(qmux(GENEROUS, *odd))
    answer = encode_ping(1, is_answer=True)
    assert answer in await read_until(stream, answer)


async def qmux_small_frames(target: Target) -> None:
    """As much work for as few bytes as can be."""
    stream = await target.upgraded()
    flood = qmux(*[varints(0x14, 1) * 8000, bytes(16_000), encode_datagram(b"") * 8000] * 4)
    await stream.send_all(qmux(GENEROUS))
    while True:
        await stream.send_all(flood)


async def qmux_asks_and_never_reads(target: Target) -> None:
    """Asks for all there is, again and again, and gives no credit but in words."""
    stream = await target.upgraded()
    await stream.send_all(qmux(GENEROUS))
    number = 0
    while True:
        pings = [encode_ping(number + each, is_answer=False) for each in range(100)]
        await stream.send_all(qmux(*pings) + ws_frame(PING, bytes(100)) * 100)
        number += 100


# WebTransport

CONTROL = varints(0x0)
SETTINGS = varints(0x4, 9) + varints(0x8, 1, 0x2B603742, 1, 0x33, 1)


def frame(kind: int, value: bytes = b"") -> bytes:
    return varints(kind, len(value)) + value


def request(*more: tuple[bytes, bytes], path: bytes = b"/room") -> bytes:
    fields = [
        (b":method", b"CONNECT"),
        (b":protocol", b"webtransport"),
        (b":scheme", b"https"),
        (b":authority", b"h"),
        (b":path", path),
        (b"wt-available-protocols", f'"{PROTOCOL}"'.encode()),
        *more,
    ]
    return frame(0x1, pylsqpack.Encoder().encode(0, fields)[1])


async def hello(connection: Connection) -> None:
    stream = await connection.open_uni()
    stream.send_nowait(CONTROL + SETTINGS)


async def wt_session(connection: Connection) -> BidiStream:
    await hello(connection)
    stream = await connection.open_bidi()
    stream.send.send_nowait(request())
    assert await stream.receive.receive_some()
    return stream


async def wt_connects(target: Target) -> None:
    async with target.http3() as connection:
        await hello(connection)
        for _ in range(10_000):
            stream = await connection.open_bidi()
            await stream.send.send_all(request())


async def wt_bombs(target: Target) -> None:
    """Field sections that say much in few bytes: 16 KB of references to the static table."""
    async with target.http3() as connection:
        await hello(connection)
        while True:
            stream = await connection.open_bidi()
            await stream.send.send_all(frame(0x1, bytes(2) + b"\xff\x16" * 8000))


async def wt_streams_of_nobody(target: Target) -> None:
    async with target.http3() as connection:
        await wt_session(connection)
        for number in range(10_000):
            stream = await connection.open_uni()
            await stream.send_all(varints(0x54, 4 * (number % 500 + 1)) + bytes(1000))


async def wt_endless_capsule(target: Target) -> None:
    async with target.http3() as connection:
        stream = await wt_session(connection)
        await stream.send.send_all(varints(0x0, 1 << 61) + varints(0x4040, 1 << 60))
        while True:
            await stream.send.send_all(bytes(60_000))


async def wt_small_capsules(target: Target) -> None:
    async with target.http3() as connection:
        stream = await wt_session(connection)
        while True:
            await stream.send.send_all((frame(0x0, b"\x21") + frame(0x0, b"\x00")) * 10_000)


async def wt_grease(target: Target) -> None:
    """Frames that say nothing, as small as they can be."""
    async with target.http3() as connection:
        control = await connection.open_uni()
        await control.send_all(CONTROL + SETTINGS)
        while True:
            await control.send_all(frame(0x21) * 30_000)


async def wt_goaways(target: Target) -> None:
    async with target.http3() as connection:
        control = await connection.open_uni()
        await control.send_all(CONTROL + SETTINGS)
        while True:
            await control.send_all(frame(0x7, b"\0") * 20_000)


async def wt_datagrams(target: Target) -> None:
    async with target.http3() as connection:
        await wt_session(connection)
        for number in range(100_000):
            with suppress(trio.WouldBlock):
                connection.send_datagram_nowait(varints(number % 1000 + 1) + bytes(1000))
            if not number % 50:
                await trio.sleep(0.001)


async def wt_silent_streams(target: Target) -> None:
    async with target.http3() as connection:
        await wt_session(connection)
        while True:
            (await connection.open_uni()).send_nowait(b"\x40")


async def wt_closed_in_the_middle(target: Target) -> None:
    for _ in range(40):
        async with target.http3() as connection:
            await hello(connection)
            stream = await connection.open_bidi()
            stream.send.send_nowait(request())
            await trio.lowlevel.checkpoint()


WT_VIOLATIONS: dict[str, tuple[bytes, bytes, bytes, int]] = {
    # On a unidirectional stream, on a request's, in a datagram; the code.
    "control resets": (CONTROL + SETTINGS + b"reset", b"", b"", H3Code.CLOSED_CRITICAL_STREAM),
    "no settings": (CONTROL + frame(0x7, b"\0"), b"", b"", H3Code.MISSING_SETTINGS),
    "settings twice": (CONTROL + SETTINGS * 2, b"", b"", H3Code.FRAME_UNEXPECTED),
    "settings of HTTP/2": (CONTROL + frame(4, varints(2, 0)), b"", b"", H3Code.SETTINGS_ERROR),
    "huge settings": (CONTROL + varints(4, 1 << 60), b"", b"", H3Code.EXCESSIVE_LOAD),
    "endless headers": (CONTROL + SETTINGS, varints(1, 1 << 60), b"", H3Code.EXCESSIVE_LOAD),
    "no QPACK": (
        CONTROL + SETTINGS,
        frame(0x1, b"\xff" * 100),
        b"",
        H3Code.QPACK_DECOMPRESSION_FAILED,
    ),
    "a table": (varints(2) + b"\x3f\xe1\x1f", b"", b"", H3Code.QPACK_ENCODER_STREAM_ERROR),
    "GOAWAY goes up": (
        CONTROL + SETTINGS + frame(7, b"\0") + frame(7, b"\4"),
        b"",
        b"",
        H3Code.ID_ERROR,
    ),
    "an empty datagram": (CONTROL + SETTINGS, b"", b"\xff", H3Code.DATAGRAM_ERROR),
    "a push": (varints(1, 0), b"", b"", H3Code.STREAM_CREATION_ERROR),
    "a stream of no session": (varints(0x54, 3), b"", b"", H3Code.ID_ERROR),
}


async def wt_violations(target: Target) -> None:
    for name, (uni, bidi, datagram, code) in WT_VIOLATIONS.items():
        async with target.http3() as connection:
            stream = await connection.open_uni()
            stream.send_nowait(uni.removesuffix(b"reset"))
            if bidi:
                (await connection.open_bidi()).send.send_nowait(bidi)
            if datagram:
                connection.send_datagram_nowait(datagram)
            if uni.endswith(b"reset"):
                await trio.sleep(0.05)
                stream.reset(0)
            with trio.fail_after(3):
                end = await connection.wait_closed()
            assert (end.code, end.remote) == (code, True), (name, end)


ATTACKS: list[Callable[[Target], Awaitable[None]]] = [
    silent_connections,
    handshakes_begun,
    handshakes_left,
    dripping_heads,
    answers_unread,
    endless_fragments,
    ws_pings,
    qmux_small_frames,
    qmux_asks_and_never_reads,
    wt_connects,
    wt_bombs,
    wt_streams_of_nobody,
    wt_endless_capsule,
    wt_small_capsules,
    wt_grease,
    wt_goaways,
    wt_datagrams,
    wt_silent_streams,
]
RULES: list[Callable[[Target], Awaitable[None]]] = [
    endless_requests,
    pipelined_garbage,
    headers_that_are_no_text,
    ws_violations,
    endless_message,
    qmux_violations,
    qmux_oddities,
    wt_closed_in_the_middle,
    wt_violations,
]

# What an attack may cost the server: unread bytes up to a connection's window of 16 MiB, or
# 400 TLS handshakes that take 50 KB each.
BOUND = 32 * MIB
# Seconds for two sessions with a group each, on a busy machine.
SOON = 4.0


@asynccontextmanager
async def watched(target: Target, name: str) -> AsyncIterator[None]:
    """The server's memory and log over the block; and after it, everybody is served."""
    before = (await target.process.ask("look"))["rss"]
    began = trio.current_time()
    try:
        yield
    finally:
        target.let_go()
    took = trio.current_time() - began
    for scheme in ("moqt", "ws"):
        await target.check_served(scheme)
    look = await target.process.ask("look")
    cost = look["most"] - before
    print(f"{name}: {cost / MIB:.1f} MiB, {took:.2f} s, {look['files']} files")
    for line in dict.fromkeys(look["log"]):
        print("   ", line[:200])
    assert cost < BOUND
    assert not [line for line in look["log"] if line.startswith("ERROR")]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
async def test_a_flood(attack: Callable[[Target], Awaitable[None]], target: Target) -> None:
    with trio.fail_after(20):
        async with watched(target, attack.__name__), trio.open_nursery() as nursery:

            async def attacking() -> None:
                with suppress(*GONE):
                    await attack(target)

            nursery.start_soon(attacking)
            await trio.sleep(0.2)
            began = trio.current_time()
            with trio.fail_after(SOON):
                await target.check_served("https")
                await target.check_served("wss")
            print(f"served in {trio.current_time() - began:.2f} s")
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("attack", RULES, ids=lambda attack: attack.__name__)
async def test_rules(attack: Callable[[Target], Awaitable[None]], target: Target) -> None:
    with trio.fail_after(20):
        async with watched(target, attack.__name__):
            await attack(target)
