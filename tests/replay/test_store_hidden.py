"""A sealed slice of which any one byte is changed: groups may be lost, and then fail by name.
None looks as if it had never been recorded, which is what a hidden row would make of it."""

from __future__ import annotations

import shutil
import sqlite3
from functools import partial
from pathlib import Path

import pytest
import trio
from hypothesis import event, given, settings
from hypothesis import strategies as st
from store_tools import files, find_group, frames_of, read_group, whole

from moqtrio.errors import ReplayError
from moqtrio.model.frame import Frame
from moqtrio.model.group import FINISHED
from moqtrio.model.source import Missing
from moqtrio.replay.sqlite import SqliteStore
from moqtrio.replay.target import GroupWrite

PAGE = 8192
PACKS = [[40 * pack + 3 * each for each in range(10)] for pack in range(80)]  # with gaps
LONG = range(0, 60, 2)
END = 4000


async def record(directory: Path) -> None:
    """Two tracks: many small packs, over several pages, and groups with rows of their own."""
    async with SqliteStore.open(directory) as store:
        packs, parts = store.track("a", "packs"), store.track("a", "parts")
        for groups in PACKS:
            await packs.write([whole(each, 1, 20) for each in groups])
        for sequence in LONG:
            await parts.write([GroupWrite(sequence, 0, frames_of(sequence, 1, 60), None)])
            rest = frames_of(sequence, 1, 60, first=1)
            await parts.write([GroupWrite(sequence, 1, rest, FINISHED)])


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("recorded") / "store"
    trio.run(record, directory)
    return directory


def content(name: str) -> dict[int, list[Frame]]:
    if name == "packs":
        return {each: frames_of(each, 1, 20) for groups in PACKS for each in groups}
    return {each: frames_of(each, 2, 60) for each in LONG}


async def check_track(store: SqliteStore, name: str, start: int) -> int:
    """Go from ``start`` where the answers lead; returns how many groups could not be read."""
    track, wanted = store.track("a", name), content(name)
    lost, sequence = 0, start
    told: list[ReplayError] = []
    while sequence < END:
        try:
            found = await read_group(track, sequence)
        except ReplayError as error:
            told.append(error)
            lost += 1
            sequence += 1
            continue
        if isinstance(found, Missing):
            end = END if found.next_available is None else found.next_available
            hidden = wanted.keys() & set(range(sequence, end))
            assert not hidden, f"group {min(hidden)} looks as if it had never been there"
            sequence = end
            continue
        frames, ending = found
        assert frames == wanted[sequence][: len(frames)]
        if ending != FINISHED:
            assert ending is not None
            lost += 1
        else:
            assert frames == wanted[sequence]
        sequence += 1
    assert all(error.code and not error.retryable for error in told)
    return lost


async def check(directory: Path, starts: tuple[int, int]) -> int:
    async with SqliteStore.open(directory) as store:
        lost = [
            await check_track(store, name, start)
            for name, start in zip(("packs", "parts"), starts, strict=True)
        ]
        await store.track("a", "packs").write([whole(END)])
        return sum(lost)


def positions(data: bytes) -> st.SearchStrategy[int]:
    """Any byte that is used, and more often one of those that hold the structure."""
    used = [index for index, byte in enumerate(data) if byte]
    pages = st.integers(0, len(data) // PAGE - 1)
    heads = st.builds(lambda page, offset: page * PAGE + offset, pages, st.integers(0, 130))
    return heads | st.integers(0, 400) | st.sampled_from(used)


def test_any_one_byte(recorded: Path, tmp_path: Path) -> None:
    directory = tmp_path / "store"
    shutil.copytree(recorded, directory)
    (path,) = files(directory, "slice-*.db")
    original = path.read_bytes()
    catalog = (directory / "catalog.db").read_bytes()
    starts = st.tuples(st.integers(0, END), st.integers(0, 60))

    @settings(max_examples=60)
    @given(position=positions(original), bits=st.integers(1, 255), starts=starts)
    def run(position: int, bits: int, starts: tuple[int, int]) -> None:
        shutil.rmtree(directory)
        directory.mkdir()
        data = bytearray(original)
        data[position] ^= bits
        path.write_bytes(data)
        (directory / "catalog.db").write_bytes(catalog)
        event("lost" if trio.run(partial(check, directory, starts)) else "no difference")

    run()


def change(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(statement)
    connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM pack WHERE first_sequence=400",
        "UPDATE pack SET first_sequence=401 WHERE first_sequence=400",
        "UPDATE pack SET first_sequence=395 WHERE first_sequence=400",
        "UPDATE pack SET last_sequence='x', data=x'00' WHERE first_sequence=400",
        "DELETE FROM part WHERE sequence=4",
        "UPDATE part SET sequence=5 WHERE sequence=4",
        "UPDATE part SET sequence=3 WHERE sequence=4",
        "UPDATE part SET first_frame=1 WHERE sequence=4",
    ],
)
async def test_rows_that_are_not_where_they_were(
    recorded: Path, tmp_path: Path, statement: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is read first: an answer that there is no such group is not given in haste."""
    for start in (0, 4, 400):
        directory = tmp_path / str(start)
        shutil.copytree(recorded, directory)
        (path,) = files(directory, "slice-*.db")
        change(path, statement)
        assert await check(directory, (start, start))
        told = [each.message for each in caplog.records if str(path) in each.message]
        assert len(told) == 1, "once, however often it is read"


@pytest.mark.parametrize("statement", ["DELETE FROM pack WHERE first_sequence=400", "SELECT 1"])
async def test_a_slice_that_an_earlier_version_sealed(
    recorded: Path, tmp_path: Path, statement: str
) -> None:
    directory = tmp_path / "store"
    shutil.copytree(recorded, directory)
    (path,) = files(directory, "slice-*.db")
    change(path, "PRAGMA user_version=0")
    change(path, statement)
    assert (await check(directory, (0, 0)) > 0) == (statement != "SELECT 1")


async def test_a_slice_in_order_has_gaps_that_are_none_of_its_fault(recorded: Path) -> None:
    async with SqliteStore.open(recorded) as store:
        assert await find_group(store.track("a", "packs"), 401) == Missing(403)
        assert await find_group(store.track("a", "parts"), 5) == Missing(6)
