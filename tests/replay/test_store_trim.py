"""Removing the oldest part of a store that nobody has open."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from store_tools import (
    files,
    find_group,
    frames_of,
    read_group,
    read_sequences,
    start_python,
    whole,
)

from moqtrio.errors import ReplayError
from moqtrio.model.group import FINISHED
from moqtrio.model.source import Missing
from moqtrio.replay.sqlite import (
    SqliteStore,
    TrimLimits,
    TrimmedTrack,
    inspect_store,
    trim_store,
    verify_store,
)
from moqtrio.replay.target import GapWrite, GroupWrite

NOW = 1_700_000_000.0


async def record(directory: Path) -> None:
    """Five slices an hour apart, of ten groups each; of another track, there is a group in the
    third. Gaps at 8 and at 48."""
    for hour in range(5):
        clock = NOW + 3600 * hour
        async with SqliteStore.open(directory, wall_clock=lambda clock=clock: clock) as store:
            start = 10 * hour
            await store.track("a", "b").write([whole(each, 3) for each in range(start, start + 8)])
            if hour == 2:
                await store.track("a", "other").write([whole(0)])
            if hour in (0, 4):
                await store.track("a", "b").write_gaps([GapWrite(start + 8, start + 9, 53)])
            store.track("a", "b").mark_used(start + 10)


def numbers(directory: Path) -> list[int]:
    return [int(path.stem.removeprefix("slice-")) for path in files(directory, "slice-*.db")]


@pytest.mark.parametrize(
    ("limits", "left"),
    [
        (TrimLimits(), [1, 2, 3, 4, 5]),
        (TrimLimits(before=0, broadcast="a", track="b"), [1, 2, 3, 4, 5]),
        (TrimLimits(before=17, track="b"), [2, 3, 4, 5]),
        (TrimLimits(before=18, track="b"), [3, 4, 5]),
        (TrimLimits(before=10**9, track="b"), []),
        (TrimLimits(before=1, track="other"), [4, 5]),
        (TrimLimits(older_than=2.5 * 3600), [3, 4, 5]),
        (TrimLimits(older_than=100 * 3600), [1, 2, 3, 4, 5]),
        (TrimLimits(older_than=0), []),
        (TrimLimits(keep_bytes=0), []),
        (TrimLimits(keep_bytes=10**9), [1, 2, 3, 4, 5]),
        (TrimLimits(older_than=3.5 * 3600, before=28, track="b"), [4, 5]),
    ],
    ids=str,
)
@pytest.mark.parametrize("dry_run", [True, False])
async def test_what_goes(
    tmp_path: Path, limits: TrimLimits, left: list[int], dry_run: bool
) -> None:
    await record(tmp_path)
    before = inspect_store(tmp_path)
    wanted = sum(each.bytes for each in before.slices[5 - len(left) :])

    def clock() -> float:
        return NOW + 4 * 3600

    report = trim_store(tmp_path, limits, dry_run=dry_run, wall_clock=clock)
    assert numbers(tmp_path) == ([1, 2, 3, 4, 5] if dry_run else left)
    assert (report.slices, report.kept_slices) == (5 - len(left), len(left))
    assert report.dry_run == dry_run
    assert report.kept_bytes == wanted
    assert report.bytes + report.kept_bytes == before.bytes
    assert verify_store(tmp_path).clean
    if not dry_run:
        (track, _) = inspect_store(tmp_path).tracks
        assert track.next_sequence == 50
        assert track.oldest == (None if not left else 10 * left[0] - 10)


async def test_sizes_count_on_the_disk(tmp_path: Path) -> None:
    await record(tmp_path)
    sizes = [each.bytes for each in inspect_store(tmp_path).slices]
    trim_store(tmp_path, TrimLimits(keep_bytes=sum(sizes[2:])))
    assert numbers(tmp_path) == [3, 4, 5]


async def test_the_report(tmp_path: Path) -> None:
    await record(tmp_path)
    report = trim_store(tmp_path, TrimLimits(before=28, track="b"))
    assert report.tracks == [
        TrimmedTrack("a", "b", 0, 28, 24, 7200, 0, 27002),
        TrimmedTrack("a", "other", 0, 1, 1, 100, 0, 0),
    ]
    assert report.created == pytest.approx(NOW, abs=60)
    assert report.recorded == pytest.approx(NOW + 2 * 3600, abs=60)


async def test_the_store_goes_on(tmp_path: Path) -> None:
    await record(tmp_path)
    trim_store(tmp_path, TrimLimits(before=20, track="b"))
    async with SqliteStore.open(tmp_path) as store:
        track = store.track("a", "b")
        assert track.next_sequence == 50
        rest = [*range(20, 28), *range(30, 38), *range(40, 48)]
        assert await find_group(track, 3) == Missing(20)
        assert await find_group(track, 8) == Missing(20), "its gap is forgotten"
        for sequence in rest:
            assert await read_group(track, sequence) == (frames_of(sequence, 3, 100), FINISHED)
        with pytest.raises(ReplayError):
            await find_group(track, 48)
        await track.write([whole(50)])
    trim_store(tmp_path, TrimLimits(keep_bytes=0))
    async with SqliteStore.open(tmp_path) as store:
        track = store.track("a", "b")
        assert track.next_sequence == 51
        assert await read_sequences(track, 100) == []


async def test_a_store_in_use_is_left_alone(tmp_path: Path) -> None:
    async with SqliteStore.open(tmp_path) as store:
        await store.track("a", "b").write([whole(0)])
        with pytest.raises(ReplayError, match="in use by process"):
            await trio.to_thread.run_sync(trim_store, tmp_path, TrimLimits(keep_bytes=0))
        report = trim_store(tmp_path, TrimLimits(keep_bytes=0), dry_run=True)
        assert (report.slices, report.kept_slices) == (0, 1), "the one being written stays"


async def test_which_track(tmp_path: Path) -> None:
    await record(tmp_path)
    with pytest.raises(ReplayError, match="which track is meant"):
        trim_store(tmp_path, TrimLimits(before=3))
    with pytest.raises(ReplayError, match="has no track 'c'"):
        trim_store(tmp_path, TrimLimits(before=3, track="c"))
    async with SqliteStore.open(tmp_path):  # after trouble, it is not in use any more
        pass


def test_a_directory_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match="no such directory"):
        trim_store(tmp_path / "none", TrimLimits(keep_bytes=0))
    assert not (tmp_path / "none").exists()


async def test_a_group_that_goes_on_in_what_is_kept(tmp_path: Path) -> None:
    async with SqliteStore.open(tmp_path, slice_bytes=1) as store:
        track = store.track("a", "b")
        await track.write([GroupWrite(0, 0, frames_of(0, 2, 100), None)])
        await track.write([GroupWrite(0, 2, frames_of(0, 2, 100, first=2), FINISHED), whole(1)])
    sizes = [each.bytes for each in inspect_store(tmp_path).slices]
    trim_store(tmp_path, TrimLimits(keep_bytes=sizes[-1]))
    assert verify_store(tmp_path).problems == ()
    async with SqliteStore.open(tmp_path) as store:
        assert await read_sequences(store.track("a", "b"), 100) == [1]


KILLED = """
import os, sys
from moqtrio.replay.sqlite import TrimLimits, trim_store

left = int(sys.argv[2])
unlink = os.unlink

def unlink_some(path):
    global left
    if not left:
        os._exit(9)
    left -= 1
    unlink(path)

os.unlink = unlink_some
trim_store(sys.argv[1], TrimLimits(before=30, track="b"))
print("done")
"""


@pytest.mark.parametrize("left", range(6))
async def test_killed_in_the_middle(tmp_path: Path, left: int) -> None:
    await record(tmp_path)
    process = start_python(KILLED, [tmp_path, left])
    out, errors = process.communicate(timeout=60)
    assert (out, errors, process.returncode) == ("", "", 9)
    report = verify_store(tmp_path)
    assert report.problems == ()
    assert inspect_store(tmp_path).tracks[0].oldest == 30
    async with SqliteStore.open(tmp_path) as store:
        track = store.track("a", "b")
        assert (await read_sequences(track, 45))[0] == 30
    assert numbers(tmp_path) == [4, 5]
