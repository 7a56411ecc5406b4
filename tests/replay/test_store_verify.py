"""What checking a store finds, and that it says nothing of a store that is in order."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from pathlib import Path

import attrs
import pytest
import trio
from store_tools import files, frames_of, start_python, whole

from moqtrio.errors import ReplayError
from moqtrio.model.frame import Frame
from moqtrio.model.group import FINISHED, Aborted
from moqtrio.replay.sqlite import SqliteStore, VerifyProgress, VerifyReport, verify_store
from moqtrio.replay.sqlite.looking import look
from moqtrio.replay.target import GroupWrite

SIZE = 9000


async def record(directory: Path) -> list[Path]:
    """Three slices: packs, a group over all of them, long groups, aborted ones, two tracks."""
    async with SqliteStore.open(directory, slice_bytes=1) as store:
        track, other = store.track("a", "b"), store.track("a", "other")
        for part in range(3):
            start = 100 * part
            end = FINISHED if part == 2 else None
            await track.write(
                [
                    GroupWrite(7, 5 * part, frames_of(7, 5, SIZE, first=5 * part), end),
                    *(whole(each, 3) for each in range(start + 10, start + 20)),
                    whole(start + 50, 40, SIZE),
                    whole(start + 60, 2, 100, Aborted(70)),
                ]
            )
        await other.write([whole(3)])
    return files(directory, "slice-*.db")


def contents(directory: Path) -> dict[Path, bytes]:
    return {each: each.read_bytes() for each in directory.iterdir()}


def details(report: VerifyReport) -> list[str]:
    return [str(problem) for problem in report.problems]


def flip(path: Path, needle: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(needle)] ^= 1
    path.write_bytes(data)


def change(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(statement)
    connection.close()


async def test_a_store_in_order(tmp_path: Path) -> None:
    await record(tmp_path)
    before = contents(tmp_path)
    calls: list[VerifyProgress] = []
    report = verify_store(tmp_path, progress=calls.append)
    assert report.clean
    assert report.problems == ()
    frames = 15 + 3 * (10 * 3 + 40 + 2) + 1
    assert attrs.astuple(report)[1:] == (4, 1 + 3 * 12 + 1, frames, report.bytes, 0, 0, 0, ())
    assert report.bytes == SIZE * (15 + 120) + 100 * (90 + 6 + 1)
    assert contents(tmp_path) == before, "looking leaves nothing behind"
    assert calls[-1].bytes <= calls[-1].total_bytes
    assert calls[-1].bytes >= report.bytes
    assert [each.bytes for each in calls] == sorted(each.bytes for each in calls)


async def test_an_empty_store_is_in_order(tmp_path: Path) -> None:
    async with SqliteStore.open(tmp_path):
        pass
    assert verify_store(tmp_path).clean


@pytest.mark.parametrize(
    ("needle", "expected"),
    [
        (b"115/1|", "slice-00000002.db, track a/b, groups 110 to 160: damaged, its checksum is"),
        (
            b"150/9|",
            "slice-00000002.db, track a/b, group 150, frames 7 to 13: damaged, its checksum is",
        ),
        (b"7/6|", "slice-00000002.db, track a/b, group 7, frames 5 to 9: damaged, its checksum is"),
    ],
    ids=["in a pack", "in a chunk", "in a group over several slices"],
)
async def test_a_flipped_bit_in_a_payload(tmp_path: Path, needle: bytes, expected: str) -> None:
    slices = await record(tmp_path)
    flip(slices[1], needle)
    (found,) = details(verify_store(tmp_path))
    assert found.startswith(expected)
    assert verify_store(tmp_path, track="other").clean


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("UPDATE part SET frames=39 WHERE sequence=150", "group 150: its entry fails its checks"),
        ("UPDATE part SET ending=0 WHERE sequence=7", "group 7: its entry fails its checksum"),
        ("UPDATE part SET last_us=1 WHERE sequence=150", "group 150: the entry's own counts are"),
        ("UPDATE part SET checksum=NULL WHERE sequence=7", "group 7: its entry fails its checks"),
        ("UPDATE part SET frames='?' WHERE sequence=7", "a row holds no numbers"),
        ("UPDATE pack SET last_sequence=115", "groups 110 to 115: the row's own counts are not"),
        ("UPDATE pack SET first_sequence=109", "groups 109 to 160: damaged, its checksum is"),
        ("UPDATE chunk SET sequence=151 WHERE sequence=150", "group 150, frames 0 to 39: they"),
        ("DELETE FROM chunk WHERE sequence=150 AND first_frame=14", "group 150, frames 14 to 20"),
        ("DELETE FROM chunk WHERE sequence=150 AND first_frame=35", "group 150, frames 35 to 39"),
        ("INSERT INTO chunk VALUES(1, 999, 0, x'00')", "8 rows of frames where its groups have"),
        ("DELETE FROM part WHERE sequence=7", "rows of frames where its groups have"),
        ("DELETE FROM pack", "the catalog says it has 12 groups from 110 to 160"),
        ("UPDATE pack SET track=9", "track number 9, which the catalog does not have"),
        ("DROP TABLE pack", "no such table: pack"),
        ("ALTER TABLE part RENAME COLUMN bytes TO size", "no such column: bytes"),
    ],
)
async def test_a_changed_row(tmp_path: Path, statement: str, expected: str) -> None:
    slices = await record(tmp_path)
    change(slices[1], statement)
    found = details(verify_store(tmp_path))
    assert all("slice-00000002.db" in each or "goes on with" in each for each in found)
    assert any(expected in each for each in found), found


async def test_parts_that_do_not_join(tmp_path: Path) -> None:
    slices = await record(tmp_path)
    change(slices[1], "DELETE FROM part WHERE sequence=7")
    change(slices[1], "DELETE FROM chunk WHERE sequence=7")
    found = details(verify_store(tmp_path))
    assert any(
        "slice-00000003.db, track a/b, group 7: goes on with frame 10, and earlier files end "
        "before 5" in each
        for each in found
    )


async def test_a_group_without_its_beginning(tmp_path: Path) -> None:
    slices = await record(tmp_path)
    change(slices[0], "DELETE FROM part WHERE sequence=7")
    change(slices[0], "DELETE FROM chunk WHERE sequence=7")
    change(slices[0], "PRAGMA user_version=0")  # as an earlier version sealed it
    catalog = "UPDATE content SET first=10, groups=12, frames=72, bytes=bytes-45000, first_us=10000"
    change(tmp_path / "catalog.db", f"{catalog} WHERE slice=1")
    (found,) = details(verify_store(tmp_path))
    assert "group 7: goes on with frame 5, and no earlier file has its beginning" in found


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("UPDATE content SET first=11 WHERE slice=2 AND track=1", "12 groups from 11 to 160"),
        ("DELETE FROM content WHERE slice=2", "the catalog says it has no groups"),
        ("UPDATE content SET frames=frames+1 WHERE slice=2", "(78 frames of"),
        ("DELETE FROM continuation WHERE slice=2", "wrong about which groups go on"),
        ("DELETE FROM slice WHERE number=2", "slice-00000002.db: the catalog does not have this"),
        ("UPDATE track SET next_sequence=200 WHERE id=1", "would go on with group 200, and has"),
        ("UPDATE track SET reserved_end=1 WHERE id=1", "and has groups up to 260"),
        ("DELETE FROM track WHERE id=2", "track number 2, which the catalog does not have"),
    ],
)
async def test_a_catalog_that_disagrees(tmp_path: Path, statement: str, expected: str) -> None:
    await record(tmp_path)
    change(tmp_path / "catalog.db", statement)
    found = details(verify_store(tmp_path))
    assert any(expected in each for each in found), found


async def test_slices_that_are_gone_or_are_something_else(tmp_path: Path) -> None:
    first, second, third, _ = await record(tmp_path)
    second.unlink()
    os.truncate(third, third.stat().st_size // 2)
    first.write_bytes(b"This is not a database. " * 1000)
    (tmp_path / "slice-00000077.db").write_bytes(b"")
    report = verify_store(tmp_path)
    stray, *found = details(report)
    assert stray == "slice-00000077.db: the catalog does not have this file"
    assert found[0].startswith("slice-00000001.db, track a/b, groups 7 to 60: file is not a data")
    assert found[1].startswith("slice-00000002.db, track a/b, groups 110 to 160: the file is gone")
    assert all("slice-00000003.db" in each for each in found[2:])
    assert any("track a/b, groups" in each for each in found[2:]), "which groups are lost"
    assert report.slices >= 1, "the others are read all the same"


async def test_a_damaged_catalog(tmp_path: Path) -> None:
    await record(tmp_path)
    catalog = tmp_path / "catalog.db"
    os.truncate(catalog, 8192)
    (found,) = details(verify_store(tmp_path))
    assert found.startswith("catalog.db: database disk image is malformed")


async def test_groups_without_end_are_no_damage(tmp_path: Path) -> None:
    async with SqliteStore.open(tmp_path) as store:
        await store.track("a", "b").write([GroupWrite(4, 0, frames_of(4, 3, 10), None)])
        report = await trio.to_thread.run_sync(verify_store, tmp_path)
        assert (report.clean, report.groups, report.unfinished) == (True, 1, 1)


async def test_retention_and_continuations(tmp_path: Path) -> None:
    """What is left of a group whose beginning was removed is no damage."""
    await record(tmp_path)
    async with SqliteStore.open(tmp_path, retention_bytes=800_000) as store:
        await store.apply_retention()
        assert store.statistics().slices < 4
    assert details(verify_store(tmp_path)) == []


@pytest.mark.parametrize(
    ("prepare", "expected"),
    [
        (lambda path: None, "is not a store: there is no such directory"),
        (lambda path: path.write_bytes(b""), "is not a store: it is a file"),
        (lambda path: path.mkdir(), "is not a store: it has no catalog.db"),
    ],
)
def test_what_is_no_store(tmp_path: Path, prepare: object, expected: str) -> None:
    path = tmp_path / "store"
    assert callable(prepare)
    prepare(path)
    with pytest.raises(ReplayError, match=expected):
        verify_store(path)


async def test_a_catalog_that_is_missing(tmp_path: Path) -> None:
    await record(tmp_path)
    (tmp_path / "catalog.db").unlink()
    with pytest.raises(ReplayError, match=r"its catalog.db is missing"):
        verify_store(tmp_path)


async def test_a_track_that_is_not_there(tmp_path: Path) -> None:
    await record(tmp_path)
    with pytest.raises(ReplayError, match="no track 'x': it has 'a' 'b', 'a' 'other'"):
        verify_store(tmp_path, track="x")


async def test_what_progress_raises_ends_it(tmp_path: Path) -> None:
    await record(tmp_path)

    def stop(progress: VerifyProgress) -> None:
        raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        verify_store(tmp_path, progress=stop)


BUSY = """
import sys
from pathlib import Path
import trio
from store_tools import frames_of
from moqtrio.model.group import FINISHED
from moqtrio.replay.sqlite import SqliteStore
from moqtrio.replay.sqlite.looking import look
from moqtrio.replay.target import GroupWrite

