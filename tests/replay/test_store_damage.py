"""Files that were damaged, cut short, deleted or written by something else."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest
from store_tools import files, find_group, frames_of, read_group, read_some, whole

from moqtrio.errors import ReplayError
from moqtrio.model.frame import Frame
from moqtrio.model.group import FINISHED, Aborted
from moqtrio.model.source import Missing
from moqtrio.replay.sqlite import SqliteStore, SqliteTrack, inspect_store
from moqtrio.replay.target import GroupWrite

NEEDLE = b"needle in a haystack"


async def record_three_slices(directory: Path) -> list[Path]:
    """Slices with groups 0 to 9, 10 to 19 and 20 to 29."""
    async with SqliteStore.open(directory, slice_bytes=1) as store:
        track = store.track("a", "b")
        for start in (0, 10, 20):
            await track.write(
                [whole(each, count=3, size=9000) for each in range(start, start + 10)]
            )
    return files(directory, "slice-*.db")


async def read_into(frames: list[Frame], track: SqliteTrack, sequence: int) -> None:
    reader = await find_group(track, sequence)
    assert not isinstance(reader, Missing)
    while some := await read_some(reader):
        frames += some


async def check_only_the_second_is_lost(directory: Path, pattern: str) -> None:
    async with SqliteStore.open(directory) as store:
        track = store.track("a", "b")
        for sequence in range(30):
            if 10 <= sequence < 20:
                for _ in range(2):
                    with pytest.raises(ReplayError, match=pattern) as raised:
                        await read_group(track, sequence)
                    assert not raised.value.retryable
                    assert raised.value.code != 0, "a loss must not look like an absence"
            else:
                assert await read_group(track, sequence) == (frames_of(sequence, 3, 9000), FINISHED)
        assert await find_group(track, 30) == Missing(None)
        await track.write([whole(30)])
        assert await read_group(track, 30) == (frames_of(30, 1, 100), FINISHED)


async def test_a_schema_that_is_not_even_text(tmp_path: Path) -> None:
    """SQLite's message about it quotes what it found there."""
    slices = await record_three_slices(tmp_path)
    data = slices[1].read_bytes()
    assert data.count(b"CREATE TABLE pack") == 1
    slices[1].write_bytes(data.replace(b"CREATE TABLE pack", b"CREATE \xe3\xe3\xe3\xe3\xe3 pack"))
    await check_only_the_second_is_lost(tmp_path, "slice-00000002.db")


async def test_a_deleted_slice_is_a_loss_and_not_an_absence(tmp_path: Path) -> None:
    slices = await record_three_slices(tmp_path)
    slices[1].unlink()
    await check_only_the_second_is_lost(tmp_path, "the file is gone")
    info = inspect_store(tmp_path)
    assert [each.problem is None for each in info.slices] == [True, False, True, True]


