"""A subscriber that comes late gets history from disk and runs into live, without a hole."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import trio
from e2e_tools import (
    BROADCAST,
    TRACK,
    Follower,
    Shape,
    frame_of,
    publish_group,
    publish_history,
    serving,
    until,
)

import moqtrio
from moqtrio import SqliteStore, Track

SHAPES = [
    pytest.param(Shape(1, 100), 400, 20, id="1x100B"),
    pytest.param(Shape(10, 1200), 150, 20, id="10x1200B"),
    pytest.param(Shape(300, 40), 40, 20, id="300x40B"),
    pytest.param(Shape(3, 70_000), 30, 20, id="3x70kB"),
    pytest.param(Shape(2, 1_500_000), 5, 6, id="2x1.5MB"),
    pytest.param(Shape(0, 0), 50, 20, id="empty"),
]


async def go_live(track: Track, shape: Shape, follower: Follower, live: int) -> None:
    """Publish: some groups while the follower is still in the past, some at the edge, one in
    two halves before its eyes. Then finish."""
    await until(lambda: follower.complete)
    for _ in range(live):
        publish_group(track, shape)
        await trio.lowlevel.checkpoint()
    await until(lambda: len(follower.complete) == track.log.next_sequence)
    for _ in range(3):
        sequence = publish_group(track, shape)
        await until(lambda sequence=sequence: sequence in follower.complete)
    with track.append_group() as group:
        await until(lambda: group.sequence in follower.groups)
        for index in range(shape.frames):
            frame = frame_of(group.sequence, index, shape.size)
            group.write_frame(frame.payload, frame.timestamp_us)
            if index == 0:
                await until(lambda: follower.groups[group.sequence])
                assert group.sequence not in follower.complete
    track.finish()


@pytest.mark.parametrize("order", ["sequence", "arrival"])
@pytest.mark.parametrize(("shape", "history", "live"), SHAPES)
async def test_from_disk_into_live(
    tmp_path: Path, shape: Shape, history: int, live: int, order: Literal["sequence", "arrival"]
) -> None:
    origin = moqtrio.Origin()
    async with SqliteStore.open(tmp_path / "store") as store, serving(origin) as server:
        track = origin.create_broadcast(BROADCAST).create_track(TRACK, store=store, cache_age=0.0)
        await publish_history(track, shape, history)
        follower = Follower()
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(go_live, track, shape, follower, live)
                await follower.connect_and_follow(server, order=order)
        end = track.log.next_sequence
        assert end == history + live + 4
        assert follower.ended
        assert follower.final == end
        follower.check_whole(shape, 0, end)
        if order == "sequence":
            assert follower.complete == list(range(end))
        assert store.statistics().loads > 0
        await until(lambda: store.statistics().readers == 0)


@pytest.mark.parametrize("order", ["sequence", "arrival"])
async def test_a_start_in_the_middle(tmp_path: Path, order: Literal["sequence", "arrival"]) -> None:
    shape = Shape(4, 500)
    origin = moqtrio.Origin()
    async with SqliteStore.open(tmp_path / "store") as store, serving(origin) as server:
        track = origin.create_broadcast(BROADCAST).create_track(TRACK, store=store, cache_age=0.0)
        await publish_history(track, shape, 100)
        follower = Follower()
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(follower.connect_and_follow, server)
                middle = Follower()
                track.finish()
                await middle.connect_and_follow(server, start=57, order=order)
        middle.check_whole(shape, 57, 100)
        follower.check_whole(shape, 0, 100)


@pytest.mark.parametrize("order", ["sequence", "arrival"])
async def test_an_end_inside_history(tmp_path: Path, order: Literal["sequence", "arrival"]) -> None:
    """It is served to the end and no further, while the track goes on."""
    shape = Shape(4, 500)
    origin = moqtrio.Origin()
    async with SqliteStore.open(tmp_path / "store") as store, serving(origin) as server:
        track = origin.create_broadcast(BROADCAST).create_track(TRACK, store=store, cache_age=0.0)
        await publish_history(track, shape, 100)
        follower = Follower()
        with trio.fail_after(20):
            async with server.connect() as session:
                await follower.follow(session, start=13, end=42, order=order)
                follower.check_whole(shape, 13, 42)
                assert follower.ended
                await until(lambda: len(track.log.watchers) == 1)  # the recorder
                again = Follower()
                await again.follow(session, start=98, end=101, stop=lambda: len(again.groups) == 2)
                again.check_whole(shape, 98, 100)


async def test_a_hole_in_history_is_a_gap_and_nothing_else_is(tmp_path: Path) -> None:
    """Sequences that were never used are said to be missing, with code 0, once each."""
    shape = Shape(2, 300)
    used = [*range(20), *range(25, 40), 50, *range(60, 70)]
    origin = moqtrio.Origin()
    async with SqliteStore.open(tmp_path / "store") as store, serving(origin) as server:
        track = origin.create_broadcast(BROADCAST).create_track(TRACK, store=store, cache_age=0.0)
        for sequence in used:
            publish_group(track, shape, sequence)
        await track.wait_durable()
        track.log.evict()
        publish_group(track, shape, 75)
        track.finish()
        for start, order in ((0, "sequence"), (0, "arrival"), (22, "sequence")):
            follower = Follower()
            with trio.fail_after(20):
                await follower.connect_and_follow(server, start=start, order=order)
            expected = [each for each in [*used, 75] if each >= start]
            assert sorted(follower.complete) == expected
            assert follower.start == expected[0]
            assert follower.accounted() == list(range(expected[0], 76))
            assert {gap.code for gap in follower.gaps} == {0}
            follower.check_frames(shape)
            assert follower.ended


async def test_history_of_an_earlier_run(tmp_path: Path) -> None:
    """A track goes on where it was, and its history is there, from whatever run."""
    shape = Shape(3, 900)
    for run in range(3):
        origin = moqtrio.Origin()
        async with SqliteStore.open(tmp_path / "store") as store, serving(origin) as server:
            track = origin.create_broadcast(BROADCAST).create_track(TRACK, store=store)
            assert track.log.next_sequence == run * 40
            follower = Follower()
            with trio.fail_after(20):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(follower.connect_and_follow, server)
                    if run:  # before anything was published this time
                        await until(lambda have=follower.complete, end=run * 40: len(have) == end)
                    for _ in range(40):
                        publish_group(track, shape)
                    track.finish()
            follower.check_whole(shape, 0, run * 40 + 40)
            await track.wait_durable()