async def main():
    async with SqliteStore.open(sys.argv[1], slice_bytes=20_000, retention_bytes=600_000) as store:
        track = store.track("a", "b")
        sequence = 0
        while True:
            middle = [GroupWrite(sequence, 0, frames_of(sequence, 2, 3000), None)]
            await track.write(middle)
            rest = frames_of(sequence, 2, 3000, first=2)
            await track.write([GroupWrite(sequence, 2, rest, FINISHED)])
            sequence += 1
            await store.apply_retention()
            if sequence == 60:
                print("busy", flush=True)

trio.run(main)
"""


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


async def test_a_store_in_use_is_in_order_all_the_time_and_after_a_kill(tmp_path: Path) -> None:
    """Slices are made, sealed and removed by the dozen meanwhile."""
    process = start_python(BUSY, [tmp_path])
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "busy\n"
        numbers = set()
        deadline = trio.current_time() + 4
        while trio.current_time() < deadline:
            report = await trio.to_thread.run_sync(verify_store, tmp_path)
            assert details(report) == []
            assert report.slices
            numbers.add(files(tmp_path, "slice-*.db")[0].name)
        assert process.poll() is None, "it went on recording"
        assert len(numbers) > 10, "retention went on meanwhile"
    finally:
        end(process)
    report = verify_store(tmp_path)
    assert details(report) == []
    assert report.groups > 5
    async with SqliteStore.open(tmp_path):
        pass
    after = verify_store(tmp_path)
    assert details(after) == []
    assert after.groups == report.groups


async def test_reading_needs_no_memory_to_speak_of(tmp_path: Path) -> None:
    """A group of 60 MB, in one slice."""
    script = """
