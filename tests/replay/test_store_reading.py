"""How the SQLite store reads: shared, ahead, within its memory, and off the event loop."""

from __future__ import annotations

import gc
import sys
import threading
import tracemalloc
from pathlib import Path

import pytest
import trio
import trio.testing
from store_tools import eventually, find_group, frames_of, read_group, read_sequences, whole

from moqtrio.errors import ReplayError
from moqtrio.model.frame import Frame
from moqtrio.model.group import FINISHED
from moqtrio.model.origin import Origin
from moqtrio.model.source import Missing, Pending, Ready
from moqtrio.replay.sqlite import SqliteStore, SqliteTrack, inspect_store
from moqtrio.replay.target import GroupWrite

MIB = 1024 * 1024


async def record(directory: Path, groups: int, count: int, size: int, **options: int) -> None:
    async with SqliteStore.open(directory, **options) as store:
        track = store.track("a", "b")
        step = max(MIB // (count * size), 1)
        for start in range(0, groups, step):
            stop = min(start + step, groups)
            await track.write([whole(each, count, size) for each in range(start, stop)])


async def read_all(track: SqliteTrack, groups: int, count: int, size: int) -> None:
    for sequence in range(groups):
        assert await read_group(track, sequence) == (frames_of(sequence, count, size), FINISHED)


async def test_many_readers_cause_one_load_of_each_range(tmp_path: Path) -> None:
    """P12."""
    await record(tmp_path, 300, 3, 2000)
    async with SqliteStore.open(tmp_path) as store:
        await read_all(store.track("a", "b"), 300, 3, 2000)
        alone = store.statistics()
    async with SqliteStore.open(tmp_path) as store:
        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(read_all, store.track("a", "b"), 300, 3, 2000)
        together = store.statistics()
    # The ranges may be cut in other places, but nothing is read twice.
    assert together.loaded_bytes <= alone.loaded_bytes * 1.1
    assert together.loads <= 2 * alone.loads
    assert together.readers == 0


async def test_readers_of_neighbours_share_loads(tmp_path: Path) -> None:
    await record(tmp_path, 40, 1, 70_000)
    async with SqliteStore.open(tmp_path) as store:
        async with trio.open_nursery() as nursery:
            for sequence in range(40):
                nursery.start_soon(read_group, store.track("a", "b"), sequence)
        # Trio runs them in any order, so the ranges vary; but nothing is read twice.
        statistics = store.statistics()
        assert statistics.loads < 30
        assert statistics.loaded_bytes < 40 * 70_000 * 1.1


async def test_readers_of_a_long_group_share_its_loads(tmp_path: Path) -> None:
    await record(tmp_path, 1, 300, 10_000)
    async with SqliteStore.open(tmp_path) as store:
        await read_all(store.track("a", "b"), 1, 300, 10_000)
        alone = store.statistics()
    async with SqliteStore.open(tmp_path) as store:
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(read_all, store.track("a", "b"), 1, 300, 10_000)
        assert store.statistics().loaded_bytes <= alone.loaded_bytes * 1.1


async def test_small_groups_are_read_by_the_thousand(tmp_path: Path) -> None:
    await record(tmp_path, 5000, 1, 100)
    async with SqliteStore.open(tmp_path) as store:
        await read_all(store.track("a", "b"), 5000, 1, 100)
        assert store.statistics().loads <= 4


async def test_what_follows_is_read_ahead(tmp_path: Path) -> None:
    await record(tmp_path, 400, 1, 10_000)
    async with SqliteStore.open(tmp_path) as store:
        track = store.track("a", "b")
        pending = 0
        for sequence in range(400):
            answer = track.poll_group(sequence)
            if isinstance(answer, Pending):
                pending += 1
                reader = await find_group(track, sequence)
            else:
                assert isinstance(answer, Ready)
                reader = answer.value
            reader.close()
            await eventually(lambda: not store.statistics().loads_in_flight)
        assert pending == 1
        assert store.statistics().loads > 3


async def test_memory_stays_within_its_bound(tmp_path: Path) -> None:
    """P9."""
    await record(tmp_path, 300, 10, 10_000)
    async with SqliteStore.open(tmp_path, cache_bytes=MIB) as store:
        track = store.track("a", "b")
        await read_group(track, 0)
        gc.collect()
        tracemalloc.start()
        try:
            for sequence in range(300):
                await read_group(track, sequence)
                assert store.statistics().cache_bytes <= 1.1 * MIB
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 5 * MIB
        assert store.statistics().loaded_bytes > 25 * MIB


async def test_readers_all_over_a_store_get_on_with_a_tiny_cache(tmp_path: Path) -> None:
    await record(tmp_path, 40, 20, 10_000)
    async with SqliteStore.open(tmp_path, cache_bytes=1) as store:
        track = store.track("a", "b")
        done = []

        async def read(sequence: int) -> None:
            expected = (frames_of(sequence, 20, 10_000), FINISHED)
            assert await read_group(track, sequence, 1000) == expected
            done.append(sequence)

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for sequence in range(40):
                    nursery.start_soon(read, sequence)
        assert sorted(done) == list(range(40))


async def test_the_event_loop_runs_while_the_disk_works(tmp_path: Path) -> None:
    ticks = 0
    threads: set[int] | None = set()

    def note_thread(event: str, _: object) -> None:
        if threads is not None and event == "sqlite3.connect":
            threads.add(threading.get_ident())

    sys.addaudithook(note_thread)  # For good: there is no way to remove one.

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await trio.lowlevel.checkpoint()

    async with SqliteStore.open(tmp_path, cache_bytes=1) as store:
        track = store.track("a", "b")
        batches = [[whole(5 * n + each, 40, 20_000) for each in range(5)] for n in range(5)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tick)
            for batch in batches:
                before = ticks
                await track.write(batch)
                assert ticks - before > 20, "a write held the event loop up"
            for sequence in (3, 17):
                await read_group(track, sequence)
            nursery.cancel_scope.cancel()
    assert threads, "the store opens its files with sqlite3.connect"
    assert threading.get_ident() not in threads
    threads = None


async def test_cancelling_who_waits_leaves_nothing(tmp_path: Path) -> None:
    """P13."""
    await record(tmp_path, 50, 10, 10_000)
    async with SqliteStore.open(tmp_path) as store:
        track = store.track("a", "b")
        for sequence in range(0, 50, 5):
            with trio.CancelScope() as scope:
                answer = track.poll_group(sequence)
                if isinstance(answer, Pending):
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(answer.wait)
                        await trio.lowlevel.checkpoint()
                        scope.cancel()
        await eventually(lambda: not store.statistics().loads_in_flight)
        assert store.statistics().readers == 0
        assert await read_sequences(track, 50) == list(range(50))


async def test_one_who_is_cancelled_does_not_stop_the_others(tmp_path: Path) -> None:
    await record(tmp_path, 5, 10, 10_000)
    async with SqliteStore.open(tmp_path) as store:
        track = store.track("a", "b")
        got = []

        async def read() -> None:
            got.append(await read_group(track, 2))

        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as impatient:
                    impatient.start_soon(read)
                    await trio.lowlevel.checkpoint()
                    nursery.start_soon(read)
                    await trio.lowlevel.checkpoint()
                    scope.cancel()
        assert got == [(frames_of(2, 10, 10_000), FINISHED)]


async def test_what_comes_while_neighbours_are_read_is_found(tmp_path: Path) -> None:
    """A load that began before a late group came must not say that there is none."""
    regions, width = 100, 200
    async with SqliteStore.open(tmp_path) as store:
        track = store.track("a", "b")
        for region in range(regions):
            start = region * width
            await track.write([whole(each, 1, 2000) for each in range(start, start + width, 2)])

        async def load(sequence: int, delay: float) -> None:
            await trio.sleep(delay)
            reader = await find_group(track, sequence)
            assert not isinstance(reader, Missing)
            reader.close()

        # From the end, so that each load goes on to where the one before began. The delays
        # are about what a commit takes: some load ends just after the group came.
        for region in reversed(range(regions)):
            late = region * width + width // 2 + 1
            async with trio.open_nursery() as nursery:
                nursery.start_soon(track.write, [whole(late)])
                nursery.start_soon(load, region * width, region % 50 * 0.0002)
            answer = await find_group(track, late)
            assert not isinstance(answer, Missing)
            answer.close()


async def test_tracks_do_not_mix(tmp_path: Path) -> None:
    names = [("a", "b"), ("a", "c"), ("b", "b"), ("", ""), ("ü", "\0")]
    async with SqliteStore.open(tmp_path) as store:
        for index, name in enumerate(names):
            await store.track(*name).write([whole(index, size=50 + index), whole(50)])
        assert [(track.broadcast, track.name) for track in store.tracks()] == names
        assert len({track.bounds().epoch for track in store.tracks()}) == len(names)
    async with SqliteStore.open(tmp_path) as store:
        assert [(track.broadcast, track.name) for track in store.tracks()] == names
        for index, name in enumerate(names):
            track = store.track(*name)
            assert await read_sequences(track, 100) == [index, 50]
            assert await read_group(track, index) == (frames_of(index, 1, 50 + index), FINISHED)


async def test_groups_far_apart_are_found(tmp_path: Path) -> None:
    sequences = [0, 1, 10**6, 10**12, 2**62 - 1]
    frame = [Frame(b"far", 0)]
    async with SqliteStore.open(tmp_path) as store:
        track = store.track("a", "b")
        await track.write([GroupWrite(each, 0, frame, FINISHED) for each in sequences])
        assert await find_group(track, 2) == Missing(10**6)
        assert await find_group(track, 10**6 + 1) == Missing(10**12)
        assert await find_group(track, 2**62 - 2) == Missing(2**62 - 1)
        assert await find_group(track, 2**62) == Missing(None)
        for bad in (-1, 2**62):
            with pytest.raises(ReplayError, match="is not a sequence"):
                await track.write([GroupWrite(bad, 0, frame, FINISHED)])
        late = GroupWrite(77, 0, [Frame(b"", 2**63)], FINISHED)
        with pytest.raises(ReplayError, match="does not fit 64 bits"):
            await track.write([late])
        assert await find_group(track, 77) == Missing(10**6)


async def test_what_inspecting_says(tmp_path: Path) -> None:
    async with SqliteStore.open(tmp_path, slice_bytes=1) as store:
        track = store.track("live/a", "all")
        await track.reserve(100)
        await track.write([whole(3, 2, 100), whole(4, 300, 1000)])
        await track.write([whole(7, 5, 10)])
        during = await trio.to_thread.run_sync(SqliteStore.inspect, tmp_path)
        epoch = track.bounds().epoch
    after = inspect_store(tmp_path)
    for info, following in ((during, 100), (after, 8)):
        (stored,) = info.tracks
        assert (stored.broadcast, stored.name, stored.epoch) == ("live/a", "all", epoch)
        assert (stored.oldest, stored.next_sequence, stored.slices) == (3, following, 2)
        assert (stored.groups, stored.frames) == (3, 307)
        assert stored.bytes == 2 * 100 + 300 * 1000 + 5 * 10
        assert (stored.first_timestamp_us, stored.last_timestamp_us) == (3000, 7004)
        assert all(each.problem is None for each in info.slices)
        assert info.bytes > 300_000
    assert [each.state for each in during.slices] == ["sealed", "active"]
    assert [each.state for each in after.slices] == ["sealed", "sealed"]


async def test_a_closed_store_says_so(tmp_path: Path) -> None:
    async with SqliteStore.open(tmp_path) as store:
        track = store.track("a", "b")
        await track.write([GroupWrite(0, 0, frames_of(0, 1, 10), None)])
        reader = await find_group(track, 0)
    assert not isinstance(reader, Missing)
    with pytest.raises(ReplayError, match="is closed") as raised:
        track.poll_group(0)
    assert not raised.value.retryable
    with pytest.raises(ReplayError, match="is closed"):
        reader.poll_frames(1)
    with pytest.raises(ReplayError, match="is closed"):
        await track.write([whole(1)])
    with pytest.raises(ReplayError, match="is closed"):
        await track.reserve(5)
    reader.close()


async def test_errors_come_out_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="mine"):
        async with SqliteStore.open(tmp_path):
            raise LookupError("mine")

    async def fail() -> None:
        raise LookupError("a task's")

    async def be_failed() -> None:
        async with SqliteStore.open(tmp_path) as store:
            store.start_soon(fail)
            await trio.sleep_forever()

    with pytest.raises(LookupError, match="a task's"):
        await be_failed()

    with trio.move_on_after(0) as scope:
        async with SqliteStore.open(tmp_path):
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_recording_a_track_and_reading_it_back(tmp_path: Path) -> None:
    origin = Origin()
    async with SqliteStore.open(tmp_path) as store:
        track = origin.create_broadcast("live").create_track("all", store=store)
        for index in range(100):
            track.write_frame(b"%d" % index, index)
        await track.wait_durable()
        assert await read_sequences(track.source, 1000) == list(range(100))
        with pytest.raises(ReplayError, match="is being recorded already"):
            Origin().create_broadcast("live").create_track("all", store=store)
        # Published, and not recorded when the store closes: used all the same.
        for _ in range(20):
            track.append_group()
    async with SqliteStore.open(tmp_path) as store:
        assert store.track("live", "all").next_sequence == 120
        track = Origin().create_broadcast("live").create_track("all", store=store)
        assert track.append_group().sequence == 120
        answer = await read_group(track.source, 99)
        assert not isinstance(answer, Missing)
        assert [frame.payload for frame in answer[0]] == [b"99"]


