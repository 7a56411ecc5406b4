"""An endpoint that is dead, silent, broken or gone half-way; objects that are damaged."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import obstore
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
    objects_of,
    record,
    tiered,
    tiered_track,
)
from obstore.store import MemoryStore
from store_tools import eventually, find_group, frames_of, read_group, read_some, whole

from moqtrio.errors import ReplayError, StreamCode
from moqtrio.model.group import FINISHED
from moqtrio.model.source import Missing, Pending, ReplaySource
from moqtrio.replay.objects import ObjectStore
from moqtrio.replay.objects.layout import TRAILER_BYTES
from moqtrio.replay.sqlite import SqliteStore
from moqtrio.replay.target import GroupWrite

FAULTS = ["refuse", "silent", "broken", "cut"]


@pytest.mark.parametrize("fault", FAULTS)
async def test_recording_does_not_notice_and_archiving_catches_up(
    tmp_path: Path, endpoint: Endpoint, fault: str
) -> None:
    cold = endpoint.store(seconds=0.5)
    async with tiered(tmp_path / "hot", cold, hot_retention=0.0) as store:
        await record(store, 0, 30)
        await store.archive()
        archived = cold_slices(store)
        endpoint.set_mode(fault)
        slowest = 0.0
        for sequence in range(30, 60):
            began = trio.current_time()
            await record(store, sequence, sequence + 1)
            slowest = max(slowest, trio.current_time() - began)
            await trio.sleep(0.01)
        assert slowest < 0.5, "a write waited for the object store"
        await eventually(lambda: store.statistics().archive.state == "failing")
        assert cold_slices(store) == archived
        await store._hot.apply_retention()
        assert store.statistics().archive.lost_slices == 0
        await check(tiered_track(store), 30, 60)  # what is not archived has not left the disk
        endpoint.set_mode("open")
        with trio.fail_after(20):
            await store.archive()
        assert store.statistics().archive.state == "archiving"
        await drop_hot(store)
        assert store.statistics().hot.slices == 0
        await check(tiered_track(store), 0, 60)


@pytest.mark.parametrize("fault", FAULTS)
async def test_reading_fails_for_a_while_and_heals(
    tmp_path: Path, endpoint: Endpoint, fault: str
) -> None:
    cold = endpoint.store(seconds=0.5)
    async with tiered(tmp_path / "hot", cold, cache_bytes=0) as store:
        await record(store, 0, 60)
        await store.archive()
        await drop_hot(store)
        await record(store, 60, 61)
        track = tiered_track(store)
        await check(track, 0, 3)
        endpoint.set_mode(fault)
        with trio.fail_after(10):
            for sequence in (20, 21, 50):
                with pytest.raises(ReplayError) as raised:
                    await read_group(track, sequence)
                assert raised.value.retryable, "the group is not lost"
        await check(track, 60, 61)  # the disk does not wait for the network
        endpoint.set_mode("open")
        with trio.fail_after(10):
            await check_in_time(track, 0, 61)


async def check_in_time(track: ReplaySource, first: int, end: int) -> None:
    """As :func:`check`, asking again while the store recovers, as the resolver does."""
    for sequence in range(first, end):
        while True:
            try:
                await check(track, sequence, sequence + 1)
                break
            except ReplayError as error:
                if not error.retryable:
                    raise
                await trio.sleep(0.05)


async def test_hanging_reads_do_not_hold_the_others(tmp_path: Path, endpoint: Endpoint) -> None:
    """However many wait for an endpoint that says nothing, none waits for all before it."""
    cold = endpoint.store(seconds=2)
    async with tiered(tmp_path / "hot", cold, cache_bytes=0, slice_bytes=10_000) as store:
        await record(store, 0, 120)
        await store.archive()
        await drop_hot(store)
        await record(store, 120, 121)
        track = tiered_track(store)
        endpoint.set_mode("silent")
        failed: list[float] = []
        began = trio.current_time()

        async def read(sequence: int) -> None:
            with pytest.raises(ReplayError):
                await read_group(track, sequence)
            failed.append(trio.current_time() - began)

        async with trio.open_nursery() as nursery:
            for sequence in range(0, 120, 2):
                nursery.start_soon(read, sequence)
            slowest = 0.0
            while len(failed) < 60:
                asked = trio.current_time()
                await check(track, 120, 121)
                slowest = max(slowest, trio.current_time() - asked)
                await trio.sleep(0.01)
        assert slowest < 0.5, "the disk waited for the network"
        assert max(failed) < 6, "60 loads, 8 at a time, of 2 seconds each, would take 15"


async def test_closing_does_not_wait_for_a_silent_endpoint(
    tmp_path: Path, endpoint: Endpoint
) -> None:
    cold = endpoint.store(seconds=30)
    async with trio.open_nursery() as nursery:
        async with tiered(tmp_path / "hot", cold) as store:
            await record(store, 0, 30)
            await store.archive()
            await drop_hot(store)
            endpoint.set_mode("silent")
            await record(store, 30, 60)
            answer = tiered_track(store).poll_group(3)
            assert isinstance(answer, Pending)
            nursery.start_soon(answer.wait)
            await eventually(lambda: store.statistics().cold.loads_in_flight == 1)
            closing = trio.current_time()
        assert trio.current_time() - closing < 5


async def test_opening_does_not_wait_for_long(tmp_path: Path, endpoint: Endpoint) -> None:
    endpoint.set_mode("silent")
    began = trio.current_time()
    async with tiered(tmp_path / "hot", endpoint.store(seconds=30), request_timeout=0.5) as store:
        assert trio.current_time() - began < 5
        assert store.statistics().archive.state == "failing"
        await record(store, 0, 5)
        await check(tiered_track(store), 0, 5)


async def test_the_disk_makes_room_when_it_must(
    tmp_path: Path, endpoint: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    """What goes without having been archived is counted, and said to be lost."""
    async with tiered(tmp_path / "hot", endpoint.store(), hot_bytes=1_000_000) as store:
        await record(store, 0, 20)
        await store.archive()
        endpoint.set_mode("refuse")
        await record(store, 20, 400)
        await store._hot.apply_retention()
        statistics = store.statistics()
        assert statistics.hot.file_bytes < 1_500_000
        assert statistics.archive.lost_slices > 0
        assert "had to go before it was archived" in caplog.text
        track = tiered_track(store)
        oldest = hot_track(store).bounds().oldest
        endpoint.set_mode("open")
        await store.archive()
        await drop_hot(store)
        assert await find_group(track, 20) == Missing(oldest)
        await check(track, 0, 20)
        await check(track, oldest, 400)


async def test_what_went_before_the_manifest_was_known(tmp_path: Path, endpoint: Endpoint) -> None:
    """Whether it was archived is found out later."""
    cold = endpoint.store()
    async with tiered(tmp_path / "hot", cold, slice_bytes=60_000) as store:
        await record(store, 0, 100)
        await store.archive()
    async with SqliteStore.open(tmp_path / "hot", slice_bytes=60_000) as hot:
        for sequence in range(100, 120):
            await hot.track(BROADCAST, TRACK).write([whole(sequence, 3, 2000)])
        alone = hot.statistics().slices
    endpoint.set_mode("refuse")
    async with tiered(tmp_path / "hot", cold, hot_bytes=200_000, slice_bytes=60_000) as store:
        await store._hot.apply_retention()
        assert store.statistics().hot.slices < alone - 5
        assert store.statistics().archive.lost_slices == 0, "it is not known"
        endpoint.set_mode("open")
        await store.archive()
        assert store.statistics().archive.lost_slices < 3
        await check(tiered_track(store), 0, 100)


@attrs.frozen
class Damage:
    """Something done to an object, and which groups of 0 to 59 must suffer."""

    do: Callable[[bytes], bytes | None]
    all_of_it: bool


def flip(at: Callable[[bytes], int]) -> Callable[[bytes], bytes]:
    """One bit is not what it was."""

    def do(data: bytes) -> bytes:
        index = at(data)
        return data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]

    return do


DAMAGES = {
    "flipped in the middle of a chunk": Damage(flip(lambda data: 30_000), False),
    "flipped in the index": Damage(
        flip(lambda data: int.from_bytes(data[-TRAILER_BYTES:][:8], "little") - 8), True
    ),
    "flipped in the directory": Damage(flip(lambda data: len(data) - TRAILER_BYTES - 40), True),
    "flipped in the trailer": Damage(flip(lambda data: len(data) - 3), True),
    "cut short": Damage(lambda data: data[: len(data) // 2], True),
    "empty": Damage(lambda data: b"", True),
    "gone": Damage(lambda data: None, True),
    "another object": Damage(lambda data: b"x" * len(data), True),
}


@pytest.mark.parametrize("name", DAMAGES)
async def test_damage_is_said_and_ends_nothing_else(tmp_path: Path, name: str) -> None:
    """Each group is what was published, or fails for good with a code; never absent."""
    cold = MemoryStore()
    damage = DAMAGES[name]
    async with tiered(tmp_path / "hot", cold, slice_bytes=60_000) as store:
        await record(store, 0, 100)
        await store.archive()
        contents = {
            each.name: next(iter(each.contents.values())).content
            for each in store._collection.manifest.slices.values()
        }
    hurt = sorted(contents)[1]
    changed = damage.do(objects_of(cold)[hurt])
    if changed is None:
        obstore.delete(cold, hurt)
    else:
        obstore.put(cold, hurt, changed)
    lost: list[int] = []
    errors: list[ReplayError] = []
    async with ObjectStore.open(cold) as objects:
        track = objects.track(BROADCAST, TRACK)
        for sequence in range(100):
            try:
                await check(track, sequence, sequence + 1)
            except ReplayError as error:
                errors.append(error)
                lost.append(sequence)
            except AssertionError:
                found = await read_group(track, sequence)
                assert not isinstance(found, Missing)
                assert found[0] == frames_of(sequence, 3, 2000)[: len(found[0])]
                assert found[1] != FINISHED
                lost.append(sequence)
    first, last = contents[hurt].first, contents[hurt].last
    assert first is not None
    assert last is not None
    assert lost
    for error in errors:
        assert not error.retryable
        assert error.code == StreamCode.EVICTED
        assert hurt in str(error)
    assert set(lost) <= set(range(first, last + 1))
    if damage.all_of_it:
        assert lost == list(range(first, last + 1))


@pytest.mark.parametrize("name", ["flipped in the middle of a chunk", "gone"])
async def test_damage_to_a_long_group(tmp_path: Path, name: str) -> None:
    """What comes before it is delivered, and then the group fails."""
    cold = MemoryStore()
    frames = frames_of(7, 100, 5000)
    async with tiered(tmp_path / "hot", cold, slice_bytes=200_000) as store:
        for first in range(0, 100, 10):
            end = FINISHED if first == 90 else None
            await hot_track(store).write([GroupWrite(7, first, frames[first : first + 10], end)])
        await store.archive()
        names = sorted(each.name for each in store._collection.manifest.slices.values())
    assert len(names) > 2
    changed = DAMAGES[name].do(objects_of(cold)[names[1]])
    if changed is None:
        obstore.delete(cold, names[1])
    else:
        obstore.put(cold, names[1], changed)
    async with ObjectStore.open(cold) as objects:
        reader = await find_group(objects.track(BROADCAST, TRACK), 7)
        assert not isinstance(reader, Missing)
        found: list[Any] = []
        with pytest.raises(ReplayError) as raised:  # noqa: PT012  # it is the last that fails
            while some := await read_some(reader):
                found += some
        assert not raised.value.retryable
        assert raised.value.code
        assert found == frames[: len(found)]
        assert len(found) >= 40
        reader.close()


async def test_a_damaged_file_on_the_disk_has_an_object(tmp_path: Path) -> None:
    """What one tier cannot read the other may."""
    async with tiered(tmp_path / "hot", MemoryStore(), cache_bytes=0) as store:
        await record(store, 0, 60)
        await store.archive()
        (first, *_) = sorted((tmp_path / "hot").glob("slice-*.db"))
        data = first.read_bytes()
        for sequence in range(5, 20):
            data = data.replace(f"{sequence}/1|".encode(), f"{sequence}/x|".encode())
        first.write_bytes(data)
        await check(tiered_track(store), 0, 60)
        assert store.statistics().cold.loads > 0


async def test_a_slice_that_cannot_be_read_does_not_hold_up_the_others(tmp_path: Path) -> None:
    directory = tmp_path / "hot"
    cold = MemoryStore()
    async with SqliteStore.open(directory, slice_bytes=60_000) as hot:
        for sequence in range(60):
            await hot.track(BROADCAST, TRACK).write([whole(sequence, 3, 2000)])
    paths = sorted(directory.glob("slice-*.db"))
    paths[2].write_bytes(b"x" * paths[2].stat().st_size)
    async with tiered(directory, cold) as store:
        await store.archive()
        statistics = store.statistics().archive
        assert statistics.lost_slices == 1
        assert statistics.pending_slices == 0
        assert statistics.archived_slices == len(paths) - 1


async def test_a_slice_in_which_groups_are_hidden_is_not_archived_as_if_they_had_never_been(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "hot"
    async with SqliteStore.open(directory, slice_bytes=60_000) as hot:
        for sequence in range(60):
            await hot.track(BROADCAST, TRACK).write([whole(sequence, 3, 2000)])
    paths = sorted(directory.glob("slice-*.db"))
    with closing(sqlite3.connect(paths[2])) as connection:
        # As a flipped byte in a page's header does.
        assert connection.execute("DELETE FROM pack WHERE first_sequence % 3 = 0").rowcount
        connection.commit()
    async with tiered(directory, MemoryStore()) as store:
        await store.archive()
        statistics = store.statistics().archive
        assert (statistics.lost_slices, statistics.archived_slices) == (1, len(paths) - 1)
