"""What is recorded becomes objects, and is found again wherever it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from object_tools import (
    BROADCAST,
    TRACK,
    Endpoint,
    check,
    cold_slices,
    drop_hot,
    hot_track,
    record,
    tiered,
    tiered_track,
)
from obstore.store import LocalStore, MemoryStore
from store_tools import eventually, find_group, frames_of, read_group, read_sequences, read_some

from moqtrio.errors import ReplayError
from moqtrio.model.group import FINISHED, Aborted
from moqtrio.model.source import Missing
from moqtrio.replay.objects import ObjectStore
from moqtrio.replay.target import GapWrite, GroupWrite


@pytest.fixture(params=["memory", "local", "s3"])
def cold(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param == "memory":
        return MemoryStore()
    if request.param == "local":
        return LocalStore(tmp_path / "cold", mkdir=True)
    endpoint: Endpoint = request.getfixturevalue("endpoint")
    return endpoint.store()


async def test_history_moves_from_disk_to_objects(tmp_path: Path, cold: Any) -> None:
    async with tiered(tmp_path / "hot", cold) as store:
        await record(store, 0, 120)
        await record(store, 120, 130, count=40, size=4000)
        await store.archive()
        assert cold_slices(store) > 5
        track = tiered_track(store)
        before = store.statistics().cold.loads
        await check(track, 0, 120)
        assert store.statistics().cold.loads == before, "the disk has it all"
        await drop_hot(store)
        assert store.statistics().hot.slices == 0
        assert track.bounds().oldest == 0
        await check(track, 0, 120)
        await check(track, 120, 130, count=40, size=4000)
        assert await read_sequences(track, 200) == list(range(130))
        assert store.statistics().archive.lost_slices == 0


async def test_readers_in_another_process_see_what_is_archived(tmp_path: Path, cold: Any) -> None:
    async with tiered(tmp_path / "hot", cold) as store:
        await record(store, 0, 50)
        await store.archive()
        async with ObjectStore.open(cold, interval=0.05) as objects:
            (track,) = objects.tracks()
            assert (track.broadcast, track.name) == (BROADCAST, TRACK)
            assert track.bounds().epoch == tiered_track(store).bounds().epoch
            await check(track, 0, 50)
            assert await find_group(track, 50) == Missing(None)
            await record(store, 60, 100)
            await store.archive()
            with trio.fail_after(5):
                while track.bounds().latest != 99:  # noqa: ASYNC110  # another task polls
                    await trio.sleep(0.01)
            assert await find_group(track, 50) == Missing(60)
            await check(track, 60, 100)
            assert await read_sequences(track, 200) == [*range(50), *range(60, 100)]


async def test_a_restart_goes_on_where_archiving_was(tmp_path: Path, cold: Any) -> None:
    async with tiered(tmp_path / "hot", cold) as store:
        epoch = tiered_track(store).bounds().epoch
        await record(store, 0, 60)
        await store.archive()
        await record(store, 60, 90)
    async with tiered(tmp_path / "hot", cold) as store:
        assert tiered_track(store).bounds().epoch == epoch
        assert hot_track(store).next_sequence == 90
        await record(store, 90, 100)
        await store.archive()
        manifest = store._collection.manifest
        sources = [each.source for each in manifest.slices.values()]
        assert len(set(sources)) == len(sources), "no slice was archived twice"
        assert store.statistics().archive.archived_slices < len(sources)
        await drop_hot(store)
        await check(tiered_track(store), 0, 100)
        assert await read_sequences(tiered_track(store), 200) == list(range(100))


async def test_holes_are_holes_in_both_tiers(tmp_path: Path) -> None:
    """The next available group is the nearest of either tier."""
    async with tiered(tmp_path / "hot", MemoryStore()) as store:
        track = tiered_track(store)
        for sequence in (3, 4, 9):
            await record(store, sequence, sequence + 1)
        await store.archive()
        await drop_hot(store)
        await record(store, 6, 7)
        await record(store, 12, 13)
        assert track.bounds().oldest == 3
        assert track.bounds().latest == 12
        assert await read_sequences(track, 20) == [3, 4, 6, 9, 12]
        expected = {0: 3, 5: 6, 7: 9, 8: 9, 10: 12, 13: None}
        for sequence, nearest in expected.items():
            assert await find_group(track, sequence) == Missing(nearest), sequence


async def test_late_groups_change_what_was_said_to_be_missing(tmp_path: Path) -> None:
    cold = MemoryStore()
    async with tiered(tmp_path / "hot", cold) as store:
        await record(store, 0, 10)
        await record(store, 20, 30)
        await store.archive()
        async with ObjectStore.open(cold, interval=3600) as objects:
            track = objects.track(BROADCAST, TRACK)
            assert await read_sequences(track, 50) == [*range(10), *range(20, 30)]
            await record(store, 12, 15)
            await store.archive()
            assert await find_group(track, 10) == Missing(20)
            await objects.refresh()
            assert await find_group(track, 10) == Missing(12)
            expected = [*range(10), *range(12, 15), *range(20, 30)]
            assert await read_sequences(track, 50) == expected
            await check(track, 12, 15)


async def test_what_was_never_recorded_stays_lost_and_not_absent(tmp_path: Path) -> None:
    cold = MemoryStore()
    async with tiered(tmp_path / "hot", cold) as store:
        await record(store, 0, 10)
        await hot_track(store).write_gaps([GapWrite(10, 13, 53)])
        await record(store, 20, 30)
        await store.archive()
        await drop_hot(store)
        assert store.statistics().hot.slices == 0
        async with ObjectStore.open(cold) as objects:
            for track in (tiered_track(store), objects.track(BROADCAST, TRACK)):
                for sequence in range(10, 13):
                    with pytest.raises(ReplayError, match="could not be recorded") as raised:
                        await find_group(track, sequence)
                    assert raised.value.code == 53
                assert await find_group(track, 13) == Missing(20)
                await check(track, 20, 30)


async def test_what_was_lost_between_two_objects_is_not_absent(tmp_path: Path) -> None:
    """No object covers such a sequence: only the manifest knows of it."""
    async with tiered(tmp_path / "hot", MemoryStore()) as store:
        track = tiered_track(store)
        await record(store, 0, 5)
        await store.archive()
        await hot_track(store).write_gaps([GapWrite(10, 13, 53)])
        await record(store, 20, 25)
        await store.archive()
        await drop_hot(store)
        assert store.statistics().hot.slices == 0
        assert await find_group(track, 5) == Missing(10), "an absence ends where a loss begins"
        for sequence in range(10, 13):
            with pytest.raises(ReplayError, match="could not be recorded") as raised:
                await find_group(track, sequence)
            assert raised.value.code == 53
        assert await find_group(track, 13) == Missing(20)


async def test_groups_that_go_over_several_objects(tmp_path: Path) -> None:
    """The disk keeps them until all of them is archived."""
    async with tiered(tmp_path / "hot", MemoryStore()) as store:
        hot, track = hot_track(store), tiered_track(store)
        frames = frames_of(0, 400, 2000)
        for first in range(0, 400, 20):
            end = FINISHED if first == 380 else None
            await hot.write([GroupWrite(0, first, frames[first : first + 20], end)])
            if first == 200:
                await store.archive()
                await drop_hot(store)
                assert hot.bounds().oldest == 0, "its end is still to come"
        await hot.write([GroupWrite(1, 0, frames_of(1, 2, 10), Aborted(77))])
        await store.archive()
        await drop_hot(store)
        assert store.statistics().hot.slices == 0
        assert await read_group(track, 0) == (frames, FINISHED)
        assert await read_group(track, 1) == (frames_of(1, 2, 10), Aborted(77))


async def test_a_reader_follows_a_group_that_is_being_archived(tmp_path: Path) -> None:
    cold = MemoryStore()
    async with tiered(tmp_path / "hot", cold) as store:
        hot = hot_track(store)
        frames = frames_of(5, 60, 3000)
        await hot.write([GroupWrite(5, 0, frames[:40], None)])
        await store.archive()
        async with ObjectStore.open(cold, interval=0.02) as objects:
            reader = await find_group(objects.track(BROADCAST, TRACK), 5)
            assert not isinstance(reader, Missing)
            found = []
            while len(found) < 40:
                found += await read_some(reader)
            with trio.move_on_after(0.1) as scope:
                await read_some(reader)
            assert scope.cancelled_caught, "more of it is to come"
            await hot.write([GroupWrite(5, 40, frames[40:], FINISHED)])
            await store.archive()
            with trio.fail_after(5):
                while some := await read_some(reader):
                    found += some
            assert found == frames
            reader.close()


async def test_a_group_cut_short_by_a_crash_is_not_waited_for(tmp_path: Path) -> None:
    cold = MemoryStore()
    async with tiered(tmp_path / "hot", cold) as store:
        await hot_track(store).write([GroupWrite(5, 0, frames_of(5, 3, 100), None)])
    async with tiered(tmp_path / "hot", cold) as store:
        await store.archive()
        await drop_hot(store)
        async with ObjectStore.open(cold) as objects:
            for track in (objects.track(BROADCAST, TRACK), tiered_track(store)):
                with trio.fail_after(5):
                    assert await read_group(track, 5) == (frames_of(5, 3, 100), None)


async def test_a_file_that_goes_while_its_group_is_read(tmp_path: Path) -> None:
    """The reader goes on with the object, at the frame it had come to."""
    async with tiered(tmp_path / "hot", MemoryStore(), cache_bytes=0) as store:
        frames = frames_of(0, 2000, 3000)
        await hot_track(store).write([GroupWrite(0, 0, frames, FINISHED)])
        await store.archive()
        reader = await find_group(tiered_track(store), 0)
        assert not isinstance(reader, Missing)
        found = list(await read_some(reader))
        await drop_hot(store)
        assert store.statistics().hot.slices == 0
        while some := await read_some(reader):
            found += some
        assert found == frames
        reader.close()
        assert store.statistics().cold.readers == 0
        assert store.statistics().hot.readers == 0


async def test_retention_of_objects(tmp_path: Path, mock_clock: trio.testing.MockClock) -> None:
    """They leave the manifest first, and are deleted when no reader asks for them any more."""
    cold = MemoryStore()
    options: dict[str, Any] = {"retention": 1000.0, "hot_retention": 100.0, "grace": 60.0}

    def objects() -> int:
        return len(cold.list("slices").collect())

    async with tiered(tmp_path / "hot", cold, slice_seconds=10.0, **options) as store:
        await record(store, 0, 10)
        mock_clock.jump(11)
        await eventually(lambda: cold_slices(store) == 1)
        mock_clock.jump(100)
        await eventually(lambda: store.statistics().hot.slices == 0)
        await check(tiered_track(store), 0, 10)
        mock_clock.jump(500)
        await record(store, 10, 20)
        await store.archive()
        mock_clock.jump(480)
        await eventually(lambda: cold_slices(store) == 1)
        assert await find_group(tiered_track(store), 0) == Missing(10)
        assert objects() == 2, "a reader with the manifest of before may still ask for it"
        mock_clock.jump(59)
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert objects() == 2
        mock_clock.jump(2)
        await eventually(lambda: objects() == 1)
        await check(tiered_track(store), 10, 20)
        mock_clock.jump(1000)
        await eventually(lambda: cold_slices(store) == 0)
        assert tiered_track(store).bounds().oldest is None
        assert store.statistics().archive.removed_slices == 2


async def test_by_time_of_day(tmp_path: Path, mock_clock: trio.testing.MockClock) -> None:
    options: dict[str, Any] = {"hot_retention": 4000.0, "slice_seconds": 100.0}
    async with tiered(tmp_path / "hot", MemoryStore(), **options) as store:
        track = tiered_track(store)
        times = []
        for sequence in range(60):
            times.append(track.now())
            await record(store, sequence, sequence + 1)
            mock_clock.jump(30)
        await store.archive()
        for _ in range(2):
            for sequence in (0, 7, 31, 59):
                assert await track.find_time(times[sequence]) == sequence
                assert await track.find_time(times[sequence] - 1) == sequence
            assert await track.find_time(track.now()) is None
            await drop_hot(store)
        assert store.statistics().hot.slices == 0
        assert store.statistics().cold.loads > 0


async def test_without_obstore_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.delitem(sys.modules, "moqtrio.replay.objects.client", raising=False)
    with pytest.raises(ReplayError, match=r"pip install 'moqtrio\[objects\]'"):
        async with ObjectStore.open("s3://bucket/prefix"):
            raise AssertionError
    with pytest.raises(ReplayError, match=r"pip install 'moqtrio\[objects\]'"):
        async with tiered(tmp_path, "s3://bucket/prefix"):
            raise AssertionError


@pytest.mark.parametrize("url", ["ftp://host/x", "s3", "not a url", "s3://"])
async def test_urls_that_mean_nothing(url: str) -> None:
    with pytest.raises(ReplayError, match="cannot be used as an object store"):
        async with ObjectStore.open(url):
            raise AssertionError


async def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match="no moqtrio store"):
        async with ObjectStore.open((tmp_path / "cold").as_uri()):
            raise AssertionError
