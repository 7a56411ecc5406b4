"""A store that another version wrote.

``data/store-version-N.tar.gz`` was written by the first moqtrio that had format version N,
in 2 runs. The first closed cleanly; the second was killed while group 5 was open.
"""

from __future__ import annotations

import signal
import sqlite3
import tarfile
from pathlib import Path

import pytest
import trio
from store_tools import find_group, frames_of, read_group, read_sequences, start_python, whole

from moqtrio.errors import ReplayError
from moqtrio.model.group import FINISHED, Aborted
from moqtrio.model.source import Bounds, Missing
from moqtrio.replay.sqlite import SqliteStore, inspect_store, verify_store
from moqtrio.replay.sqlite.catalog import FORMAT_VERSION
from moqtrio.replay.target import GapWrite

DATA = Path(__file__).parent / "data"
VERSIONS = [1, 2]
WITH_GAPS = 2
PACKED = [*range(50), *range(60, 110)]

# Opens a store and is killed in the middle of bringing it up to date.
DIE_WHILE_UPGRADING = """
import os, signal, sys, trio
from moqtrio.replay.sqlite import SqliteStore, catalog

connect = catalog.connect_durable

def watch(statement):
    if sys.argv[2] in statement:
        os.kill(os.getpid(), signal.SIGKILL)

def connect_and_watch(*arguments, **options):
    connection = connect(*arguments, **options)
    connection.set_trace_callback(watch)
    return connection

catalog.connect_durable = connect_and_watch

async def main(directory):
    async with SqliteStore.open(directory):
        pass

trio.run(main, sys.argv[1])
"""


def unpack(directory: Path, version: int) -> Path:
    """A copy of what that version wrote."""
    with tarfile.open(DATA / f"store-version-{version}.tar.gz") as archive:
        archive.extractall(directory, filter="data")
    return directory / "store"


async def check_contents(store: SqliteStore) -> None:
    """Everything that was recorded is there, byte for byte, and nothing else."""
    packs = store.track("live/a", "packs")
    assert await read_sequences(packs, 1000) == PACKED
    for sequence in PACKED:
        expected = frames_of(sequence, 1 + sequence % 3, 40)
        assert await read_group(packs, sequence) == (expected, FINISHED)
    long = store.track("live/a", "long")
    assert await read_sequences(long, 1000) == [3, 4]
    assert await read_group(long, 3) == (frames_of(3, 60, 2000), FINISHED), "over three slices"
    assert await read_group(long, 4) == (frames_of(4, 100, 1000), FINISHED)
    ended = store.track("live/a", "ended")
    assert await read_group(ended, 0) == (frames_of(0, 1, 100), Aborted(77))
    assert await read_group(ended, 1) == (frames_of(1, 5, 20_000), Aborted(53))
    assert await read_group(ended, 2) == (frames_of(2, 1, 100), FINISHED)
    killed = store.track("live/b", "killed")
    assert await read_sequences(killed, 1000) == list(range(7))
    for sequence in (0, 1, 2, 3, 4, 6):
        assert await read_group(killed, sequence) == (frames_of(sequence, 1, 100), FINISHED)
    assert await read_group(killed, 5) == (frames_of(5, 6, 500), None), "cut short by the kill"


async def check_gaps(store: SqliteStore) -> None:
    """Those that were recorded have the codes they were recorded with."""
    gaps = store.track("live/b", "gaps")
    assert list(gaps.gaps) == [GapWrite(3, 5, 53), GapWrite(8, 9, 24), GapWrite(12, 14, 53)]
    for sequence in (0, 1, 2, 5, 10):
        assert await read_group(gaps, sequence) == (frames_of(sequence, 1, 100), FINISHED)
    for sequence, code in ((3, 53), (4, 53), (8, 24)):
        with pytest.raises(ReplayError) as raised:
            await find_group(gaps, sequence)
        assert (raised.value.code, raised.value.retryable) == (code, False)
    for sequence, following in ((6, 8), (7, 8), (9, 10)):
        assert await find_group(gaps, sequence) == Missing(following), "never used"
    assert gaps.next_sequence == 14, "the gap at the end is not published once more"


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_store_of_an_older_version_is_read_whole_and_goes_on(
    tmp_path: Path, version: int
) -> None:
    directory = unpack(tmp_path, version)
    async with SqliteStore.open(directory) as store:
        await check_contents(store)
        if version >= WITH_GAPS:
            await check_gaps(store)
        packs, killed = store.track("live/a", "packs"), store.track("live/b", "killed")
        assert (packs.next_sequence, killed.next_sequence) == (110, 64)
        assert store.track("live/a", "ended").next_sequence == 7
        assert packs.bounds() == Bounds(0, 110, packs.row.epoch, 109)
        epochs = [track.row.epoch for track in store.tracks()]
        await packs.write([whole(110, 1 + 110 % 3, 40)])
        await killed.write([whole(64)])
    async with SqliteStore.open(directory) as store:
        assert [track.row.epoch for track in store.tracks()] == epochs
        assert await read_sequences(store.track("live/a", "packs"), 1000) == [*PACKED, 110]
        killed = store.track("live/b", "killed")
        assert await read_sequences(killed, 1000) == [*range(7), 64]
        if version >= WITH_GAPS:
            await check_gaps(store)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_store_of_an_older_version_can_be_looked_at(tmp_path: Path, version: int) -> None:
    directory = unpack(tmp_path, version)
    before = {path: path.read_bytes() for path in directory.glob("*.db")}
    info = inspect_store(directory)
    assert info.format_version == version
    found = [(track.name, track.groups, track.next_sequence) for track in info.tracks]
    expected = [("packs", 100, 110), ("long", 2, 5), ("ended", 3, 7), ("killed", 7, 64)]
    if version >= WITH_GAPS:
        expected.insert(3, ("gaps", 5, 14))
    assert found == expected
    assert verify_store(directory).clean
    assert {path: path.read_bytes() for path in directory.glob("*.db")} == before


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, 99])
async def test_a_store_of_a_newer_version_is_refused_and_left_alone(
    tmp_path: Path, version: int
) -> None:
    directory = unpack(tmp_path, 1)
    async with SqliteStore.open(directory):
        pass
    connection = sqlite3.connect(directory / "catalog.db")
    connection.execute(f"PRAGMA user_version={version}")
    connection.close()
    before = (directory / "catalog.db").read_bytes()
    expected = f"format version {version}, and this moqtrio reads up to {FORMAT_VERSION}: use the"
    with pytest.raises(ReplayError, match=expected) as raised:
        async with SqliteStore.open(directory):
            pass
    assert not raised.value.retryable
    with pytest.raises(ReplayError, match=expected):
        inspect_store(directory)
    assert (directory / "catalog.db").read_bytes() == before


@pytest.mark.parametrize("statement", ["CREATE TABLE gap", "PRAGMA user_version=", "COMMIT"])
async def test_an_upgrade_that_was_interrupted_is_done_again(
    tmp_path: Path, statement: str
) -> None:
    directory = unpack(tmp_path, 1)
    process = start_python(DIE_WHILE_UPGRADING, [directory, statement])
    _, errors = await trio.to_thread.run_sync(process.communicate)
    assert process.returncode == -signal.SIGKILL, errors
    assert inspect_store(directory).format_version == 1
    async with SqliteStore.open(directory) as store:
        await check_contents(store)
        assert inspect_store(directory).format_version == FORMAT_VERSION
