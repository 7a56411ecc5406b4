"""Bad bytes over a real connection end their stream, or at most their session, never the server."""

from __future__ import annotations

import logging
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from e2e_tools import (
    BROADCAST,
    CLIENT_TLS,
    TRACK,
    Follower,
    Server,
    Shape,
    publish_group,
    serving,
    until,
)

import moqtrio
from moqtrio import SessionClosed, SessionCode, StreamCode, StreamReset, Track
from moqtrio.transport.connection import BidiStream, Connection, SendStream
from moqtrio.transport.quic import open_quic
from moqtrio.wire import LITE_05, encode_varint
from moqtrio.wire.lite import (
    AnnounceRequest,
    BidiStreamType,
    Fetch,
    Setup,
    Subscribe,
    UniStreamType,
    encode_group_header,
)

SHAPE = Shape(3, 500)
HUGE = encode_varint(2**62 - 1)


def subscribe(subscribe_id: int = 0, broadcast: str = BROADCAST, track: str = TRACK) -> bytes:
    request = Subscribe(
        subscribe_id=subscribe_id,
        broadcast=broadcast,
        track=track,
        priority=1,
        ordered=True,
        max_latency=10.0,
        start=0,
        end=None,
    )
    return bytes([BidiStreamType.SUBSCRIBE]) + request.encode(LITE_05)


@attrs.define(eq=False)
class Scene:
    """A server with an honest subscriber, whose groups must keep coming."""

    server: Server
    track: Track
    honest: Follower

    async def check_live(self) -> None:
        sequence = publish_group(self.track, SHAPE)
        await until(lambda: sequence in self.honest.complete)

    @asynccontextmanager
    async def attack(self) -> AsyncIterator[Connection]:
        """A connection without a session, to write anything to."""
        async with open_quic(
            "127.0.0.1", self.server.listener.port, alpn=[LITE_05.alpn], tls=CLIENT_TLS
        ) as connection:
            yield connection


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    """The honest subscriber must have got everything, and a new one must be served, whatever
    happened in the block."""
    origin = moqtrio.Origin()
    async with serving(origin) as server:
        track = origin.create_broadcast(BROADCAST).create_track(TRACK)
        honest = Follower()
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(honest.connect_and_follow, server)
                await until(lambda: len(track.log.watchers) == 1)
                stage = Scene(server, track, honest)
                await stage.check_live()
                yield stage
                await stage.check_live()
                await until(lambda: len(track.log.watchers) == 1)
                track.finish()
            newcomer = Follower()
            await newcomer.connect_and_follow(server)
        for follower in (honest, newcomer):
            follower.check_whole(SHAPE, 0, track.log.next_sequence)
            assert follower.ended


async def reset_code(stream: BidiStream) -> int:
    """What the server ends its half with, after whatever it says."""
    try:
        while await stream.receive.receive_some():
            pass
    except StreamReset as error:
        return error.code
    raise AssertionError("the server ended its half in peace")


async def stop_code(stream: SendStream) -> int:
    """What the server stops our half with."""
    await stream.wait_stopped()
    with pytest.raises(StreamReset) as raised:
        stream.send_nowait(b"more")
    return raised.value.code


REQUESTS = {
    "unknown type": (b"\x2a\x01\x02\x03", StreamCode.CANCEL),
    "unknown large type": (HUGE + b"\x00", StreamCode.CANCEL),
    "subscribe: junk": (b"\x02\x05\xff\xff\xff\xff\xff", StreamCode.MALFORMED),
    "subscribe: empty": (b"\x02\x00", StreamCode.MALFORMED),
    "subscribe: a huge message": (b"\x02" + HUGE, StreamCode.MALFORMED),
    "subscribe: a huge name": (b"\x02\x0a\x00" + HUGE + b"a", StreamCode.MALFORMED),
    "subscribe: trailing bytes": (
        b"\x02" + encode_varint(len(subscribe()) - 2 + 3) + subscribe()[2:] + b"abc",
        StreamCode.MALFORMED,
    ),
    "subscribe: a bad update": (subscribe() + b"\x01\xff", StreamCode.MALFORMED),
    "subscribe: no broadcast": (subscribe(broadcast="none"), StreamCode.UNROUTABLE),
    "subscribe: no track": (subscribe(track="none"), StreamCode.NOT_FOUND),
    "fetch: junk": (b"\x03\x04\xff\xff\xff\xff", StreamCode.MALFORMED),
    "fetch: no group": (
        b"\x03" + Fetch(BROADCAST, TRACK, 1, 2**61).encode(LITE_05),
        StreamCode.NOT_FOUND,
    ),
    "track: junk": (b"\x06\x03\x3f\x3f\x3f", StreamCode.MALFORMED),
    "announce: junk": (b"\x01\x02\xff\xff", StreamCode.MALFORMED),
    "goaway: junk": (b"\x05\x02\xff\xff", StreamCode.MALFORMED),
}


