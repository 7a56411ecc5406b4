"""A process that records is killed; nothing that was durable is lost, and nothing is reused."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
from pathlib import Path

import pytest
import trio
from store_tools import files, frames_of, read_group, read_sequences, start_python, whole

from moqtrio.errors import ReplayError, StreamCode
from moqtrio.model.group import FINISHED
from moqtrio.model.source import Missing
from moqtrio.replay.sqlite import SqliteStore, inspect_store
from moqtrio.replay.sqlite.schema import connect_durable
from moqtrio.replay.target import GroupWrite

# Records groups as fast as it can, one of them long, in small slices; says which sequence
# it is about to use, and which group is durable.
RECORD = """
import sys, trio
from store_tools import files, frames_of, whole
from moqtrio.replay.sqlite import SqliteStore
from moqtrio.replay.target import GroupWrite

async def main(directory):
    async with SqliteStore.open(directory, slice_bytes=400_000) as store:
        track = store.track("a", "b")
        sequence = track.next_sequence
        print("start", sequence, flush=True)
        long, written = sequence, 0
        sequence += 1
        while True:
            if sequence + 8 > track.reserved_end:
                await track.reserve(sequence + 64)
            print("use", sequence + 8, flush=True)
            writes = [whole(sequence + n, count=1 + n, size=3000) for n in range(8)]
            frames = frames_of(long, 20, 1000, first=written)
            await track.write([*writes, GroupWrite(long, written, frames, None)])
            sequence, written = sequence + 8, written + 20
            print("durable", sequence, long, written, flush=True)

trio.run(main, sys.argv[1])
"""

# As above, but for a block of sequences that a clean close has left over.
USE_LEFT_OVER = """
import os, signal, sys, trio
from store_tools import whole
from moqtrio.replay.sqlite import SqliteStore

async def main(directory):
    async with SqliteStore.open(directory) as store:
        track = store.track("a", "b")
        assert (track.next_sequence, track.reserved_end) == (5, 5)
        await track.reserve(100)
        if sys.argv[2] == "write":
            await track.write([whole(5), whole(6)])
        os.kill(os.getpid(), signal.SIGKILL)

trio.run(main, sys.argv[1])
"""

HOLD = """
import sys, trio
from moqtrio.replay.sqlite import SqliteStore

async def main(directory):
    async with SqliteStore.open(directory):
        print("open", flush=True)
        await trio.sleep_forever()

trio.run(main, sys.argv[1])
"""


def record_and_kill(directory: Path, commits: int) -> tuple[int, int, list[tuple[int, int]]]:
    """Returns the first sequence, the end of those used, and the long group's frames."""
    process = start_python(RECORD, [directory])
    assert process.stdout is not None
    start = used = seen = 0
    long: list[tuple[int, int]] = []
    try:
        for line in process.stdout:
            word, *numbers = line.split()
            if word == "start":
                start = int(numbers[0])
            elif word == "use":
                used = max(used, int(numbers[0]))
            elif len(numbers) == 3:  # The last line may be torn by the kill.
                long = [(int(numbers[1]), int(numbers[2]))]
                seen += 1
                if seen == commits:
                    process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    return start, used, long


async def test_killed_again_and_again(tmp_path: Path) -> None:
    """P11 and P16."""
    directory = tmp_path / "store"
    used_before = 0
    durable: set[int] = set()
    long: list[tuple[int, int]] = []
    for kill in range(5):
        commits = random.Random(kill).randrange(1, 40)
        work = await trio.to_thread.run_sync(record_and_kill, directory, commits)
        start, used, last_long = work
        assert start >= used_before, "a sequence was used twice"
        assert len(last_long) == 1
        durable.update(range(start + 1, start + 1 + 8 * commits))
        long += last_long
        used_before = used
        async with SqliteStore.open(directory) as store:
            track = store.track("a", "b")
            assert track.next_sequence >= used
            have = set(await read_sequences(track, track.next_sequence))
            assert durable <= have
            for sequence in random.Random(kill).sample(sorted(durable), min(60, len(durable))):
                got = await read_group(track, sequence)
                assert not isinstance(got, Missing)
                frames, end = got
                assert (frames, end) == (frames_of(sequence, len(frames), 3000), FINISHED)
            for sequence, written in long:
                got = await read_group(track, sequence)
                assert not isinstance(got, Missing)
                frames, end = got
                assert len(frames) >= written, "durable frames of a group were lost"
                assert frames == frames_of(sequence, len(frames), 1000)
                assert end is None, "a truncated group must not look complete"
            used_before = max(used_before, track.next_sequence)


async def test_a_group_cut_off_by_a_kill_ends_with_an_error(tmp_path: Path) -> None:
    async with SqliteStore.open(tmp_path / "store") as store:
        track = store.track("a", "b")
        await track.write([GroupWrite(0, 0, frames_of(0, 3, 10), None)])
    async with SqliteStore.open(tmp_path / "store") as store:
        track = store.track("a", "b")
        answer = track.poll_group(0)
        while not hasattr(answer, "value"):
            await answer.wait()  # type: ignore[union-attr] # it is there, so it is pending
            answer = track.poll_group(0)
        reader = answer.value
        assert len(reader.poll_frames(1000).value) == 3
        with pytest.raises(ReplayError, match="truncated after 3 frames") as raised:
            reader.poll_frames(1000)
        assert raised.value.code == StreamCode.INTERNAL
        assert not raised.value.retryable
        reader.close()


