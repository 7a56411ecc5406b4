"""History goes by age and by size, a whole slice at a time, and never by halves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing
from store_tools import (
    eventually,
    files,
    find_group,
    frames_of,
    read_group,
    read_rest,
    read_sequences,
    read_some,
    whole,
)

from moqtrio.errors import ReplayError, StreamCode
from moqtrio.model.group import FINISHED
from moqtrio.model.source import Missing, Pending
from moqtrio.replay.sqlite import SqliteStore, inspect_store
from moqtrio.replay.target import GroupWrite

# These tests move a MockClock by hand. It must not jump by itself: to Trio a task that waits
# for a worker thread is blocked like any other, and the clock would race ahead of the disk.


def wall_clock(now: float) -> Callable[[], float]:
    return lambda: now


async def test_old_slices_go_by_themselves(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    async with SqliteStore.open(tmp_path, retention=100.0, slice_seconds=10.0) as store:
        track = store.track("a", "b")
        for sequence in range(5):
            await track.write([whole(sequence)])
            mock_clock.jump(11.0)
        assert await read_sequences(track, 10) == [0, 1, 2, 3, 4]
        mock_clock.jump(67.0)  # The first is now 122 seconds old, the second 111, the third 100.
        await eventually(lambda: track.bounds().oldest == 3)
        assert await find_group(track, 0) == Missing(3)
        assert await read_sequences(track, 10) == [3, 4]
        mock_clock.jump(1000.0)
        await eventually(lambda: track.bounds().oldest is None)
        await eventually(lambda: not files(tmp_path, "slice-*"))
        assert await find_group(track, 0) == Missing(None)
        assert track.next_sequence == 5
        await track.write([whole(5)])
        assert await read_sequences(track, 10) == [5]
    async with SqliteStore.open(tmp_path, retention=100.0) as store:
        assert store.track("a", "b").next_sequence == 6


async def test_a_slice_is_sealed_in_time_without_further_writes(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    async with SqliteStore.open(tmp_path, slice_seconds=10.0) as store:
        await store.track("a", "b").write([whole(0)])
        assert inspect_store(tmp_path).slices[0].state == "active"
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(10.0)
        await eventually(lambda: inspect_store(tmp_path).slices[0].state == "sealed")
        assert not any(each.stat().st_size for each in files(tmp_path, "slice-*.db-wal"))


async def test_the_oldest_go_when_there_is_too_much(tmp_path: Path) -> None:
    limit = 4_000_000
    async with SqliteStore.open(tmp_path, retention_bytes=limit) as store:
        track = store.track("a", "b")
        for sequence in range(100):
            await track.write([whole(sequence, count=10, size=10_000)])
            await store.apply_retention()
            assert store.statistics().file_bytes < 1.3 * limit
            on_disk = sum(each.stat().st_size for each in files(tmp_path, "slice-*.db"))
            assert on_disk < 1.3 * limit
        oldest = track.bounds().oldest
        assert oldest is not None
        assert 50 < oldest < 90
        assert await read_sequences(track, 100) == list(range(oldest, 100))
        assert store.statistics().evicted_slices > 0


async def test_the_slice_being_written_stays_although_there_is_too_much(tmp_path: Path) -> None:
    """Small commits take far more room in its log than they will once it is sealed."""
    limit = 400_000
    async with SqliteStore.open(tmp_path, retention_bytes=limit) as store:
        track = store.track("a", "b")
        for sequence in range(60):
            await track.write([whole(sequence)])
            await store.apply_retention()
        assert store.statistics().file_bytes > limit
        assert await read_sequences(track, 100) == list(range(60))


async def test_a_reader_ends_with_an_error_when_its_group_goes(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    async with SqliteStore.open(
        tmp_path, retention=100.0, slice_seconds=10.0, cache_bytes=1
    ) as store:
        track = store.track("a", "b")
        await track.write([whole(0, count=100, size=20_000), whole(1)])
        reader = await find_group(track, 0)
        small = await find_group(track, 1)
        assert not isinstance(reader, Missing)
        assert not isinstance(small, Missing)
        got = len(await read_some(reader, 50_000))
        mock_clock.jump(200.0)
        await eventually(lambda: track.bounds().oldest is None)
        with pytest.raises(ReplayError, match="evicted") as raised:
            got += len(await read_rest(reader))
        assert got < 100
        assert raised.value.code == StreamCode.EVICTED
        assert not raised.value.retryable
        # What had been read whole may still be handed out.
        assert await read_rest(small) == frames_of(1, 1, 100)
        reader.close()
        small.close()


async def test_a_group_goes_on_over_many_slices(tmp_path: Path) -> None:
    async with SqliteStore.open(tmp_path, slice_bytes=100_000, cache_bytes=1) as store:
        track = store.track("a", "b")
        for part in range(12):
            write = GroupWrite(0, 30 * part, frames_of(0, 30, 4000, first=30 * part), None)
            await track.write([write, whole(part + 1, 2)])
        reader = await find_group(track, 0)
        assert not isinstance(reader, Missing)
        frames = [*await read_some(reader)]
        while len(frames) < 360:
            frames += await read_some(reader)
        assert isinstance(reader.poll_frames(1), Pending)
        await track.write([GroupWrite(0, 360, (), FINISHED)])
        assert await read_rest(reader) == []
        assert frames == frames_of(0, 360, 4000)
        assert store.statistics().slices > 10
        reader.close()
    async with SqliteStore.open(tmp_path) as store:
        track = store.track("a", "b")
        assert await read_group(track, 0) == (frames_of(0, 360, 4000), FINISHED)
        assert await read_sequences(track, 100) == list(range(13))
        assert store.statistics().written_groups == 0


async def test_a_group_whose_beginning_went_is_missing(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    async with SqliteStore.open(tmp_path, retention=100.0, slice_seconds=10.0) as store:
        track = store.track("a", "b")
        await track.write([GroupWrite(0, 0, frames_of(0, 5, 100), None)])
        mock_clock.jump(60.0)
        await track.write([GroupWrite(0, 5, frames_of(0, 5, 100, first=5), None), whole(1)])
        mock_clock.jump(60.0)
        await eventually(lambda: track.bounds().oldest == 1)
        assert await find_group(track, 0) == Missing(1)
        # Whoever records goes on, not knowing; it is not wanted any more.
        await track.write([GroupWrite(0, 10, frames_of(0, 5, 100, first=10), FINISHED), whole(2)])
        assert await find_group(track, 0) == Missing(1)
        assert await read_sequences(track, 10) == [1, 2]
    async with SqliteStore.open(tmp_path) as store:
        track = store.track("a", "b")
        assert await find_group(track, 0) == Missing(1)
        assert await read_sequences(track, 10) == [1, 2]


async def test_slices_that_overlap_go_without_a_trace(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    async with SqliteStore.open(tmp_path, retention=100.0, slice_seconds=10.0) as store:
        track = store.track("a", "b")
        await track.write([whole(0), whole(4), whole(8)])
        mock_clock.jump(60.0)
        await track.write([whole(2), whole(6), whole(10)])
        assert await read_sequences(track, 20) == [0, 2, 4, 6, 8, 10]
        mock_clock.jump(60.0)
        await eventually(lambda: track.bounds().oldest == 2)
        assert await read_sequences(track, 20) == [2, 6, 10]
        assert await find_group(track, 3) == Missing(6)


async def test_a_clock_set_back_neither_removes_nor_hoards(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    async def record(now: float, sequence: int) -> list[int]:
        async with SqliteStore.open(
            tmp_path, retention=1000.0, slice_seconds=10.0, wall_clock=wall_clock(now)
        ) as store:
            track = store.track("a", "b")
            await track.write([whole(sequence)])
            mock_clock.jump(300.0)
            await store.apply_retention()
            return await read_sequences(track, 100)

    day = 86400.0
    assert await record(1000 * day, 0) == [0]
    assert await record(1 * day, 1) == [0, 1]  # Set back by years: 300 seconds have passed.
    assert await record(1 * day, 2) == [0, 1, 2]
    # Not kept for those years either: 1200 seconds of recording are more than it keeps.
    assert await record(1 * day, 3) == [1, 2, 3]
    # Switched off for a day.
    assert await record(1001 * day, 4) == [4]


async def test_history_that_ages_while_the_store_is_closed_goes_on_opening(
    tmp_path: Path,
) -> None:
    async with SqliteStore.open(tmp_path, wall_clock=wall_clock(1000.0)) as store:
        await store.track("a", "b").write([whole(0)])
    async with SqliteStore.open(tmp_path, retention=60.0, wall_clock=wall_clock(2000.0)) as store:
        await eventually(lambda: store.track("a", "b").bounds().oldest is None)
        assert store.track("a", "b").next_sequence == 1
