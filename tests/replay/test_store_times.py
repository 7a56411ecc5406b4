"""From the time of day to a sequence: never too late, and as early as need be."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing
from hypothesis import event, given, settings
from hypothesis import strategies as st
from store_tools import files, find_group, frames_of, read_sequences, whole

from moqtrio.errors import ReplayError
from moqtrio.model import Origin
from moqtrio.model.group import FINISHED
from moqtrio.model.source import Missing, TimeIndex
from moqtrio.replay.memory import MemoryTrack
from moqtrio.replay.sqlite import SqliteStore, SqliteTrack
from moqtrio.replay.sqlite.spans import SpanIndex
from moqtrio.replay.sqlite.times import SliceTimes
from moqtrio.replay.target import GroupWrite

# These tests move a MockClock by hand; see test_store_retention.py.

START = 1_000_000.0


@asynccontextmanager
async def open_track(
    directory: Path, *, wall: float = START, retention: float | None = None
) -> AsyncIterator[tuple[SqliteStore, SqliteTrack]]:
    async with SqliteStore.open(
        directory, retention=retention, slice_seconds=5.0, wall_clock=lambda: wall
    ) as store:
        yield store, store.track("a", "b")


async def test_the_smallest_sequence_recorded_since(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    async with open_track(tmp_path) as (_, track):
        assert await track.find_time(0.0) is None
        for sequence in range(10):  # at START, START + 2 ... three to a slice
            await track.write([whole(sequence)])
            mock_clock.jump(2.0)
        assert track.now() == START + 20
        assert await track.find_time(0.0) == 0
        assert await track.find_time(START) == 0
        for sequence in range(10):
            assert await track.find_time(START + 2 * sequence) == sequence
            assert await track.find_time(START + 2 * sequence - 0.5) == sequence
        assert await track.find_time(START + 18.5) is None


async def test_a_late_group_and_a_long_one_count(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    async with open_track(tmp_path) as (_, track):
        await track.write([GroupWrite(2, 0, frames_of(2, 1, 100), None)])
        for sequence in range(10, 20):
            await track.write([whole(sequence)])
            mock_clock.jump(2.0)
        assert await track.find_time(START + 6) == 13
        await track.write([whole(5)])  # late
        assert await track.find_time(START + 6) == 5
        await track.write([GroupWrite(2, 1, frames_of(2, 1, 100, first=1), None)])
        assert await track.find_time(START + 6) == 2
        mock_clock.jump(2.0)
        await track.write([GroupWrite(2, 2, (), FINISHED)])  # its end alone
        assert await track.find_time(track.now()) == 2
        assert await track.find_time(track.now() + 1) is None


async def test_a_late_group_in_a_later_slice_counts(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    async with open_track(tmp_path) as (_, track):
        for sequence in (10, 11, 12, 13, 14, 8, 15):  # three to a slice: 8 is in the second
            await track.write([whole(sequence)])
            mock_clock.jump(2.0)
        assert await track.find_time(START + 1) == 8
        assert await track.find_time(START + 10) == 8
        assert await track.find_time(START + 11) == 15
        await track.write([whole(7)])  # in the third
        assert await track.find_time(START + 1) == 7
        assert await track.find_time(START + 11) == 7


async def test_what_has_expired_does_not_count(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    async with open_track(tmp_path, retention=20.0) as (store, track):
        await track.write([GroupWrite(0, 0, frames_of(0, 1, 100), None), whole(1)])
        for sequence in range(2, 12):
            mock_clock.jump(2.0)
            frames = frames_of(0, 1, 100, first=sequence - 1)
            await track.write([GroupWrite(0, sequence - 1, frames, None), whole(sequence)])
        assert await track.find_time(START + 19) == 0, "it goes on"
        assert await track.find_time(START + 1) == 0
        mock_clock.jump(5.0)
        assert await store.apply_retention() == 1
        # What came of group 0 later is still on the disk, and worth nothing without it.
        assert await find_group(track, 0) == Missing(4)
        assert await track.find_time(0.0) == 4
        for sequence in range(4, 12):
            assert await track.find_time(START + 2 * sequence - 2) == sequence


async def test_what_another_track_records_does_not_count(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    async with open_track(tmp_path) as (store, track):
        await track.write([whole(0)])
        mock_clock.jump(1.0)
        await store.track("a", "other").write([whole(0)])
        assert await track.find_time(START + 0.5) is None
        mock_clock.jump(1.0)
        await track.write([whole(1)])
        assert await track.find_time(START + 0.5) == 1


async def test_a_clock_that_was_set_back_finds_more_not_less(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    async with open_track(tmp_path) as (_, track):
        await track.write([whole(0)])
        mock_clock.jump(100.0)
    async with open_track(tmp_path, wall=START - 3600) as (_, track):
        assert track.now() == START + 100, "the store's time does not run backwards"
        await track.write([whole(1)])
        # By the clock on the wall, that was an hour before the first group.
        assert await track.find_time(START - 3600) == 0
        assert await track.find_time(START + 1) == 1


async def test_a_damaged_slice_counts_from_its_first_group(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    async with open_track(tmp_path) as (_, track):
        for sequence in range(10):
            await track.write([whole(sequence)])
            mock_clock.jump(2.0)
    for file in files(tmp_path, "slice-*.db")[1:2]:
        content = bytearray(file.read_bytes())
        content[100:] = bytes(len(content) - 100)
        file.write_bytes(content)
    async with open_track(tmp_path) as (_, track):
        assert await track.find_time(START + 8) == 3, "it held 3, 4 and 5"
        assert await track.find_time(START + 12) == 6


async def test_what_an_earlier_run_has_not_recorded_yet_counts(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    async with open_track(tmp_path) as (store, target):
        before = Origin().create_broadcast("a").create_track("b", store=store)
        before.write_frame(b"")
        before.finish()
        mock_clock.jump(10.0)
        track = Origin().create_broadcast("a").create_track("b", store=store)
        assert await track.find_time(START + 5) == 0
        assert target.bounds().oldest is None, "it was recorded before it was asked for"


async def test_a_store_that_is_closed_says_so(tmp_path: Path) -> None:
    async with open_track(tmp_path) as (_, track):
        await track.write([whole(0)])
    with pytest.raises(ReplayError, match="closed"):
        await track.find_time(START)


async def test_memory_can_be_asked_too(mock_clock: trio.testing.MockClock) -> None:
    track = MemoryTrack()
    assert isinstance(track, TimeIndex)
    assert await track.find_time(0.0) is None
    times = []
    for sequence in (0, 1, 5, 3):
        times.append(track.now())
        await track.write([whole(sequence)])
        mock_clock.jump(1.0)
    assert [await track.find_time(when) for when in times] == [0, 1, 3, 3]
    assert await track.find_time(times[-1] + 0.5) is None
    track.trim(2)
    assert await track.find_time(0.0) == 3
    track.fail(ReplayError("broken"))
    with pytest.raises(ReplayError, match="broken"):
        await track.find_time(0.0)


# Cost


def multiply_slices(directory: Path, count: int) -> None:
    """Make ``count`` slices, a second apart, of one with two groups half a second apart."""
    (template,) = files(directory, "slice-*.db")
    with sqlite3.connect(directory / "catalog.db") as catalog:
        columns = "state, created, recorded, bytes"
        row = catalog.execute(f"SELECT {columns} FROM slice").fetchone()
        content = catalog.execute("SELECT * FROM content").fetchone()
        for index in range(1, count):
            number = index + 1
            path = directory / f"slice-{number:08d}.db"
            shutil.copyfile(template, path)
            part = sqlite3.connect(path, isolation_level=None)
            part.execute("PRAGMA journal_mode=OFF")
            part.execute("PRAGMA synchronous=OFF")
            part.execute("PRAGMA user_version=0")  # as it was sealed by an earlier version
            part.execute(
                "UPDATE pack SET first_sequence=first_sequence+?, last_sequence=last_sequence+?,"
                " recorded=recorded+?",
                (2 * index, 2 * index, index),
            )
            part.close()
            state, created, recorded, size = row
            catalog.execute(
                "INSERT INTO slice(number, state, created, recorded, bytes) VALUES(?, ?, ?, ?, ?)",
                (number, state, created + index, recorded + index, size),
            )
            _, track, first, last, *rest = content
            moved = (number, track, first + 2 * index, last + 2 * index, *rest)
            marks = ", ".join("?" * len(moved))
            catalog.execute(f"INSERT INTO content VALUES({marks})", moved)
    catalog.close()


async def test_the_cost_does_not_grow_with_history(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    async with open_track(tmp_path) as (_, track):
        await track.write([whole(0)])
        mock_clock.jump(0.5)
        await track.write([whole(1)])
    multiply_slices(tmp_path, 1000)
    async with open_track(tmp_path) as (store, track):
        assert store.statistics().slices == 1000
        for second in (0, 1, 500, 998, 999):
            before = store.statistics().loads
            assert await track.find_time(START + second) == 2 * second
            assert await track.find_time(START + second + 0.25) == 2 * second + 1
            assert store.statistics().loads - before <= 1
        assert await track.find_time(START + 1000) is None


def test_looking_for_a_slice_looks_at_few() -> None:
    spans = SpanIndex()
    count = 2000
    for number in range(count):
        spans.extend(number, 10 * number, 10 * number + 9)
    times = SliceTimes(spans, {})
    asked: list[int] = []

    def recorded(number: int) -> float:
        asked.append(number)
        return float(number)

    for when in (-1.0, 0.5, 777.0, count - 1.0):
        asked.clear()
        place = times.find(when, recorded)
        assert place is not None
        assert place.slice == max(0, -int(-when // 1))
        assert len(asked) < 20
    assert times.find(float(count), recorded) is None


async def test_a_flood_of_questions_takes_one_thread(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    async with open_track(tmp_path) as (store, track):
        await track.write([whole(0)])
        mock_clock.jump(1.0)
        await track.write([whole(1)])
        slots = track.reading.slots
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                statistics = slots.statistics()
                most = max(most, statistics.borrowed_tokens + statistics.tasks_waiting)
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            async with trio.open_nursery() as asking:
                for _ in range(50):
                    asking.start_soon(track.find_time, START + 0.5)
            nursery.cancel_scope.cancel()
        assert store.statistics().loads == 50
        assert most == 1


# Against a model


@attrs.frozen
class Write:
    """Write to a group: a new one, or one that is open."""

    late: int  # the new one's sequence is so much below the next
    frames: int
    ends: bool
    open: int | None  # which of the open ones, if there is any


@attrs.frozen
class Advance:
    seconds: float


@attrs.frozen
class Restart:
    killed: bool
    clock: float  # seconds the wall clock is set forward or back by


@attrs.frozen
class Ask:
    """About every time that something was recorded at, and between."""


writes = st.builds(
    Write,
    late=st.sampled_from([0, 0, 0, 1, 2, 4, 5, 8]),  # one in three is used in order
    frames=st.integers(0, 2),
    ends=st.booleans(),
    open=st.none() | st.integers(0, 9),
)
steps = st.one_of(
    writes,
    writes,
    st.builds(Advance, st.sampled_from([0.25, 1.0, 3.0, 6.0, 15.0])),
    st.builds(Restart, st.booleans(), st.sampled_from([-1000.0, -3.0, 0.0, 2.0])),
    st.just(Ask()),
)


class Model:
    """What was recorded when, and a real store it was recorded in."""

    def __init__(self, directory: Path, clock: trio.testing.MockClock) -> None:
        self.directory = directory
        self.clock = clock
        self.wall = START
        self.stack = AsyncExitStack()
        self.recorded: dict[int, float] = {}
        self.open: dict[int, int] = {}  # how many frames there are
        self.generation = 0
        self.next_sequence = 5  # room for late ones

    async def start(self) -> None:
        self.store, self.track = await self.stack.enter_async_context(
            open_track(self.directory, wall=self.wall, retention=20.0)
        )
        self.free_from = self.track.next_sequence  # what is below counts as used
        self.next_sequence = max(self.next_sequence, self.free_from + 5)

    async def do(self, step: Write | Advance | Restart | Ask) -> None:
        match step:
            case Write():
                await self.write(step)
            case Advance(seconds):
                self.clock.jump(seconds)
                self.wall += seconds
                await self.store.apply_retention()
                held = await read_sequences(self.track, 10**6)
                for sequence in [each for each in self.open if each not in held]:
                    del self.open[sequence]  # its beginning has expired
            case Restart(killed, clock):
                await self.restart(killed=killed)
                self.wall += clock
                await self.start()
            case Ask():
                times = sorted(set(self.recorded.values()))[-12:]
                for when in (0.0, *times, *(each + 0.1 for each in times)):
                    await self.ask(when)

    async def write(self, step: Write) -> None:
        if step.open is not None and self.open:
            sequence = sorted(self.open)[step.open % len(self.open)]
        else:
            sequence = self.next_sequence - step.late
            if sequence in self.recorded or sequence < self.free_from:
                sequence = self.next_sequence
            if sequence == self.next_sequence:
                self.next_sequence += 3
        first = self.open.pop(sequence, 0)
        frames = frames_of(sequence, step.frames, 100, first=first)
        if not frames and not step.ends:
            frames = frames_of(sequence, 1, 100, first=first)
        if not step.ends:
            self.open[sequence] = first + len(frames)
        write = GroupWrite(sequence, first, frames, FINISHED if step.ends else None)
        await self.track.write([write])
        self.recorded[sequence] = self.track.now()

    async def restart(self, *, killed: bool) -> None:
        self.open.clear()  # nobody will go on with them
        if not killed:
            await self.stack.aclose()
            return
        self.generation += 1
        copy = self.directory.with_name(f"store-{self.generation}")
        shutil.copytree(self.directory, copy)  # as it is at this instant
        await self.stack.aclose()
        self.directory = copy

    async def ask(self, when: float) -> None:
        held = await read_sequences(self.track, 10**6)
        young = [each for each in held if self.recorded[each] >= when]
        found = await self.track.find_time(when)
        if found in held or found is None:
            assert found == min(young, default=None), (when, self.recorded)
        else:
            # A group without its beginning, which came out of order.
            event("a group whose beginning has expired")
            assert self.recorded[found] >= when
            assert found > held[0]
            assert found < min(young, default=found + 1)


@settings(max_examples=120)
@given(st.lists(steps, min_size=5, max_size=40))
def test_any_history(script: list[Write | Advance | Restart | Ask]) -> None:
    clock = trio.testing.MockClock()

    async def main() -> None:
        with tempfile.TemporaryDirectory() as directory:
            model = Model(Path(directory) / "store-0", clock)
            await model.start()
            async with model.stack:
                for step in script:
                    await model.do(step)
                await model.do(Ask())

    trio.run(main, clock=clock)
