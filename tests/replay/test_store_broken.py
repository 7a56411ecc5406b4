"""The slice that is being written breaks, or is taken away: recording goes on in another,
and what cannot be read any more of the old one fails, and does not look absent."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.lowlevel
from store_tools import eventually, files, frames_of, read_group, whole

from moqtrio.errors import ReplayError
from moqtrio.model.group import FINISHED
from moqtrio.model.log import TrackLog
from moqtrio.model.source import Missing
from moqtrio.replay.recorder import Recorder, RecorderSettings
from moqtrio.replay.sqlite import SqliteStore, SqliteTrack, inspect_store
from moqtrio.replay.sqlite.slices import SliceWriter
from moqtrio.replay.target import GroupWrite

OPEN, PACKED, LONG = 5, range(10, 15), 15
FRAMES = {OPEN: (12, 900), LONG: (30, 9000)}


WRITABLE = "PRAGMA writable_schema=1"
NEWER = "PRAGMA schema_version=1000"  # so that the writer notices


def expected(sequence: int) -> tuple[int, int]:
    return FRAMES.get(sequence, (1, 100))


async def record(track: SqliteTrack) -> None:
    """A group that goes on later, a pack, and a group with rows of its own."""
    await track.write([GroupWrite(OPEN, 0, frames_of(OPEN, 6, 900), None)])
    await track.write([whole(each) for each in PACKED])
    await track.write([whole(LONG, *FRAMES[LONG])])


def following() -> list[GroupWrite]:
    return [
        GroupWrite(OPEN, 6, frames_of(OPEN, 6, 900, first=6), FINISHED),
        *(whole(each) for each in range(20, 30)),
    ]


async def readable(track: SqliteTrack, sequence: int) -> bool:
    """Whether a group can be read whole; if not, it fails with a code."""
    try:
        got = await read_group(track, sequence)
    except ReplayError as error:
        codes = (error.code, error.retryable)
    else:
        assert not isinstance(got, Missing), f"group {sequence} looks absent"
        frames, end = got
        assert frames == frames_of(sequence, *expected(sequence))[: len(frames)]
        if end == FINISHED:
            return len(frames) == expected(sequence)[0]
        codes = (0 if end is None else end.code, False)
    assert codes[0], f"group {sequence} is reported with code 0"
    assert not codes[1]
    return False


async def check(track: SqliteTrack, *, readable_before: bool | None) -> None:
    """What came after is there; of what came before, what can be read is right."""
    for sequence in range(20, 30):
        assert await readable(track, sequence), sequence
    found = {await readable(track, each) for each in (OPEN, *PACKED, LONG)}
    if readable_before is not None:
        assert found == {readable_before}


def alter(path: Path, script: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA wal_autocheckpoint=0")
    connection.executescript(script)
    connection.close()


@pytest.mark.parametrize(
    ("script", "before"),
    [
        ("DROP TABLE pack", None),
        ("PRAGMA writable_schema=1; UPDATE sqlite_schema SET rootpage=9999;" + NEWER, False),
        (
            "PRAGMA writable_schema=1; UPDATE sqlite_schema SET sql='CREATE nonsense';" + NEWER,
            False,
        ),
        ("INSERT INTO pack(track, first_sequence, groups) VALUES(1, 20, 1)", True),
    ],
    ids=["another schema", "pages beyond the end", "malformed", "rows in the way"],
)
async def test_a_slice_that_takes_no_more(
    tmp_path: Path, script: str, before: bool | None, caplog: pytest.LogCaptureFixture
) -> None:
    async with SqliteStore.open(tmp_path, cache_bytes=1) as store:
        track = store.track("a", "b")
        await record(track)
        (path,) = files(tmp_path, "slice-*.db")
        alter(path, script)
        with pytest.raises(ReplayError, match=str(path)) as raised:
            await track.write(following())
        assert raised.value.retryable, "the groups are not at fault"
        await track.write(following())
        assert len(files(tmp_path, "slice-*.db")) == 2
        assert f"{path}: " in caplog.text
        await check(track, readable_before=before)
    async with SqliteStore.open(tmp_path, cache_bytes=1) as store:
        await check(store.track("a", "b"), readable_before=before)


def remove(path: Path) -> None:
    path.unlink()


def remove_everything(path: Path) -> None:
    for each in path.parent.glob(f"{path.name}*"):
        each.unlink()


def remove_log(path: Path) -> None:
    path.with_name(f"{path.name}-wal").unlink()


def replace_with_nothing(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"")
    os.replace(other, path)


def replace_with_copy(path: Path) -> None:
    other = path.with_name("other")
    shutil.copyfile(path, other)
    os.replace(other, path)


def replace_with_empty_slice(path: Path) -> None:
    other = path.with_name("other")
    connection = sqlite3.connect(path)
    schema = [sql for (sql,) in connection.execute("SELECT sql FROM sqlite_schema")]
    connection.close()
    connection = sqlite3.connect(other)
    connection.executescript(";".join(schema))
    connection.close()
    os.replace(other, path)


@pytest.mark.parametrize(
    ("lose", "before"),
    [
        (remove, False),
        (remove_everything, False),
        (remove_log, True),
        (replace_with_nothing, False),
        (replace_with_copy, False),
        (replace_with_empty_slice, False),
    ],
)
@pytest.mark.parametrize("read", [False, True], ids=["unread", "read meanwhile"])
async def test_a_slice_whose_file_is_taken_away(
    tmp_path: Path, lose: Callable[[Path], None], before: bool, read: bool
) -> None:
    async with SqliteStore.open(tmp_path, cache_bytes=1) as store:
        track = store.track("a", "b")
        await record(track)
        (path,) = files(tmp_path, "slice-*.db")
        lose(path)
        if read:
            for sequence in PACKED:
                await readable(track, sequence)
        with pytest.raises(ReplayError, match=f"{path}.* was removed or replaced") as raised:
            await track.write(following())
        assert raised.value.retryable
        await track.write(following())
        await check(track, readable_before=before)
    async with SqliteStore.open(tmp_path, cache_bytes=1) as store:
        # With the log of the old one, what has replaced it may well have everything again.
        replaced = lose.__name__.startswith("replace")
        await check(store.track("a", "b"), readable_before=None if replaced else before)
        await store.track("a", "b").write([whole(64)])


async def test_new_slices_that_are_removed_at_once_do_not_pile_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = SliceWriter.create

    def create_and_remove(path: Path, number: int) -> SliceWriter:
        writer = create(path, number)
        path.unlink()
        return writer

    async with SqliteStore.open(tmp_path) as store:
        track = store.track("a", "b")
        await record(track)
        await store.shelf.seal()
        monkeypatch.setattr(SliceWriter, "create", create_and_remove)
        for _ in range(5):
            with pytest.raises(ReplayError, match="was removed"):
                await track.write(following())
        monkeypatch.undo()
        await track.write(following())
        await store.apply_retention()
        assert store.statistics().slices == 2
        await check(track, readable_before=True)
    assert len(inspect_store(tmp_path).slices) == 2


async def test_a_late_group_does_not_wait_for_what_cannot_be_read(tmp_path: Path) -> None:
    """Whether it was recorded before cannot be told: the log would not have let that happen."""
    async with SqliteStore.open(tmp_path) as store:
        track = store.track("a", "b")
        await record(track)
        await store.shelf.seal()
        (path,) = files(tmp_path, "slice-*.db")
        path.write_bytes(b"This is not a database. " * 1000)
        await track.write([whole(7)])
        assert await read_group(track, 7) == (frames_of(7, 1, 100), FINISHED)


async def test_the_recorder_goes_on_by_itself(tmp_path: Path) -> None:
    async with SqliteStore.open(tmp_path) as store:
        track, log = store.track("a", "b"), TrackLog()
        settings = RecorderSettings(interval=0.001)
        recorder = Recorder(log, track, settings=settings)
        store.start_soon(recorder.run)
        for sequence in range(30):
            group = log.create_group()
            log.write_frame(group, b"%d" % sequence, 0)
            log.end_group(group, FINISHED)
            if sequence in (10, 20):
                await eventually(lambda: not log.unrecorded())
                files(tmp_path, "slice-*.db")[-1].unlink()
            await trio.lowlevel.checkpoint()
        log.finish()
        await eventually(lambda: not log.unrecorded())
        assert log.statistics().lost == 0
        for sequence in range(21, 30):
            got = await read_group(track, sequence)
            assert not isinstance(got, Missing)
            assert got[0][0].payload == b"%d" % sequence