async def test_a_group_that_comes_late_hides_none_recorded_before_it(tmp_path: Path) -> None:
    """Small groups lie together in packs, and who looks for one looks into one pack."""
    async with SqliteStore.open(tmp_path, cache_bytes=1) as store:
        track = store.track("a", "b")
        await track.write([whole(0), whole(2), whole(4), whole(8)])
        await track.write([whole(3)])
        await track.write([whole(9)])
        for sequence in (4, 8, 0, 3, 9, 2):
            got = await read_group(track, sequence)
            assert got == (frames_of(sequence, 1, 100), FINISHED)


async def test_a_load_nobody_waits_for_any_more_is_not_made(tmp_path: Path) -> None:
    """P13, for one that had to wait for a thread."""
    async with SqliteStore.open(tmp_path) as store:
        await store.track("a", "b").write([whole(0)])
    async with SqliteStore.open(tmp_path) as store:
        slots = store._reading.slots
        borrowers = [object() for _ in range(int(slots.total_tokens))]
        for borrower in borrowers:
            slots.acquire_on_behalf_of_nowait(borrower)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(find_group, store.track("a", "b"), 0)
            await trio.testing.wait_all_tasks_blocked()
            assert store.statistics().loads_in_flight == 1
            nursery.cancel_scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert store.statistics().loads_in_flight == 0
        for borrower in borrowers:
            slots.release_on_behalf_of(borrower)
        assert await read_group(store.track("a", "b"), 0) == (frames_of(0, 1, 100), FINISHED)
        assert store.statistics().loads == 1
