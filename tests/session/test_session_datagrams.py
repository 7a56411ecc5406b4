"""Groups of one small frame that go as datagrams."""

from __future__ import annotations

import pytest
import trio
from session_pairs import raw_publisher, see, session_pair
from trio.testing import MockClock, wait_all_tasks_blocked

from moqtrio.errors import StreamCode
from moqtrio.model import Origin, Track, TrackInfo
from moqtrio.session import Gap
from moqtrio.transport.settings import TransportSettings
from moqtrio.wire.lite import Datagram, SubscribeStart


def make_track(timescale: int = 1_000_000) -> tuple[Origin, Track]:
    origin = Origin()
    broadcast = origin.create_broadcast("b")
    return origin, broadcast.create_track("t", datagrams=True, info=TrackInfo(timescale=timescale))


async def test_small_live_groups_go_as_datagrams_and_large_ones_on_streams() -> None:
    origin, track = make_track(timescale=1000)
    track.write_frame(b"before", 1_000)
    async with session_pair(origin) as pair, pair.client.subscribe("b", "t", start=0) as items:
        assert await see(items) == (0, [b"before"])
        await wait_all_tasks_blocked()
        statistics = pair.server.statistics
        assert statistics().datagrams_sent == 0, "history is sent reliably"
        track.write_frame(b"one", 5_000)
        track.write_frame(b"", 6_000)
        track.write_frame(bytes(1100), 7_000)
        track.write_frame(bytes(1190))  # which leaves no room for the header
        with track.append_group() as group:
            group.write_frame(b"two")
            group.write_frame(b"frames")
        one = await items.receive()
        assert not isinstance(one, Gap)
        (frame,) = await one.read_all()
        assert (one.sequence, frame.payload, frame.timestamp_us) == (1, b"one", 5_000)
        assert [await see(items) for _ in range(4)] == [
            (2, [b""]),
            (3, [bytes(1100)]),
            (4, [bytes(1190)]),
            (5, [b"two", b"frames"]),
        ]
        assert statistics().datagrams_sent == 3


async def test_what_was_not_asked_for_goes_on_streams() -> None:
    origin = Origin()
    track = origin.create_broadcast("b").create_track("t")
    async with session_pair(origin) as pair, pair.client.subscribe("b", "t", start=0) as items:
        await wait_all_tasks_blocked()
        track.write_frame(b"one")
        assert await see(items) == (0, [b"one"])
        assert pair.server.statistics().datagrams_sent == 0


async def test_more_than_the_queue_holds_goes_on_streams() -> None:
    origin, track = make_track()
    transport = TransportSettings(datagram_queue=4)
    async with (
        session_pair(origin, transport=transport) as pair,
        pair.client.subscribe("b", "t", start=0) as items,
    ):
        await wait_all_tasks_blocked()
        for _ in range(20):
            track.write_frame(b"x")
        track.finish()
        assert [item.sequence async for item in items if not isinstance(item, Gap)] == [*range(20)]


@pytest.mark.parametrize("order", ["sequence", "arrival"])
async def test_both_ways_is_one_group(autojump_clock: MockClock, order: str) -> None:
    async with raw_publisher(start=0, order=order) as raw:
        await raw.respond(SubscribeStart(0))
        number = raw.request.subscribe_id
        raw.connection.send_datagram_nowait(Datagram(number, 0, 0, b"zero").encode())
        await raw.group(0, b"zero")
        await raw.group(1, b"one")
        raw.connection.send_datagram_nowait(Datagram(number, 1, 0, b"one").encode())
        raw.connection.send_datagram_nowait(Datagram(number, 2, 0, b"two").encode())
        seen = [await see(raw.subscription) for _ in range(3)]
        assert seen == [(0, [b"zero"]), (1, [b"one"]), (2, [b"two"])]
        with trio.move_on_after(5) as scope:
            await see(raw.subscription)
        assert scope.cancelled_caught


async def test_a_lost_datagram_is_a_gap(autojump_clock: MockClock) -> None:
    async with raw_publisher(start=0) as raw:
        await raw.respond(SubscribeStart(0))
        number = raw.request.subscribe_id
        for sequence in (0, 2):
            raw.connection.send_datagram_nowait(Datagram(number, sequence, 0, b"x").encode())
        assert await see(raw.subscription) == (0, [b"x"])
        assert await see(raw.subscription) == Gap(1, 2, StreamCode.DELIVERY_TIMEOUT)
        assert await see(raw.subscription) == (2, [b"x"])


async def test_nonsense_is_dropped(autojump_clock: MockClock) -> None:
    transport = TransportSettings(max_datagram_size=4000)
    async with raw_publisher(start=0, transport=transport) as raw:
        await raw.respond(SubscribeStart(0))
        number = raw.request.subscribe_id
        for data in (
            b"",
            b"\x00",
            b"\x00\xff",
            Datagram(number + 1, 0, 0, b"for somebody else").encode(),
            Datagram(2**62 - 1, 0, 0, b"for somebody else").encode(),
            Datagram(number, 0, 0, bytes(1200)).encode(),
        ):
            raw.connection.send_datagram_nowait(data)
        raw.connection.send_datagram_nowait(Datagram(number, 0, 0, b"x").encode())
        assert await see(raw.subscription) == (0, [b"x"])


async def test_datagrams_that_nobody_reads_are_bounded(autojump_clock: MockClock) -> None:
    async with raw_publisher(start=0, order="arrival") as raw:
        await raw.respond(SubscribeStart(0))
        number = raw.request.subscribe_id
        for sequence in range(3000):
            raw.connection.send_datagram_nowait(Datagram(number, sequence, 0, b"x").encode())
            if sequence % 100 == 99:
                await wait_all_tasks_blocked()
        seen = 0
        while True:
            with trio.move_on_after(1) as scope:
                await see(raw.subscription)
            if scope.cancelled_caught:
                break
            seen += 1
        assert seen == 1024


async def test_what_has_an_end_goes_on_streams(autojump_clock: MockClock) -> None:
    """Nothing follows the last group by which one would hear that it was lost."""
    origin, track = make_track()
    async with session_pair(origin) as pair:
        async with pair.client.subscribe("b", "t", start=0, end=2) as items:
            await wait_all_tasks_blocked()
            track.write_frame(b"one")
            track.write_frame(b"two")
            assert [await see(items) for _ in range(2)] == [(0, [b"one"]), (1, [b"two"])]
        assert pair.server.statistics().datagrams_sent == 0


async def test_one_that_is_lost_does_not_keep_a_range_open(autojump_clock: MockClock) -> None:
    """Of another publisher, which sends datagrams there too."""
    async with raw_publisher(start=0, end=3, order="arrival") as raw:
        await raw.respond(SubscribeStart(0))
        for sequence in (0, 2):
            raw.connection.send_datagram_nowait(Datagram(0, sequence, 0, b"x").encode())
        assert await see(raw.subscription) == (0, [b"x"])
        assert await see(raw.subscription) == (2, [b"x"])
        assert await see(raw.subscription) == Gap(1, 2, StreamCode.DELIVERY_TIMEOUT)
        with pytest.raises(trio.EndOfChannel):
            await raw.subscription.receive()