async def test_a_slice_cut_short_is_a_loss(tmp_path: Path) -> None:
    slices = await record_three_slices(tmp_path)
    os.truncate(slices[1], slices[1].stat().st_size // 2)
    await check_only_the_second_is_lost(tmp_path, "slice-00000002.db: .*malformed")


async def test_a_slice_that_is_no_database_is_a_loss(tmp_path: Path) -> None:
    slices = await record_three_slices(tmp_path)
    slices[1].write_bytes(b"This is not a database. " * 10_000)
    await check_only_the_second_is_lost(tmp_path, "not a database")


async def test_a_slice_of_another_kind_is_a_loss(tmp_path: Path) -> None:
    slices = await record_three_slices(tmp_path)
    slices[1].unlink()
    sqlite3.connect(slices[1]).execute("CREATE TABLE pack(anything)").connection.close()
    await check_only_the_second_is_lost(tmp_path, "no such column")


@pytest.mark.parametrize("size", [3, 200_000], ids=["in a pack", "in a group of its own"])
async def test_a_flipped_bit_costs_its_chunk(tmp_path: Path, size: int) -> None:
    before, after = Frame(bytes(100_000), 1), Frame(bytes(100_000), 3)
    frames = [Frame(NEEDLE.ljust(size, b"."), 2)]
    if size > 1000:
        frames = [before, *frames, after]
    async with SqliteStore.open(tmp_path) as store:
        track = store.track("live/a", "all")
        await track.write([whole(0)])
        await track.write([GroupWrite(1, 0, frames, FINISHED)])
        await track.write([whole(2)])
    (path,) = files(tmp_path, "slice-*.db")
    data = bytearray(path.read_bytes())
    position = data.index(NEEDLE)
    data[position] ^= 1
    path.write_bytes(data)
    async with SqliteStore.open(tmp_path) as store:
        track = store.track("live/a", "all")
        pattern = "track live/a/all, group.? 1.*, chunk .*checksum"
        frames: list[Frame] = []
        with pytest.raises(ReplayError, match=pattern) as raised:
            await read_into(frames, track, 1)
        assert not raised.value.retryable
        assert frames == ([before] if size > 1000 else [])
        assert await read_group(track, 0) == (frames_of(0, 1, 100), FINISHED)
        assert await read_group(track, 2) == (frames_of(2, 1, 100), FINISHED)


@pytest.mark.parametrize("change", ["frames=frames-1", "ending=0", "sequence=8"])
async def test_a_changed_entry_is_noticed(tmp_path: Path, change: str) -> None:
    async with SqliteStore.open(tmp_path) as store:
        await store.track("a", "b").write([GroupWrite(5, 0, frames_of(5, 3, 10), Aborted(7))])
        await store.track("a", "b").write([whole(9, 300, 1000, end=Aborted(7))])
    (path,) = files(tmp_path, "slice-*.db")
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(f"UPDATE part SET {change}")
    connection.close()
    async with SqliteStore.open(tmp_path) as store:
        track = store.track("a", "b")
        assert await read_group(track, 5) == (frames_of(5, 3, 10), Aborted(7))
        changed = 8 if change.startswith("sequence") else 9
        with pytest.raises(ReplayError, match=f"group {changed}, .* fails its checksum"):
            await find_group(track, changed)


async def test_every_byte_of_a_slice_is_either_right_or_noticed(tmp_path: Path) -> None:
    """Flip bytes all over a file: a reader gets what was written, or an error."""
    wanted = {each: (frames_of(each, 2, 300), FINISHED) for each in range(20)}
    wanted[20] = (frames_of(20, 40, 3000), FINISHED)
    async with SqliteStore.open(tmp_path) as store:
        track = store.track("a", "b")
        await track.write([whole(each, 2, 300) for each in range(20)])
        await track.write([whole(20, 40, 3000)])
    (path,) = files(tmp_path, "slice-*.db")
    original = path.read_bytes()
    noticed = 0
    used = [index for index in range(100, len(original)) if original[index]]
    for position in used[:: len(used) // 60]:
        data = bytearray(original)
        data[position] ^= 0x10
        path.write_bytes(data)
        async with SqliteStore.open(tmp_path) as store:
            track = store.track("a", "b")
            for sequence, expected in wanted.items():
                try:
                    got = await read_group(track, sequence)
                except ReplayError:
                    noticed += 1
                    continue
                if isinstance(got, Missing) or got != expected:
                    # Frames before a damaged chunk are served; then comes the error.
                    assert not isinstance(got, Missing), (position, sequence)
                    assert got[1] != FINISHED
                    assert got[0] == expected[0][: len(got[0])]
                    noticed += 1
    assert noticed


@pytest.mark.parametrize("cut", ["deleted", "destroyed"])
async def test_losing_the_slice_being_written_is_not_an_absence(tmp_path: Path, cut: str) -> None:
    async with SqliteStore.open(tmp_path, slice_bytes=1) as store:
        track = store.track("a", "b")
        await track.write([whole(0)])
        await track.write([whole(1)])
    last = files(tmp_path, "slice-*.db")[-1]
    if cut == "deleted":
        last.unlink()
    else:
        last.write_bytes(bytes(1000))
    catalog = sqlite3.connect(tmp_path / "catalog.db")
    with catalog:  # As a kill would have left it.
        catalog.execute("UPDATE slice SET state='active' WHERE number=2")
        catalog.execute("DELETE FROM content WHERE slice=2")
        catalog.execute("UPDATE track SET next_sequence=NULL, reserved_end=10")
    catalog.close()
    async with SqliteStore.open(tmp_path) as store:
        track = store.track("a", "b")
        assert track.next_sequence == 10
        assert await read_group(track, 0) == (frames_of(0, 1, 100), FINISHED)
        for sequence in (1, 9):
            with pytest.raises(ReplayError):
                await read_group(track, sequence)
        await track.write([whole(10)])
        assert await read_group(track, 10) == (frames_of(10, 1, 100), FINISHED)


async def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    async with SqliteStore.open(tmp_path):
        pass
    catalog = sqlite3.connect(tmp_path / "catalog.db")
    catalog.execute("PRAGMA user_version=99")
    catalog.close()
    with pytest.raises(ReplayError, match="format version 99"):
        async with SqliteStore.open(tmp_path):
            pass
    with pytest.raises(ReplayError, match="format version 99"):
        inspect_store(tmp_path)


async def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "catalog.db")
    other.execute("CREATE TABLE bookmarks(url)")
    other.close()
    with pytest.raises(ReplayError, match="is not the catalog of a moqtrio store"):
        async with SqliteStore.open(tmp_path):
            pass


async def test_a_place_where_no_store_can_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ReplayError, match="file/store"):
        async with SqliteStore.open(tmp_path / "file" / "store"):
            pass
    with pytest.raises(ReplayError, match="is not a store"):
        inspect_store(tmp_path)
