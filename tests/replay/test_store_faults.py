"""Faults of the disk under a store, at rest and in use: what can be read is right, what
cannot is an error with a code, the rest is not affected, and recording goes on."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

import pytest
import trio
from store_tools import files, frames_of, read_group, whole

from moqtrio.errors import ReplayError
from moqtrio.model.frame import Frame
from moqtrio.model.group import FINISHED
from moqtrio.model.source import Missing
from moqtrio.replay.sqlite import SqliteStore, SqliteTrack, inspect_store

SMALL, LONG, END = range(10), 10, 11
LONG_FRAMES, LONG_SIZE = 30, 9000


async def record(track: SqliteTrack, first: int) -> None:
    """Ten groups in a pack, and one with rows of its own."""
    await track.write([whole(first + each, count=3, size=900) for each in SMALL])
    await track.write([whole(first + LONG, LONG_FRAMES, LONG_SIZE)])


def expected(sequence: int) -> list[Frame]:
    if sequence % END == LONG:
        return frames_of(sequence, LONG_FRAMES, LONG_SIZE)
    return frames_of(sequence, 3, 900)


async def record_slices(directory: Path, count: int = 3) -> list[Path]:
    """Slices of eleven groups each."""
    async with SqliteStore.open(directory, slice_bytes=1) as store:
        track = store.track("a", "b")
        for number in range(count):
            await track.write(
                [
                    *(whole(END * number + each, count=3, size=900) for each in SMALL),
                    whole(END * number + LONG, LONG_FRAMES, LONG_SIZE),
                ]
            )
    paths = files(directory, "slice-*.db")
    assert len(paths) == count
    return paths


async def readable(track: SqliteTrack, sequence: int) -> bool:
    """Whether a group can be read whole. If not, it must fail, and not look absent."""
    try:
        got = await read_group(track, sequence)
    except ReplayError:
        return False
    assert not isinstance(got, Missing), f"group {sequence} looks as if it had never been there"
    frames, end = got
    assert frames == expected(sequence)[: len(frames)], "bytes that were never recorded"
    if end != FINISHED:
        assert end is not None
        assert end.code != 0
        return False
    assert frames == expected(sequence), "a group cut short looks finished"
    return True


async def check_others(track: SqliteTrack, lost: range, end: int) -> int:
    """Everything but ``lost`` is there; returns how much of that is, too."""
    found = {sequence for sequence in range(end) if await readable(track, sequence)}
    assert found >= set(range(end)) - set(lost)
    return len(found & set(lost))


def lengths(size: int) -> list[int]:
    """Where to cut a file: at the ends of headers and pages, and within them."""
    inside = [size * part // 8 for part in range(1, 8)]
    return sorted({0, 1, 16, 99, 100, 512, 4096, 8191, 8192, 8193, *inside, size - 1})


async def test_a_slice_cut_short_at_any_length(tmp_path: Path) -> None:
    original = await record_slices(tmp_path / "original")
    size = original[1].stat().st_size
    readable_groups = []
    for length in lengths(size):
        directory = tmp_path / str(length)
        shutil.copytree(tmp_path / "original", directory)
        os.truncate(directory / original[1].name, length)
        async with SqliteStore.open(directory) as store:
            track = store.track("a", "b")
            readable_groups.append(await check_others(track, range(END, 2 * END), 3 * END))
            await track.write([whole(3 * END, count=3, size=900)])
            assert await readable(track, 3 * END)
        shutil.rmtree(directory)
    assert min(readable_groups) == 0


@pytest.mark.parametrize("cached", [False, True], ids=["unread", "being read"])
async def test_a_slice_cut_short_at_any_length_while_in_use(tmp_path: Path, cached: bool) -> None:
    original = await record_slices(tmp_path / "original")
    size = original[1].stat().st_size
    for length in lengths(size):
        directory = tmp_path / str(length)
        shutil.copytree(tmp_path / "original", directory)
        async with SqliteStore.open(directory, cache_bytes=1) as store:
            track = store.track("a", "b")
            if cached:
                assert await readable(track, END)
            os.truncate(directory / original[1].name, length)
            await check_others(track, range(END, 2 * END), 3 * END)
            await record(track, 3 * END)
            assert await check_others(track, range(END, 2 * END), 4 * END) < END
        shutil.rmtree(directory)


@pytest.mark.parametrize("length", [0, 32, 8192, 200_000])
async def test_the_log_of_the_slice_being_written_is_cut_short(tmp_path: Path, length: int) -> None:
    """While it is written to. What was in it fails; what goes into other slices does not."""
    async with SqliteStore.open(tmp_path, slice_bytes=600_000, cache_bytes=1) as store:
        track = store.track("a", "b")
        await record(track, 0)
        os.truncate(tmp_path / "slice-00000001.db-wal", length)
        assert not await readable(track, LONG)
        for number in range(1, 5):
            await record(track, END * number)
        assert len(files(tmp_path, "slice-*.db")) == 2
        await check_others(track, range(3 * END), 5 * END)
    async with SqliteStore.open(tmp_path) as store:
        track = store.track("a", "b")
        assert track.next_sequence == 5 * END
        await check_others(track, range(3 * END), 5 * END)


async def killed(directory: Path) -> Path:
    """What a process that records leaves when it is killed, one slice sealed, one not."""
    image = directory / "killed"
    async with SqliteStore.open(directory / "recorded", slice_bytes=200_000) as store:
        track = store.track("a", "b")
        await track.reserve(1000)
        for number in range(2):
            await record(track, END * number)
        shutil.copytree(directory / "recorded", image)
    assert len(files(image, "slice-*.db-wal")) == 1
    return image


@pytest.mark.parametrize("length", [None, 0, 31, 32, 100, 8192])
async def test_the_log_of_a_slice_is_lost_after_a_kill(tmp_path: Path, length: int | None) -> None:
    """Every table is in there: it cannot be told what was, so none of it looks absent."""
    directory = await killed(tmp_path)
    (log,) = files(directory, "slice-*.db-wal")
    if length is None:
        log.unlink()
    else:
        os.truncate(log, length)
    async with SqliteStore.open(directory) as store:
        track = store.track("a", "b")
        assert track.next_sequence == 1000
        assert await check_others(track, range(END, 1000), 1000) == 0
        await track.write([whole(1000)])
        assert await read_group(track, 1000) == (frames_of(1000, 1, 100), FINISHED)


@pytest.mark.parametrize("length", [None, 0, 1])
async def test_a_store_whose_catalog_is_lost_is_not_taken_for_a_new_one(
    tmp_path: Path, length: int | None
) -> None:
    """Else all of history would look as if it had never been, and the sequences begin anew."""
    slices = await record_slices(tmp_path)
    catalog = tmp_path / "catalog.db"
    backup = catalog.read_bytes()
    if length is None:
        catalog.unlink()
    else:
        os.truncate(catalog, length)
    for _ in range(2):
        with pytest.raises(ReplayError) as raised:
            async with SqliteStore.open(tmp_path):
                pass
        assert not raised.value.retryable
        for hint in (str(catalog), slices[0].name, "restore it from a backup"):
            assert hint in str(raised.value), raised.value
    assert all(path.exists() for path in slices)
    catalog.write_bytes(backup)
    async with SqliteStore.open(tmp_path) as store:
        assert await check_others(store.track("a", "b"), range(0), 3 * END) == 0


async def test_a_store_whose_catalog_has_only_its_log_lost_is_not_taken_for_a_new_one(
    tmp_path: Path,
) -> None:
    directory = await killed(tmp_path)
    (directory / "catalog.db-wal").unlink()
    with pytest.raises(ReplayError, match="restore it from a backup"):
        async with SqliteStore.open(directory):
            pass


async def test_a_catalog_cut_short_is_refused(tmp_path: Path) -> None:
    await record_slices(tmp_path)
    catalog = tmp_path / "catalog.db"
    original = catalog.read_bytes()
    for length in (16, 99, 100, 4096, len(original) // 2, len(original) - 4096):
        catalog.write_bytes(original[:length])
        with pytest.raises(ReplayError, match=f"{catalog}: .*restore it from a backup") as raised:
            async with SqliteStore.open(tmp_path):
                pass
        assert not raised.value.retryable


async def test_a_catalog_that_lacks_a_value_is_refused(tmp_path: Path) -> None:
    """What SQLite itself can tell to be damaged is not read in part."""
    await record_slices(tmp_path)
    connection = sqlite3.connect(tmp_path / "catalog.db")
    with connection:
        connection.execute("PRAGMA writable_schema=1")
        connection.execute("UPDATE sqlite_schema SET sql=replace(sql, 'NOT NULL', '')")
    connection.close()
    connection = sqlite3.connect(tmp_path / "catalog.db")
    with connection:
        connection.execute("UPDATE slice SET recorded=NULL WHERE number=2")
        connection.execute("PRAGMA writable_schema=1")
        connection.execute(
            "UPDATE sqlite_schema SET sql=replace(sql, 'REAL', 'REAL NOT NULL') WHERE name='slice'"
        )
    connection.close()
    with pytest.raises(ReplayError, match=r"NULL value in slice\.recorded.*: restore it"):
        async with SqliteStore.open(tmp_path):
            pass


async def test_what_the_catalog_has_forgotten_is_not_used_again(tmp_path: Path) -> None:
    """A disk that lied about what is durable: the slices know better."""
    directory = tmp_path / "killed"
    async with SqliteStore.open(tmp_path / "recorded") as store:
        track = store.track("a", "b")
        await record(track, 0)
        shutil.copytree(tmp_path / "recorded", directory)
    log = directory / "catalog.db-wal"
    os.truncate(log, log.stat().st_size - 1)  # its last transaction, which reserved LONG
    async with SqliteStore.open(directory) as store:
        track = store.track("a", "b")
        assert track.next_sequence == END
        assert track.bounds().durable_end == END
        await track.write([whole(END)])
        assert await check_others(track, range(0), END) == 0


async def test_a_lock_taken_for_stale_and_removed_lets_nobody_in(tmp_path: Path) -> None:
    """Two that write would take each other's slices for their own leftovers."""
    async with SqliteStore.open(tmp_path) as store:
        await record(store.track("a", "b"), 0)
        (tmp_path / "lock").unlink()
        with pytest.raises(ReplayError, match=f"{tmp_path} is in use by process unknown"):
            async with SqliteStore.open(tmp_path):
                pass
    async with SqliteStore.open(tmp_path) as store:
        assert await check_others(store.track("a", "b"), range(0), END) == 0


