"""Whatever byte of a slice is flipped: either verify finds it, or it made no difference."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest
import trio
from hypothesis import event, given, settings
from hypothesis import strategies as st
from store_tools import files, frames_of, read_group, read_sequences, whole

from moqtrio.errors import ReplayError
from moqtrio.model.frame import Frame
from moqtrio.model.group import FINISHED, Aborted, GroupEnd
from moqtrio.model.source import Missing
from moqtrio.replay.sqlite import SqliteStore, verify_store
from moqtrio.replay.target import GroupWrite

Group = tuple[list[Frame], GroupEnd | None] | Missing
Groups = dict[int, Group]

WRITES = [
    *(whole(each, 2, 60) for each in range(10, 200)),
    *(GroupWrite(each, 0, frames_of(each, 3, 40), Aborted(7)) for each in (300, 302)),
    *(whole(each, 12, 6000) for each in (400, 401)),
]
WANTED: Groups = {
    write.sequence: (list(write.frames), write.end) for write in WRITES if write.frames
} | {
    5: (frames_of(5, 20, 5000), FINISHED),
}
PAGE = 8192


async def record(directory: Path) -> None:
    """Two slices, and one group in both."""
    async with SqliteStore.open(directory, slice_bytes=1) as store:
        track = store.track("a", "b")
        await track.write([GroupWrite(5, 0, frames_of(5, 10, 5000), None)])
        rest = frames_of(5, 10, 5000, first=10)
        await track.write([GroupWrite(5, 10, rest, FINISHED), *WRITES])


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("recorded") / "store"
    trio.run(record, directory)
    return directory


async def read_all(directory: Path) -> tuple[Groups, list[int] | None]:
    """What is there, and which sequences; None where some groups cannot be had."""
    groups: Groups = {}
    failed = False
    async with SqliteStore.open(directory) as store:
        track = store.track("a", "b")
        for sequence in sorted({*WANTED, 6, 11, 301}):
            try:
                groups[sequence] = await read_group(track, sequence)
            except ReplayError:
                failed = True
        return groups, None if failed else await read_sequences(track, 1000)


def positions(size: int) -> st.SearchStrategy[int]:
    """Any byte, and more often one of those that hold the structure."""
    pages = st.integers(0, size // PAGE - 1)
    heads = st.builds(lambda page, offset: page * PAGE + offset, pages, st.integers(0, 130))
    return heads | st.integers(0, 400) | st.integers(0, size - 1)


@pytest.mark.parametrize("number", [0, 1])
def test_any_one_byte(recorded: Path, tmp_path: Path, number: int) -> None:
    directory = tmp_path / "store"
    shutil.copytree(recorded, directory)
    path = files(directory, "slice-*.db")[number]
    original = path.read_bytes()

    @settings(max_examples=120)
    @given(position=positions(len(original)), bits=st.integers(1, 255))
    def check(position: int, bits: int) -> None:
        data = bytearray(original)
        data[position] ^= bits
        path.write_bytes(data)
        report = verify_store(directory)
        groups, sequences = trio.run(partial(read_all, directory))
        event("found" if report.problems else "no difference")
        if report.clean:
            assert sequences == sorted(WANTED)
        for sequence, group in groups.items():
            expected = WANTED.get(sequence)
            if isinstance(group, Missing) or group == expected:
                assert expected is None or group == expected or not report.clean
                continue
            # Frames before the damaged ones are served; then comes the error.
            assert not report.clean
            assert expected is not None, "a group that never was"
            assert not isinstance(expected, Missing)
            assert group[1] not in (FINISHED, expected[1])
            assert group[0] == expected[0][: len(group[0])]

    check()