@pytest.mark.parametrize("write", ["write", "nothing"])
async def test_a_kill_undoes_what_a_clean_close_said(tmp_path: Path, write: str) -> None:
    """A block reserved in one run is no promise that the next run used none of it."""
    directory = tmp_path / "store"
    async with SqliteStore.open(directory) as store:
        track = store.track("a", "b")
        await track.reserve(1000)
        await track.write([whole(each) for each in range(5)])
    process = start_python(USE_LEFT_OVER, [directory, write])
    _, errors = await trio.to_thread.run_sync(process.communicate)
    assert process.returncode == -signal.SIGKILL, errors
    async with SqliteStore.open(directory) as store:
        assert store.track("a", "b").next_sequence == 1000


async def test_a_clean_close_wastes_no_sequence(tmp_path: Path) -> None:
    directory = tmp_path / "store"
    async with SqliteStore.open(directory) as store:
        track = store.track("a", "b")
        await track.reserve(1000)
        await track.write([whole(7)])
        marked = store.track("a", "c")
        await marked.reserve(1000)
        marked.mark_used(12)
    async with SqliteStore.open(directory) as store:
        assert store.track("a", "b").next_sequence == 8
        assert store.track("a", "b").bounds().durable_end == 8
        assert store.track("a", "c").next_sequence == 12
        with pytest.raises(ReplayError, match="may have been used before"):
            await store.track("a", "b").write([whole(3)])


async def test_one_writer_at_a_time(tmp_path: Path) -> None:
    process = start_python(HOLD, [tmp_path])
    try:
        assert process.stdout is not None
        assert await trio.to_thread.run_sync(process.stdout.readline) == "open\n"
        with pytest.raises(ReplayError, match=f"{tmp_path} is in use by process {process.pid}"):
            async with SqliteStore.open(tmp_path):
                pass
        assert (await trio.to_thread.run_sync(inspect_store, tmp_path)).tracks == []
    finally:
        process.kill()
        process.communicate()
    async with SqliteStore.open(tmp_path):
        with pytest.raises(ReplayError, match=f"in use by process {os.getpid()}"):
            async with SqliteStore.open(tmp_path):
                pass


async def test_what_a_crash_left_half_done_is_put_right(tmp_path: Path) -> None:
    async with SqliteStore.open(tmp_path, slice_bytes=1) as store:
        track = store.track("a", "b")
        for sequence in range(4):
            await track.write([whole(sequence)])
    first, second, third, fourth = files(tmp_path, "slice-*.db")
    unfinished = tmp_path / "slice-00000005.db"
    unfinished.write_bytes(b"half a header")
    catalog = sqlite3.connect(tmp_path / "catalog.db")
    with catalog:
        # Killed between marking slices and removing their files, and after removing one.
        catalog.execute("UPDATE slice SET state='dropping' WHERE number IN (1, 2)")
        # Killed between closing the file and marking it.
        catalog.execute("UPDATE slice SET state='active', bytes=0 WHERE number=4")
        catalog.execute("DELETE FROM content WHERE slice=4")
        # Killed while making the file of the next.
        catalog.execute("INSERT INTO slice VALUES(5, 'creating', 0, 0, 0)")
    catalog.close()
    second.unlink()
    async with SqliteStore.open(tmp_path) as store:
        track = store.track("a", "b")
        assert await read_sequences(track, 10) == [2, 3]
        assert await read_group(track, 3) == (frames_of(3, 1, 100), FINISHED)
        assert store.statistics().slices == 2
        await track.write([whole(4)])
        assert await read_sequences(track, 10) == [2, 3, 4]
    assert not first.exists()
    assert third.exists()
    assert fourth.exists()
    assert not unfinished.exists()


async def test_a_file_that_is_not_ours_is_not_written_over(tmp_path: Path) -> None:
    async with SqliteStore.open(tmp_path):
        pass
    stray = tmp_path / "slice-00000001.db"
    stray.write_bytes(b"from a backup")
    async with SqliteStore.open(tmp_path) as store:
        await store.track("a", "b").write([whole(0)])
    assert stray.read_bytes() == b"from a backup"


def test_a_script_that_fails_says_why() -> None:
    """The scripts above report through their return code; make sure that they can."""
    process = start_python("import store_tools; raise SystemExit(3)", [])
    assert process.wait() == 3
    process.communicate()
    assert isinstance(process, subprocess.Popen)


@pytest.mark.parametrize("name", ["catalog.db", "slice-00000001.db"])
def test_a_commit_waits_for_the_disk(tmp_path: Path, name: str) -> None:
    """A kill cannot show what a power cut would do; what SQLite promises for these can."""
    connection = connect_durable(tmp_path / name, create=True)
    try:
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    finally:
        connection.close()