import sys, resource
from moqtrio.replay.sqlite import verify_store
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
report = verify_store(sys.argv[1])
assert report.clean and report.frames == 6000
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    payload = bytes(10_000)
    async with SqliteStore.open(tmp_path) as store:
        track = store.track("a", "b")
        for start in range(0, 6000, 1000):
            frames = [Frame(payload, index) for index in range(start, start + 1000)]
            end = FINISHED if start == 5000 else None
            await track.write([GroupWrite(0, start, frames, end)])
    out, errors = start_python(script, [tmp_path]).communicate(timeout=60)
    assert errors == ""
    assert int(out) < 16 * 1024, "KiB"


async def test_what_only_sqlite_itself_can_tell(tmp_path: Path) -> None:
    """The file says that it has pages to spare, and has none."""
    slices = await record(tmp_path)
    data = bytearray(slices[1].read_bytes())
    data[39] = 5
    slices[1].write_bytes(data)
    (found,) = details(verify_store(tmp_path))
    assert found.startswith("slice-00000002.db: SQLite finds")


def test_what_changes_while_it_is_looked_at_is_looked_at_again(tmp_path: Path) -> None:
    path = tmp_path / "database"
    writer = sqlite3.connect(path)
    writer.executescript("PRAGMA journal_mode=WAL; CREATE TABLE t(x);")
    writer.close()
    read: list[list[tuple[int]]] = []

    def look_slowly(connection: sqlite3.Connection) -> list[tuple[int]]:
        read.append(connection.execute("SELECT x FROM t").fetchall())
        if len(read) == 1:
            change(path, "INSERT INTO t VALUES(7)")
        return read[-1]

    assert look(path, look_slowly) == [(7,)]
    assert read == [[], [(7,)]]
    assert files(tmp_path, "*") == [path]
