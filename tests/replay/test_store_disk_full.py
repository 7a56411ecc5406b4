"""A disk with no room left: what is recorded stays readable, and recording goes on later."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio.testing
from store_tools import frames_of, read_group, read_sequences, start_python, whole

from moqtrio.errors import ReplayError
from moqtrio.model.group import FINISHED
from moqtrio.replay.sqlite import SqliteStore

# A limit on the size of files stands in for the disk's where nothing can be mounted. It holds
# for the whole process, so it is a process of its own.
LIMITED = """
import resource, sys, trio
from store_tools import frames_of, read_group, read_sequences, whole
from moqtrio.errors import ReplayError
from moqtrio.model.group import FINISHED
from moqtrio.replay.sqlite import SqliteStore

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

async def main(directory):
    async with SqliteStore.open(directory) as store:
        track = store.track("a", "b")
        await track.reserve(1000)
        limit(1_500_000)
        recorded = 0
        while True:
            try:
                await track.write([whole(recorded, 10, 10_000)])
            except ReplayError as error:
                assert error.retryable, error
                assert str(directory) in str(error), error
                break
            recorded += 1
            assert recorded < 100, "the limit had no effect"
        assert recorded > 5, recorded
        assert store.statistics().failures == 1
        assert await read_sequences(track, 1000) == list(range(recorded))
        limit(resource.RLIM_INFINITY)
        await track.write([whole(recorded, 10, 10_000)])
        for sequence in range(recorded + 1):
            assert await read_group(track, sequence) == (frames_of(sequence, 10, 10_000), FINISHED)
    async with SqliteStore.open(directory) as store:
        track = store.track("a", "b")
        assert track.next_sequence == recorded + 1
        assert await read_sequences(track, 1000) == list(range(recorded + 1))
    print("well")

trio.run(main, sys.argv[1])
"""


# No file can be opened any more: a failure that passes, and says nothing about the groups.
NO_FILES_LEFT = """
import os, resource, sys, trio
from store_tools import find_group, frames_of, read_group, whole
from moqtrio.errors import ReplayError
from moqtrio.model.group import FINISHED
from moqtrio.replay.sqlite import SqliteStore

async def main(directory):
    async with SqliteStore.open(directory) as store:
        await store.track("a", "b").write([whole(3)])
    async with SqliteStore.open(directory) as store:
        track = store.track("a", "b")
        await trio.to_thread.run_sync(lambda: None)  # Threads need files too.
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        spare = os.open("/dev/null", os.O_RDONLY)
        os.close(spare)
        resource.setrlimit(resource.RLIMIT_NOFILE, (spare, most))
        for _ in range(2):
            try:
                await read_group(track, 3)
            except ReplayError as error:
                assert error.retryable, error
                assert "slice-00000001.db" in str(error), error
            else:
                raise AssertionError("the limit had no effect")
            await trio.sleep(0.05)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        assert await read_group(track, 3) == (frames_of(3, 1, 100), FINISHED)
        assert store.statistics().loads == 3
    print("well")

trio.run(main, sys.argv[1])
"""


def test_a_failure_that_passes_is_retried(tmp_path: Path) -> None:
    process = start_python(NO_FILES_LEFT, [tmp_path / "store"])
    output, errors = process.communicate(timeout=60)
    assert output == "well\n", errors


def test_files_that_may_not_grow(tmp_path: Path) -> None:
    process = start_python(LIMITED, [tmp_path / "store"])
    output, errors = process.communicate(timeout=60)
    assert output == "well\n", errors


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("only where file systems may be mounted; see the test before")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


async def fill(store: SqliteStore, start: int) -> int:
    """Record until there is no room; returns the end of what is recorded."""
    track = store.track("a", "b")
    for sequence in range(start, start + 1000):
        try:
            await track.write([whole(sequence, 10, 2000)])
        except ReplayError as error:
            if not error.retryable or "disk" not in str(error):
                raise
            return sequence
    raise AssertionError("the disk never filled up")


async def test_a_full_disk(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(1_500_000))
    async with SqliteStore.open(small_disk / "store") as store:
        track = store.track("a", "b")
        await track.reserve(100_000)
        end = await fill(store, 0)
        assert end > 5
        assert await fill(store, end) == end
        assert await read_sequences(track, 5000) == list(range(end))
        ballast.unlink()
        more = await fill(store, end)
        assert more > end
        for sequence in range(more):
            assert await read_group(track, sequence) == (frames_of(sequence, 10, 2000), FINISHED)
    async with SqliteStore.open(small_disk / "store") as store:
        assert store.track("a", "b").next_sequence >= more
        assert await read_sequences(store.track("a", "b"), 5000) == list(range(more))


async def test_retention_makes_room_again(
    small_disk: Path, mock_clock: trio.testing.MockClock
) -> None:
    async with SqliteStore.open(
        small_disk / "store", retention=100.0, slice_bytes=400_000
    ) as store:
        end = await fill(store, 0)
        mock_clock.jump(200.0)
        await store.apply_retention()
        more = await fill(store, end)
        assert more > end + 5
        assert await read_sequences(store.track("a", "b"), 5000) == list(range(end, more))
