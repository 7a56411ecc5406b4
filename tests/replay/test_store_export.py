"""Reading a store from outside, and writing out what it has of a track."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs
import pytest
import trio
from store_tools import (
    eventually,
    files,
    find_group,
    frames_of,
    read_group,
    read_sequences,
    start_python,
    whole,
)

from moqtrio.errors import ReplayError
from moqtrio.model.frame import Frame
from moqtrio.model.group import FINISHED, Aborted
from moqtrio.model.source import Bounds, Missing
from moqtrio.replay.sqlite import ExportReport, ReadOnlyStore, SqliteStore, export_track
from moqtrio.replay.target import GapWrite, GroupWrite


@attrs.define
class Sink:
    """Keeps what is exported, and checks that it comes in order."""

    groups: dict[int, list[Frame]] = attrs.Factory(dict)
    ended: list[int] = attrs.Factory(list)
    gaps: list[tuple[int, int, int]] = attrs.Factory(list)
    reasons: list[str] = attrs.Factory(list)

    async def write_frames(self, sequence: int, first_frame: int, frames: Sequence[Frame]) -> None:
        group = self.groups.setdefault(sequence, [])
        assert len(group) == first_frame
        group += frames

    async def end_group(self, sequence: int, frames: int, size: int) -> None:
        group = self.groups.setdefault(sequence, [])
        assert (len(group), sum(len(each.payload) for each in group)) == (frames, size)
        self.ended.append(sequence)

    async def write_gap(self, start: int, end: int, code: int, reason: str) -> None:
        self.gaps.append((start, end, code))
        self.reasons.append(reason)

    def accounted(self) -> list[int]:
        missing = (each for start, end, _ in self.gaps for each in range(start, end))
        return sorted([*self.ended, *missing])


async def export(
    directory: Path, start: int | None = None, end: int | None = None
) -> tuple[Sink, ExportReport]:
    sink = Sink()
    async with ReadOnlyStore.open(directory) as store:
        report = await export_track(store, store.track("a", "b"), sink, start=start, end=end)
    assert sink.accounted() == [*range(report.start, report.end)]
    assert report.groups == len(sink.ended)
    assert report.missing == sum(end - start for start, end, _ in sink.gaps)
    return sink, report


async def record(directory: Path) -> dict[int, list[Frame]]:
    """Small groups, long ones, one over three slices; 30 to 39 were never used."""
    expected = {each: frames_of(each, 2, 100) for each in (*range(10, 30), *range(40, 60))}
    expected[5] = frames_of(5, 9, 50_000)
    expected[60] = frames_of(60, 40, 9000)
    async with SqliteStore.open(directory, slice_bytes=1) as store:
        track = store.track("a", "b")
        await track.write([GroupWrite(5, 0, expected[5][:3], None)])
        await track.write([GroupWrite(5, 3, expected[5][3:6], None)])
        await track.write([whole(each, 2) for each in range(10, 30)])
        await track.write([GroupWrite(5, 6, expected[5][6:], FINISHED)])
        await track.write([whole(each, 2) for each in range(40, 60)])
        await track.write([GroupWrite(60, 0, expected[60], FINISHED)])
    return expected


async def test_everything(tmp_path: Path) -> None:
    expected = await record(tmp_path)
    sink, report = await export(tmp_path)
    assert sink.groups == expected
    assert (report.start, report.end, report.unfinished) == (5, 61, None)
    assert sink.gaps == [(6, 10, 0), (30, 40, 0)]
    assert sink.reasons == ["not in the store"] * 2


async def test_a_range(tmp_path: Path) -> None:
    expected = await record(tmp_path)
    sink, _ = await export(tmp_path, 20, 42)
    assert sink.groups == {each: expected[each] for each in (*range(20, 30), 40, 41)}
    sink, report = await export(tmp_path, 0, 6)
    assert sink.gaps == [(0, 5, 0)]
    assert sink.groups == {5: expected[5]}
    sink, report = await export(tmp_path, 50, 70)
    assert sink.gaps == [(61, 70, 0)]
    sink, report = await export(tmp_path, 100)
    assert (report.start, report.end, sink.groups, sink.gaps) == (100, 100, {}, [])


async def test_damage_is_a_gap_with_a_code(tmp_path: Path) -> None:
    expected = await record(tmp_path)
    _, second, third, *_ = files(tmp_path, "slice-*.db")
    third.unlink()
    data = bytearray(second.read_bytes())
    data[data.index(b"5/4|")] ^= 1
    second.write_bytes(data)
    sink, _ = await export(tmp_path)
    assert [(start, end, code != 0) for start, end, code in sink.gaps] == [
        (5, 6, True),
        (6, 10, False),
        (10, 30, True),
        (30, 40, False),
    ]
    assert "checksum" in sink.reasons[0]
    assert "the file is gone" in sink.reasons[2]
    assert sink.groups[5] == expected[5][: len(sink.groups[5])], "frames before the damage"
    assert 5 not in sink.ended


async def test_how_groups_end(tmp_path: Path) -> None:
    async with SqliteStore.open(tmp_path) as store:
        track = store.track("a", "b")
        await track.write([whole(0), whole(1, end=Aborted(77)), whole(2, 0)])
        await track.write([GroupWrite(3, 0, frames_of(3, 2, 10), None), whole(4)])
        await track.write_gaps([GapWrite(5, 8, 53)])
        await track.write([whole(8)])
        await track.write([GroupWrite(9, 0, frames_of(9, 2, 10), None)])
        await track.write([GroupWrite(10, 0, frames_of(10, 2, 10), None)])
        sink, report = await export(tmp_path)
    assert sink.ended == [0, 2, 4, 8]
    assert [(start, end) for start, end, _ in sink.gaps] == [(1, 2), (3, 4), (5, 8)]
    assert [code for _, _, code in sink.gaps][0::2] == [77, 53]
    assert sink.gaps[1][2] != 0
    assert "truncated" in sink.reasons[1]
    assert sink.reasons[2] == "was published, but could not be recorded"
    assert (report.end, report.unfinished) == (9, 9)
    sink, report = await export(tmp_path, end=11)
    assert [(start, end) for start, end, _ in sink.gaps][3:] == [(9, 10), (10, 11)]


async def test_a_store_in_use_is_read_as_it_was(tmp_path: Path) -> None:
    async with SqliteStore.open(tmp_path, slice_bytes=20_000) as store:
        track = store.track("a", "b")
        await track.write([whole(each, 3, 9000) for each in range(5)])
        await track.write([whole(5)])
        async with ReadOnlyStore.open(tmp_path) as reading:
            source = reading.track()
            assert source.bounds() == Bounds(0, 6, track.bounds().epoch, 5)
            await track.write([whole(6), whole(7)])
            assert await read_sequences(source, 100) == [*range(6)]
            assert await read_group(source, 3) == (frames_of(3, 3, 9000), FINISHED)
            assert await find_group(source, 6) == Missing(None)
            assert [each.key.label for each in reading.tracks()] == ["a/b"]
            with pytest.raises(ReplayError, match="no broadcast 'a' track 'x': it has 'a' 'b'"):
                reading.track("a", "x")
    assert len(files(tmp_path, "*-wal")) == 0


async def test_what_expires_meanwhile_is_no_damage(tmp_path: Path) -> None:
    async with SqliteStore.open(tmp_path, slice_bytes=1, retention_bytes=400_000) as store:
        track = store.track("a", "b")
        for start in range(0, 20, 10):
            await track.write([whole(each, 2, 5000) for each in range(start, start + 10)])
        async with ReadOnlyStore.open(tmp_path) as reading:
            source = reading.track("a", "b")
            oldest = files(tmp_path, "slice-*.db")[0]
            for start in range(20, 60, 10):
                await track.write([whole(each, 2, 5000) for each in range(start, start + 10)])
            await eventually(lambda: not oldest.exists())
            sink = Sink()
            report = await export_track(reading, source, sink)
    assert sink.gaps == [(0, report.missing, 0)]
    assert report.missing in (10, 20)


async def test_finding_by_time(tmp_path: Path) -> None:
    now = 1_000_000.0
    async with SqliteStore.open(tmp_path, slice_bytes=1, wall_clock=lambda: now) as store:
        track = store.track("a", "b")
        await track.write([whole(0), whole(1)])
        await trio.sleep(0.05)
        middle = track.now()
        await track.write([whole(2)])
        await track.write([whole(3)])
        async with ReadOnlyStore.open(tmp_path) as reading:
            source = reading.track()
            assert await source.find_time(now - 10) == 0
            assert await source.find_time(middle) == 2
            assert await source.find_time(now + 1000) is None


KILLED = """
import os, sys, trio
from store_tools import whole, frames_of
from moqtrio.replay.sqlite import SqliteStore
from moqtrio.replay.target import GroupWrite