async def test_a_directory_in_a_slices_place(tmp_path: Path) -> None:
    slices = await record_slices(tmp_path)
    slices[1].unlink()
    slices[1].mkdir()
    async with SqliteStore.open(tmp_path) as store:
        track = store.track("a", "b")
        with pytest.raises(ReplayError, match="it is not a file") as raised:
            await read_group(track, END)
        assert not raised.value.retryable, "asking again does not help"
        assert await check_others(track, range(END, 2 * END), 3 * END) == 0


async def test_a_directory_that_cannot_be_written(private_directory: Path) -> None:
    directory = private_directory / "store"
    await record_slices(directory)
    directory.chmod(0o500)
    for path in directory.iterdir():
        path.chmod(0o400)
    with pytest.raises(ReplayError, match=f"{directory}/.*check the directory's permissions"):
        async with SqliteStore.open(directory):
            pass
    assert len(inspect_store(directory).slices) == 3
    directory.chmod(0o700)
    for path in directory.iterdir():
        path.chmod(0o600)
    async with SqliteStore.open(directory) as store:
        await record(store.track("a", "b"), 3 * END)


async def test_a_directory_that_cannot_be_written_any_more(private_directory: Path) -> None:
    """No slice can be made in it: what there is stays readable, and it heals by itself."""
    directory = private_directory / "store"
    async with SqliteStore.open(directory, slice_bytes=1, cache_bytes=1) as store:
        track = store.track("a", "b")
        await record(track, 0)
        directory.chmod(0o500)
        for _ in range(2):
            with pytest.raises(ReplayError, match=str(directory)) as raised:
                await record(track, END)
            assert raised.value.retryable, "the groups are not at fault"
        assert store.statistics().failures == 2
        assert await check_others(track, range(0), END) == 0
        directory.chmod(0o700)
        await record(track, END)
        assert await check_others(track, range(0), 2 * END) == 0
    async with SqliteStore.open(directory) as store:
        assert await check_others(store.track("a", "b"), range(0), 2 * END) == 0


async def test_a_slice_that_may_not_be_read_for_a_while(private_directory: Path) -> None:
    directory = private_directory / "store"
    slices = await record_slices(directory)
    async with SqliteStore.open(directory, cache_bytes=1) as store:
        track = store.track("a", "b")
        slices[1].chmod(0o000)
        with pytest.raises(ReplayError, match=f"{slices[1]}.*permissions") as raised:
            await read_group(track, END)
        assert raised.value.retryable, "nothing is known to be lost"
        assert await check_others(track, range(END, 2 * END), 3 * END) == 0
        slices[1].chmod(0o600)
        await trio.sleep(0.05)  # as the resolver's shortest pause is
        assert await check_others(track, range(0), 3 * END) == 0
