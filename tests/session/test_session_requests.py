"""What a request says on the wire, where moq-rs reads more into it than one would think."""

from __future__ import annotations

import pytest
import trio

from moqtrio.model import Origin, TrackInfo
from moqtrio.replay.memory import MemoryStore
from moqtrio.session.control import ControlStream
from moqtrio.session.latency import LONGEST_LATENCY
from moqtrio.session.session import open_session_over
from moqtrio.transport.connection import BidiStream, Connection
from moqtrio.transport.memory import memory_connection_pair
from moqtrio.transport.settings import TransportSettings
from moqtrio.wire import LITE_05, lite

# moq-rs keeps durations in microseconds, in 64 bits.
MOQ_RS_OVERFLOW = 2**64 / 1e6


async def accept_request(
    connection: Connection, kind: lite.BidiStreamType, message: type[lite.Message]
) -> tuple[BidiStream, lite.Message]:
    stream = await connection.accept_bidi()
    control = ControlStream(stream, LITE_05)
    assert await control.read_varint() == kind
    return stream, await control.require(message)


async def answer_track(connection: Connection) -> BidiStream:
    """Answer a TRACK as moq-rs does; returns its stream."""
    stream, _ = await accept_request(connection, lite.BidiStreamType.TRACK, lite.Track)
    await stream.send.send_all(lite.TrackInfo(127, False, 5.0, 1_000_000).encode(LITE_05))
    stream.send.finish()
    return stream


async def assert_still_open(stream: BidiStream) -> None:
    """The requester's half has not ended: to moq-rs that would withdraw the request."""
    with pytest.raises(trio.WouldBlock):
        stream.receive.receive_nowait()


async def test_track_and_fetch_stay_open_while_they_wait() -> None:
    client, server = memory_connection_pair()
    with trio.fail_after(5):
        async with open_session_over(client, LITE_05) as session, trio.open_nursery() as nursery:
            nursery.start_soon(session.fetch, "events", "all", 3)
            track, _ = await accept_request(server, lite.BidiStreamType.TRACK, lite.Track)
            await trio.testing.wait_all_tasks_blocked()
            await assert_still_open(track)
            await track.send.send_all(lite.TrackInfo(127, False, 5.0, 1_000_000).encode(LITE_05))
            track.send.finish()
            fetch, _ = await accept_request(server, lite.BidiStreamType.FETCH, lite.Fetch)
            await trio.testing.wait_all_tasks_blocked()
            await assert_still_open(fetch)
            nursery.cancel_scope.cancel()
    server.close()


async def test_every_latency_is_wanted_unless_said_otherwise() -> None:
    client, server = memory_connection_pair()
    with trio.fail_after(5):
        async with open_session_over(client, LITE_05) as session, trio.open_nursery() as nursery:
            for asked, expected in (({}, LONGEST_LATENCY), ({"max_latency": 1.5}, 1.5)):
                session.forget_track("events", "all")
                nursery.start_soon(answer_track, server)
                async with session.subscribe("events", "all", start=0, **asked):
                    _, request = await accept_request(
                        server, lite.BidiStreamType.SUBSCRIBE, lite.Subscribe
                    )
                assert isinstance(request, lite.Subscribe)
                assert request.max_latency == expected
    assert LONGEST_LATENCY < MOQ_RS_OVERFLOW
    server.close()


async def test_a_track_says_how_long_its_groups_are_to_be_had() -> None:
    origin = Origin()
    broadcast = origin.create_broadcast("events")
    broadcast.create_track("cached", cache_age=7.0)
    broadcast.create_track("said", cache_age=7.0, info=TrackInfo(max_latency=2.0))
    recorded = broadcast.create_track("recorded", cache_age=7.0)
    recorded.source = MemoryStore().track("events", "recorded")
    client, server = memory_connection_pair()
    with trio.fail_after(5):
        async with (
            open_session_over(server, LITE_05, publish=origin),
            open_session_over(client, LITE_05) as session,
        ):
            assert (await session.track_info("events", "cached")).max_latency == 7.0
            assert (await session.track_info("events", "said")).max_latency == 2.0
            info = await session.track_info("events", "recorded")
            assert info.max_latency == LONGEST_LATENCY


async def test_an_answered_fetch_is_not_reset_while_it_is_on_its_way() -> None:
    payload = bytes(50_000)
    origin = Origin()
    track = origin.create_broadcast("events").create_track("all")
    with track.append_group() as group:
        group.write_frame(payload)
    # All of it is taken by the transport at once, and most of it has to wait there.
    client, server = memory_connection_pair(settings=TransportSettings(stream_window=10_000))
    with trio.fail_after(5):
        async with open_session_over(server, LITE_05, publish=origin):
            stream = await client.open_bidi()
            request = lite.Fetch("events", "all", 0, 0).encode(LITE_05)
            await stream.send.send_all(bytes([lite.BidiStreamType.FETCH]) + request)
            await trio.testing.wait_all_tasks_blocked()
            data = b""
            while more := await stream.receive.receive_some():
                data += more
    assert data.endswith(payload)