async def main():
    async with SqliteStore.open(sys.argv[1]) as store:
        track = store.track("a", "b")
        await track.write([whole(each) for each in range(10)])
        await track.write([GroupWrite(10, 0, frames_of(10, 3, 10), None)])
        os._exit(0)

trio.run(main)
"""


async def test_a_store_that_was_killed(tmp_path: Path) -> None:
    _, errors = start_python(KILLED, [tmp_path]).communicate(timeout=60)
    assert errors == ""
    before = {each.name for each in files(tmp_path, "*")}
    sink, report = await export(tmp_path)
    assert (sink.ended, report.unfinished) == ([*range(10)], 10)
    assert {each.name for each in files(tmp_path, "*")} == before
    (last,) = files(tmp_path, "slice-*.db")
    for path in files(tmp_path, "slice-*"):
        path.write_bytes(b"not a database" * 1000)
    sink, report = await export(tmp_path)
    assert last.exists()
    assert (sink.ended, sink.gaps[0][0]) == ([], 0)
    assert {code != 0 for _, _, code in sink.gaps} == {True}, "it may have had groups"


async def test_reading_needs_no_memory_to_speak_of(tmp_path: Path) -> None:
    """One group of 60 MB, and 40 MB of small ones."""
    script = """
import sys, resource, trio
from moqtrio.replay.sqlite import ReadOnlyStore, export_track

class Sink:
    async def write_frames(self, sequence, first, frames): pass
    async def end_group(self, sequence, frames, size): pass
    async def write_gap(self, *gap): raise AssertionError(gap)

async def main():
    async with ReadOnlyStore.open(sys.argv[1]) as store:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        report = await export_track(store, store.track(), Sink())
        assert report.bytes == 100_000_000
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)

trio.run(main)
"""
    payload = bytes(10_000)
    async with SqliteStore.open(tmp_path) as store:
        track = store.track("a", "b")
        for start in range(0, 6000, 1000):
            frames = [Frame(payload, index) for index in range(start, start + 1000)]
            await track.write([GroupWrite(0, start, frames, FINISHED if start == 5000 else None)])
        for start in range(1, 4001, 1000):
            some = [GroupWrite(start + i, 0, [Frame(payload, i)], FINISHED) for i in range(1000)]
            await track.write(some)
    out, errors = start_python(script, [tmp_path]).communicate(timeout=60)
    assert errors == ""
    assert int(out) < 40 * 1024, "KiB"
