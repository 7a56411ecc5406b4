"""A subscriber that stops reading holds its window, delays nobody, and is caught up later."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import trio
from e2e_tools import (
    BROADCAST,
    SMALL_WINDOWS,
    TRACK,
    Follower,
    Shape,
    frames_of,
    publish_group,
    serving,
    until,
)

import moqtrio
from moqtrio import Frame, Session, SqliteStore, Track, TransportSettings

# Many times what the windows, the stream limit and the buffers hold.
SHAPES = [
    pytest.param(Shape(1, 100), 600, id="1x100B"),
    pytest.param(Shape(10, 1200), 200, id="10x1200B"),
    pytest.param(Shape(5, 60_000), 30, id="5x60kB"),
]
# A group goes as fast as the connection allows, and small ones behind it fill that soon.
ROOMY_STREAMS = TransportSettings(stream_window=256 * 1024, connection_window=256 * 1024)
# Four times TransportSettings.connection_send_high, and a batch.
MOST_UNSENT = 8 * 2**20 + 512 * 1024


async def publish_to(track: Track, shape: Shape, count: int, fast: Follower) -> None:
    """Publish groups, each only when the one before has reached the fast reader."""
    for _ in range(count):
        sequence = publish_group(track, shape)
        await until(lambda last=sequence: last in fast.complete)


def check_held(client: Session, server: Session, track: Track, groups: int) -> None:
    """What a reader that has stopped takes up."""
    window = SMALL_WINDOWS.connection_window
    # The session waits for answers, for which a little more may come.
    assert window // 4 <= client.statistics().receive_buffered <= window + 16 * 1024
    assert client.statistics().streams_open <= SMALL_WINDOWS.max_streams_uni + 8
    assert server.statistics().send_buffered <= MOST_UNSENT
    held = track.statistics()
    assert held.groups < groups / 2, "memory must forget what it no longer needs"
    assert held.evicted > groups / 2


async def read_one_frame(subscription: moqtrio.Subscription) -> tuple[int, Frame, object]:
    """Begin to read the first group; returns it, to go on with later."""
    item = await anext(subscription)
    assert not isinstance(item, moqtrio.Gap)
    return item.sequence, await item.receive(), item


@pytest.mark.parametrize("order", ["sequence", "arrival"])
@pytest.mark.parametrize(("shape", "count"), SHAPES)
async def test_caught_up_from_the_store(
    tmp_path: Path, shape: Shape, count: int, order: Literal["sequence", "arrival"]
) -> None:
    origin = moqtrio.Origin()
    async with SqliteStore.open(tmp_path / "store") as store, serving(origin) as server:
        track = origin.create_broadcast(BROADCAST).create_track(TRACK, store=store, cache_age=0.0)
        async with (
            server.connect(transport=SMALL_WINDOWS) as session,
            session.subscribe(BROADCAST, TRACK, start=0, order=order) as subscription,
            trio.open_nursery() as nursery,
        ):
            fast = Follower()
            nursery.start_soon(fast.connect_and_follow, server)
            publish_group(track, shape)
            sequence, frame, group = await read_one_frame(subscription)
            await publish_to(track, shape, count, fast)
            await track.wait_durable()
            track.log.evict()
            if shape.frames * shape.size > 1000:  # else the stream limit is what holds
                check_held(session, server.sessions[0], track, count)
            loads = store.statistics().loads
            track.finish()
            slow = Follower()
            slow.groups[sequence] = [frame, *await group.read_all()]
            slow.complete.append(sequence)
            with trio.fail_after(30):
                await slow.read(subscription)
            assert store.statistics().loads > loads
        for follower in (fast, slow):
            follower.check_whole(shape, 0, count + 1)
            assert follower.ended


@pytest.mark.parametrize("order", ["sequence", "arrival"])
@pytest.mark.parametrize(("shape", "count"), SHAPES)
async def test_without_a_store_gaps_say_what_was_missed(
    shape: Shape, count: int, order: Literal["sequence", "arrival"]
) -> None:
    origin = moqtrio.Origin()
    async with serving(origin) as server:
        track = origin.create_broadcast(BROADCAST).create_track(TRACK, cache_age=0.0)
        async with (
            server.connect(transport=SMALL_WINDOWS) as session,
            session.subscribe(BROADCAST, TRACK, start=0, order=order) as subscription,
            trio.open_nursery() as nursery,
        ):
            fast = Follower()
            nursery.start_soon(fast.connect_and_follow, server)
            publish_group(track, shape)
            await until(lambda: subscription.start is not None)
            await until(lambda: 0 in fast.complete)
            await publish_to(track, shape, count, fast)
            assert track.statistics().groups == 1
            track.finish()
            slow = Follower()
            with trio.fail_after(30):
                await slow.read(subscription)
        fast.check_whole(shape, 0, count + 1)
        assert slow.ended
        assert slow.accounted() == list(range(count + 1)), "every sequence, once"
        assert slow.gaps
        assert {gap.code for gap in slow.gaps} == {0}
        assert sum(gap.end - gap.start for gap in slow.gaps) > count / 4
        assert slow.complete[-1] == count, "the latest group is always there"
        slow.check_frames(shape)


async def test_small_windows_are_no_dead_end(tmp_path: Path) -> None:
    """Groups larger than a stream's window, and more of them at once than the connection's
    window holds: whoever reads one group at a time gets on."""
    shape = Shape(10, 6000)
    origin = moqtrio.Origin()
    async with SqliteStore.open(tmp_path / "store") as store, serving(origin) as server:
        track = origin.create_broadcast(BROADCAST).create_track(TRACK, store=store, cache_age=0.0)
        for _ in range(150):
            publish_group(track, shape)
        track.finish()
        for _ in range(4):
            follower = Follower()
            with trio.fail_after(20):
                async with server.connect(transport=SMALL_WINDOWS) as session:
                    await follower.follow(session)
            follower.check_whole(shape, 0, 150)


async def test_two_subscriptions_of_one_connection(tmp_path: Path) -> None:
    """One that is not read holds what flow control gives each of its streams, and what is
    buffered for them must not keep the other's groups from being written."""
    shape = Shape(40, 60_000)
    origin = moqtrio.Origin()
    async with SqliteStore.open(tmp_path / "store") as store, serving(origin) as server:
        broadcast = origin.create_broadcast(BROADCAST)
        tracks = [broadcast.create_track(name, store=store) for name in ("read", "unread")]
        async with server.connect() as session:
            for track in tracks:
                for _ in range(6):
                    publish_group(track, shape)
                    await track.wait_durable(4 * 2**20)
                track.finish()
            async with session.subscribe(BROADCAST, "unread", start=0) as unread:
                await until(lambda: server.sessions[0].statistics().send_buffered > 2**20)
                follower = Follower()
                with trio.fail_after(20):
                    await follower.follow(session, track="read")
                follower.check_whole(shape, 0, 6)
                late = Follower()
                with trio.fail_after(20):
                    await late.read(unread)
                late.check_whole(shape, 0, 6)