@pytest.mark.parametrize("in_crumbs", [False, True], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("case", REQUESTS)
async def test_a_bad_request(case: str, in_crumbs: bool, caplog: pytest.LogCaptureFixture) -> None:
    data, code = REQUESTS[case]
    caplog.set_level(logging.INFO, "moqtrio")
    async with scene() as stage, stage.attack() as connection:
        stream = await connection.open_bidi()
        with trio.fail_after(5):
            for part in [data[n : n + 1] for n in range(len(data))] if in_crumbs else [data]:
                try:
                    await stream.send.send_all(part)
                except StreamReset:
                    break
                if in_crumbs:
                    await trio.lowlevel.checkpoint()
            assert await reset_code(stream) == code
            assert await stop_code(stream.send) == code
            await stage.check_live()
            await check_session_lives(connection)
    assert not [each for each in caplog.records if each.exc_info], "a peer's fault is no traceback"
    assert [each for each in caplog.records if "127.0.0.1" in each.message or TRACK in each.message]


async def check_session_lives(connection: Connection) -> None:
    """The same connection may ask for something else."""
    stream = await connection.open_bidi()
    await stream.send.send_all(b"\x01" + AnnounceRequest("", None).encode(LITE_05))
    assert await stream.receive.receive_some()
    stream.send.finish()


@pytest.mark.parametrize(
    "request_bytes", [b"", b"\x02", b"\x02\x40", subscribe()[:-1], b"\x06\x05ab"]
)
async def test_a_request_that_stops_half_way(request_bytes: bytes) -> None:
    async with scene() as stage, stage.attack() as connection:
        with trio.fail_after(5):
            stream = await connection.open_bidi()
            stream.send.send_nowait(request_bytes, finish=True)
            expected = StreamCode.MALFORMED if request_bytes else StreamCode.CANCEL
            assert await reset_code(stream) == expected
            gone = await connection.open_bidi()
            if request_bytes:
                await gone.send.send_all(request_bytes)
            gone.send.reset(99)
            await reset_code(gone)
            await check_session_lives(connection)


async def test_a_subscribe_id_in_use() -> None:
    async with scene() as stage, stage.attack() as connection:
        first = await connection.open_bidi()
        await first.send.send_all(subscribe(7))
        assert await first.receive.receive_some(), "SUBSCRIBE_OK"
        second = await connection.open_bidi()
        await second.send.send_all(subscribe(7))
        with trio.fail_after(5):
            assert await reset_code(second) == StreamCode.MALFORMED
        await stage.check_live()
        stream = await connection.accept_uni()
        assert await stream.receive_some()
        first.send.finish()


UNI_STREAMS = {
    "unknown type": (b"\x2a\x01\x02\x03", StreamCode.CANCEL),
    "nobody's group": (encode_group_header(5, 0, LITE_05), StreamCode.CANCEL),
    "setup: junk": (bytes([UniStreamType.SETUP]) + b"\x03\xff\xff\xff", StreamCode.MALFORMED),
    "setup: a huge message": (bytes([UniStreamType.SETUP]) + HUGE, StreamCode.MALFORMED),
    "group: a header that is too short": (b"\x00\x01\x05", StreamCode.MALFORMED),
}


@pytest.mark.parametrize("case", UNI_STREAMS)
async def test_a_bad_stream(case: str) -> None:
    data, code = UNI_STREAMS[case]
    async with scene() as stage, stage.attack() as connection:
        stream = await connection.open_uni()
        await stream.send_all(data)
        with trio.fail_after(5):
            assert await stop_code(stream) == code
            await check_session_lives(connection)


async def test_a_second_setup_ends_the_session_and_no_other() -> None:
    async with scene() as stage, stage.attack() as connection:
        for _ in range(2):
            stream = await connection.open_uni()
            stream.send_nowait(bytes([UniStreamType.SETUP]) + Setup().encode(LITE_05), finish=True)
        with trio.fail_after(5):
            end = await connection.wait_closed()
        assert isinstance(end, SessionClosed)
        assert (end.code, end.remote) == (SessionCode.PROTOCOL_VIOLATION, True)
        assert "SETUP" in end.reason


@pytest.mark.parametrize("seed", range(3))
async def test_noise(seed: int) -> None:
    """Streams of anything, begun and given up at any point, beside datagrams of anything."""
    noise = random.Random(seed)
    starts = [b"", *(bytes([kind]) for kind in BidiStreamType), subscribe(), b"\x00", b"\x01"]
    async with scene() as stage, stage.attack() as connection:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, trio.move_on_after(10):
            for _ in range(150):
                sock.sendto(
                    noise.randbytes(noise.randrange(1400)),
                    ("127.0.0.1", stage.server.listener.port),
                )
                data = noise.choice(starts) + noise.randbytes(noise.randrange(60))
                if noise.random() < 0.5:
                    stream = await connection.open_bidi()
                    sender = stream.send
                    if noise.random() < 0.3:
                        stream.receive.stop(noise.randrange(100))
                else:
                    sender = await connection.open_uni()
                sender.send_nowait(data, finish=noise.random() < 0.5)
                if noise.random() < 0.3:
                    sender.reset(noise.randrange(100))
                if noise.random() < 0.3:
                    await trio.lowlevel.checkpoint()
                if connection.closed is not None:
                    break  # for a good reason: a second SETUP, say
            await stage.check_live()
