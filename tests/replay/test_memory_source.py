"""The controls of the store in memory."""

from __future__ import annotations

import pytest
import trio
from store_tools import find_group, frames_of, read_group, read_sequences, read_some, whole

from moqtrio.errors import ReplayError, StreamCode
from moqtrio.model.group import FINISHED
from moqtrio.model.source import Missing, Pending
from moqtrio.replay.memory import MemoryStore
from moqtrio.replay.target import GroupWrite


def test_a_track_is_the_same_whenever_asked_for() -> None:
    store = MemoryStore()
    track = store.track("a", "b")
    assert store.track("a", "b") is track
    assert store.track("a", "c") is not track
    assert store.tracks() == [("a", "b"), ("a", "c")]


async def test_trimming_forgets_what_is_below() -> None:
    track = MemoryStore().track("a", "b")
    await track.write([whole(each) for each in range(5)])
    track.trim(3)
    assert await find_group(track, 0) == Missing(3)
    assert track.bounds().oldest == 3
    await track.write([whole(1)])  # Late, and trimmed already.
    assert await read_sequences(track, 10) == [3, 4]


async def test_a_removed_group_leaves_a_hole_and_ends_its_readers() -> None:
    track = MemoryStore().track("a", "b")
    await track.write([whole(0), GroupWrite(1, 0, frames_of(1, 2, 10), None), whole(2)])
    reader = await find_group(track, 1)
    assert not isinstance(reader, Missing)
    await read_some(reader)
    track.remove(1)
    track.remove(1)
    with pytest.raises(ReplayError, match="evicted") as raised:
        await read_some(reader)
    assert raised.value.code == StreamCode.EVICTED
    assert not raised.value.retryable
    assert await find_group(track, 1) == Missing(2)
    await track.write([GroupWrite(1, 2, frames_of(1, 1, 10), FINISHED)])
    assert await find_group(track, 1) == Missing(2)


async def test_a_stalled_track_answers_when_it_goes_on() -> None:
    track = MemoryStore().track("a", "b")
    await track.write([whole(0)])
    reader = await find_group(track, 0)
    assert not isinstance(reader, Missing)
    track.stall()
    assert isinstance(track.poll_group(0), Pending)
    assert isinstance(reader.poll_frames(1), Pending)
    got = []

    async def read() -> None:
        got.append(await read_group(track, 0))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        assert not got
        track.resume()
    assert got == [(frames_of(0, 1, 100), FINISHED)]


async def test_a_failing_track_raises_until_it_is_healed() -> None:
    track = MemoryStore().track("a", "b")
    await track.write([whole(0)])
    reader = await find_group(track, 0)
    assert not isinstance(reader, Missing)
    track.fail(ReplayError("the disk is on fire", code=80))
    with pytest.raises(ReplayError, match="on fire") as raised:
        track.poll_group(0)
    assert (raised.value.code, raised.value.retryable) == (80, True)
    with pytest.raises(ReplayError, match="on fire"):
        reader.poll_frames(1)
    with pytest.raises(ReplayError, match="on fire"):
        await track.write([whole(1)])
    with pytest.raises(ReplayError, match="on fire"):
        await track.reserve(9)
    track.fail(None)
    assert await read_sequences(track, 10) == [0]