@pytest.mark.parametrize("frames", [5, 20, 200])
async def test_a_large_group_at_the_edge_needs_no_further_push(frames: int) -> None:
    """More than is sent in one turn, and nothing more happens on the track."""
    shape = Shape(frames, 2**20 // frames)
    origin = moqtrio.Origin()
    async with serving(origin) as server:
        track = origin.create_broadcast(BROADCAST).create_track(TRACK)
        publish_group(track, shape)
        follower = Follower()
        with trio.fail_after(10):
            await follower.connect_and_follow(server, end=1)
        follower.check_whole(shape, 0, 1)


async def test_a_large_group_before_small_ones(tmp_path: Path) -> None:
    """Those behind it must not use up the window while it comes from the disk."""
    origin = moqtrio.Origin()
    first, rest = Shape(60, 60_000), Shape(2, 3000)
    async with (
        SqliteStore.open(tmp_path / "store", cache_bytes=1) as store,
        serving(origin) as server,
        server.connect(transport=ROOMY_STREAMS) as session,
    ):
        track = origin.create_broadcast(BROADCAST).create_track(TRACK, store=store, cache_age=0.0)
        publish_group(track, first)
        for _ in range(400):
            publish_group(track, rest)
        await track.wait_durable()
        track.finish()
        follower = Follower()
        with trio.fail_after(20):
            await follower.follow(session)
        assert follower.complete == list(range(401))
        assert follower.groups[0] == frames_of(0, first)
        assert follower.groups[400] == frames_of(400, rest)


@pytest.mark.parametrize("order", ["sequence", "arrival"])
async def test_frames_larger_than_every_buffer(
    tmp_path: Path, order: Literal["sequence", "arrival"]
) -> None:
    """The group being read must get on although those behind it fill all there is."""
    shape = Shape(3, 400_000)
    transport = TransportSettings(
        stream_send_high=20_000,
        stream_send_low=10_000,
        connection_send_high=64_000,
        connection_send_low=32_000,
    )
    origin = moqtrio.Origin()
    async with (
        SqliteStore.open(tmp_path / "store") as store,
        serving(origin, transport=transport) as server,
        server.connect(transport=SMALL_WINDOWS) as session,
    ):
        track = origin.create_broadcast(BROADCAST).create_track(TRACK, store=store, cache_age=0.0)
        for _ in range(8):
            publish_group(track, shape)
        track.finish()
        follower = Follower()
        with trio.fail_after(20):
            await follower.follow(session, order=order)
        follower.check_whole(shape, 0, 8)


async def test_a_reader_that_skips_ahead(tmp_path: Path) -> None:
    """What it no longer wants is neither sent nor reported."""
    shape = Shape(10, 1200)
    origin = moqtrio.Origin()
    async with SqliteStore.open(tmp_path / "store") as store, serving(origin) as server:
        track = origin.create_broadcast(BROADCAST).create_track(TRACK, store=store, cache_age=0.0)
        for _ in range(400):
            publish_group(track, shape)
        track.finish()
        await track.wait_durable()
        async with (
            server.connect(transport=SMALL_WINDOWS) as session,
            session.subscribe(BROADCAST, TRACK, start=0) as subscription,
        ):
            follower = Follower()
            await follower.read(subscription, stop=lambda: len(follower.complete) == 3)
            await subscription.update(start=390)
            with trio.fail_after(20):
                await follower.read(subscription)
        assert follower.complete == [0, 1, 2, *range(390, 400)]
        assert not follower.gaps
        follower.check_frames(shape)
