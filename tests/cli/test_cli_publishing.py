"""A fast input is held back by its store, and by nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
import trio.testing

from moqtrio import ReplayError
from moqtrio.cli.publishing import FrameWriter, describe, describe_trouble
from moqtrio.model import Origin, Track
from moqtrio.replay import Recorder
from moqtrio.replay.memory import MemoryTrack

MIB = 2**20


def make_track() -> Track:
    return Origin().create_broadcast("b").create_track("t")


@asynccontextmanager
async def recorded(track: Track) -> AsyncIterator[MemoryTrack]:
    target = MemoryTrack()
    recorder = Recorder(track.log, target, name="b/t")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(recorder.run)
        yield target
        nursery.cancel_scope.cancel()


async def test_a_fast_input_waits_for_the_store(autojump_clock: trio.testing.MockClock) -> None:
    track = make_track()
    async with recorded(track) as target:
        writer = FrameWriter(track, 1)
        target.fail(ReplayError("the disk is full"))
        writer.write([bytes(MIB)] * 31)
        await writer.wait_store()  # there is still room
        writer.write([bytes(MIB)] * 2)
        with trio.move_on_after(60) as scope:
            await writer.wait_store()
        assert scope.cancelled_caught
        target.fail(None)
        await writer.wait_store()
        assert track.statistics().lost == 0


async def test_trouble_with_the_store_is_shown(autojump_clock: trio.testing.MockClock) -> None:
    track = make_track()
    assert describe_trouble(track) == "", "there is none"
    async with recorded(track) as target:
        await trio.sleep(1)
        assert describe_trouble(track) == ""
        target.fail(ReplayError("the disk is full"))
        for _ in range(300):
            track.write_frame(bytes(MIB))
        await trio.sleep(90)
        assert describe_trouble(track) == (
            "; the store is 1m30s behind; 44 groups were not recorded"
        )
        recording = describe(track)["recording"]
        assert isinstance(recording, dict)
        assert recording["last_error"] == "the disk is full"
        target.fail(None)
        await track.wait_durable()
        assert describe_trouble(track) == "; 44 groups were not recorded"


async def test_a_long_group_does_not_wait_for_itself(
    autojump_clock: trio.testing.MockClock,
) -> None:
    track = make_track()
    async with recorded(track) as target:
        writer = FrameWriter(track, 1000)
        writer.write([bytes(MIB)] * 40)
        await writer.wait_store()
        writer.finish()
        await track.wait_durable()
        assert target.bounds().durable_end == 1
    assert track.statistics().next_sequence == 1


async def test_without_a_store_nothing_waits() -> None:
    track = make_track()
    writer = FrameWriter(track, 1)
    writer.write([bytes(MIB)] * 100)
    with trio.fail_after(1):
        await writer.wait_store()
    assert track.statistics().bytes <= 64 * MIB


async def test_groups_have_the_frames_asked_for() -> None:
    track = make_track()
    writer = FrameWriter(track, 3)
    writer.write([b"0", b"1"])
    writer.write([b"2", b"3", b"4", b"5", b"6"])
    writer.finish()
    groups = [track.log.get(sequence) for sequence in range(3)]
    assert [[frame.payload for frame in group.frames] for group in groups if group] == [
        [b"0", b"1", b"2"],
        [b"3", b"4", b"5"],
        [b"6"],
    ]
    assert all(group is not None and group.end is not None for group in groups)
    assert track.log.final_sequence == 3
    assert (writer.frames, writer.bytes) == (7, 7)
