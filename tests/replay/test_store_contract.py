"""What every store must do, shown of both."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from store_tools import (
    eventually,
    find_group,
    frames_of,
    read_group,
    read_sequences,
    read_some,
    whole,
)

from moqtrio.errors import ReplayError
from moqtrio.model.frame import Frame
from moqtrio.model.group import FINISHED, Aborted, GroupEnd
from moqtrio.model.source import END, Missing, Pending, Ready
from moqtrio.replay.memory import MemoryStore
from moqtrio.replay.sqlite import SqliteStore
from moqtrio.replay.target import GroupWrite, ReplayTarget

KINDS = ["memory", "sqlite"]
OpenTrack = Callable[[], AbstractAsyncContextManager[ReplayTarget]]


def opener(kind: str, directory: Path) -> OpenTrack:
    """How to open a track; opening it again is a restart, which memory does not notice."""
    memory = MemoryStore()

    @asynccontextmanager
    async def open_track() -> AsyncIterator[ReplayTarget]:
        if kind == "memory":
            yield memory.track("live/a", "all")
            return
        # Small limits: even a short test goes over several slices and evicts its cache.
        async with SqliteStore.open(
            directory, slice_bytes=150_000, cache_bytes=512 * 1024
        ) as store:
            yield store.track("live/a", "all")

    return open_track


@pytest.fixture(params=KINDS)
def open_track(request: pytest.FixtureRequest, tmp_path: Path) -> OpenTrack:
    return opener(request.param, tmp_path / "store")


@attrs.define
class Model:
    """What the store should hold."""

    groups: dict[int, list[Frame]] = attrs.Factory(dict)
    ends: dict[int, GroupEnd | None] = attrs.Factory(dict)
    lost: set[int] = attrs.Factory(set)  # open when the store was closed
    first_free: int = 0

    def write(self, writes: list[GroupWrite]) -> None:
        for write in writes:
            self.groups.setdefault(write.sequence, []).extend(write.frames)
            self.ends[write.sequence] = write.end

    def open_groups(self) -> list[int]:
        return [each for each, end in self.ends.items() if end is None and each not in self.lost]


timestamps = st.integers(-(2**63), 2**63 - 1) | st.integers(0, 10**6)
payloads = st.binary(max_size=20) | st.builds(
    lambda size, fill: bytes([fill]) * size, st.integers(0, 100_000), st.integers(0, 255)
)
frame_lists = st.lists(st.builds(Frame, payloads, timestamps), max_size=5)
ends = st.none() | st.just(FINISHED) | st.builds(Aborted, st.integers(0, 2**62 - 1))


@st.composite
def a_batch(draw: st.DrawFn, model: Model) -> list[GroupWrite]:
    """Writes that go on with open groups and begin new ones, in any order."""
    writes = []
    lengths: dict[int, int] = {}
    for _ in range(draw(st.integers(1, 6))):
        open_groups = [each for each in model.open_groups() if each not in lengths]
        if open_groups and draw(st.booleans()):
            sequence = draw(st.sampled_from(open_groups))
        else:
            above = st.integers(model.first_free, model.first_free + 12)
            sequence = draw(above | st.integers(2**62 - 3, 2**62 - 1))
            if not model.first_free <= sequence < 2**62 or sequence in lengths:
                continue
            if sequence in model.groups:
                continue
        first = len(model.groups.get(sequence, ()))
        write = GroupWrite(sequence, first, draw(frame_lists), draw(ends))
        lengths[sequence] = 1
        writes.append(write)
    return writes


async def check(track: ReplayTarget, model: Model, max_bytes: int) -> None:
    """The store holds what the model holds, and says so of every sequence."""
    known = sorted(model.groups)
    assert track.bounds().oldest == (known[0] if known else None)
    assert track.bounds().latest == (known[-1] if known else None)
    for sequence in known:
        expected = model.groups[sequence]
        if model.ends[sequence] is None and sequence not in model.lost:
            reader = await find_group(track, sequence)
            assert not isinstance(reader, Missing)
            frames: list[Frame] = []
            while len(frames) < len(expected):
                frames += await read_some(reader, max_bytes)
            while isinstance(answer := reader.poll_frames(max_bytes), Pending):
                with trio.move_on_after(0.005) as scope:
                    await answer.wait()
                if scope.cancelled_caught:
                    break
            assert isinstance(answer, Pending)
            reader.close()
            assert frames == expected
        else:
            end = None if sequence in model.lost else model.ends[sequence]
            # An error with code 0 reads as None: see read_group.
            end = None if end == Aborted(0) else end
            assert await read_group(track, sequence, max_bytes) == (expected, end)
    for before, after in zip([-1, *known], [*known, None], strict=True):
        if before + 1 not in model.groups:
            assert await find_group(track, before + 1) == Missing(after)
        if after is not None and after - 1 > before:
            assert await find_group(track, after - 1) == Missing(after)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25)
@given(data=st.data())
def test_what_was_written_is_read(kind: str, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as directory:
        trio.run(_write_and_read, opener(kind, Path(directory)), kind, data)


async def _write_and_read(open_track: OpenTrack, kind: str, data: st.DataObject) -> None:
    model = Model()
    max_bytes = data.draw(st.sampled_from([1, 100, 65536, 10**9]))
    for _ in range(data.draw(st.integers(1, 3))):
        async with open_track() as track:
            if kind == "sqlite":
                last = max(model.groups, default=-1)
                assert track.next_sequence == last + 1
                model.first_free = last + 1
            await check(track, model, max_bytes)
            for _ in range(data.draw(st.integers(0, 4))):
                batch = data.draw(a_batch(model))
                await track.write(batch)
                model.write(batch)
                if data.draw(st.booleans()):
                    await check(track, model, max_bytes)
            await check(track, model, max_bytes)
        if kind == "sqlite":
            model.lost.update(model.open_groups())


async def test_an_empty_track_has_nothing(open_track: OpenTrack) -> None:
    async with open_track() as track:
        assert track.poll_group(0) == Missing(None)
        assert track.bounds().oldest is None
        assert track.bounds().durable_end == track.next_sequence == track.reserved_end == 0
        assert 0 <= track.bounds().epoch < 2**62


async def test_reserving_is_remembered_and_never_goes_back(open_track: OpenTrack) -> None:
    async with open_track() as track:
        await track.reserve(100)
        await track.reserve(50)
        assert track.reserved_end == 100
        epoch = track.bounds().epoch
    async with open_track() as track:
        await track.reserve(1)
        assert track.reserved_end == 100
        assert track.bounds().epoch == epoch


async def test_the_durable_end_moves_up_only(open_track: OpenTrack) -> None:
    async with open_track() as track:
        await track.write([whole(0), whole(1)])
        track.set_durable_end(2)
        track.set_durable_end(1)
        assert track.bounds().durable_end == 2


async def test_a_reader_follows_a_group_that_is_being_written(open_track: OpenTrack) -> None:
    async with open_track() as track:
        await track.write([GroupWrite(3, 0, frames_of(3, 2, 10), None)])
        reader = await find_group(track, 3)
        assert not isinstance(reader, Missing)
        assert await read_some(reader) == frames_of(3, 2, 10)

        received: list[Frame] = []

        async def follow() -> None:
            while some := await read_some(reader):
                received.extend(some)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            await trio.testing.wait_all_tasks_blocked()
            await track.write([GroupWrite(3, 2, frames_of(3, 40, 5000, first=2), None)])
            await eventually(lambda: len(received) == 40)
            await track.write([whole(4)])
            await track.write([GroupWrite(3, 42, (), FINISHED)])
        assert received == frames_of(3, 40, 5000, first=2)
        assert reader.poll_frames(1) is END
        reader.close()
        reader.close()


async def test_an_aborted_group_ends_with_its_code(open_track: OpenTrack) -> None:
    async with open_track() as track:
        await track.write([whole(0, 3, end=Aborted(77))])
        reader = await find_group(track, 0)
        assert not isinstance(reader, Missing)
        assert await read_some(reader) == frames_of(0, 3, 100)
        for _ in range(2):
            with pytest.raises(ReplayError, match="aborted") as raised:
                await read_some(reader)
            assert raised.value.code == 77
            assert not raised.value.retryable
        reader.close()


async def test_pieces_are_about_as_large_as_asked_for(open_track: OpenTrack) -> None:
    async with open_track() as track:
        await track.write([whole(0, count=100, size=1000)])
        reader = await find_group(track, 0)
        assert not isinstance(reader, Missing)
        assert len(await read_some(reader, 1)) == 1
        assert 1 <= len(await read_some(reader, 10_000)) <= 10
        assert len(await read_some(reader, 10**9)) > 40
        reader.close()


@pytest.mark.parametrize(
    "bad",
    [
        [GroupWrite(5, 1, frames_of(5, 1, 10), None)],
        [whole(0)],
        [whole(5), whole(5)],
        [whole(5), GroupWrite(1, 1, frames_of(1, 1, 10), None)],
        [GroupWrite(1, 3, frames_of(1, 1, 10), None)],
    ],
    ids=["starts late", "ended", "twice", "one of two", "leaves a hole"],
)
async def test_a_batch_that_cannot_be_is_refused_whole(
    open_track: OpenTrack, bad: list[GroupWrite]
) -> None:
    async with open_track() as track:
        await track.write([whole(0), GroupWrite(1, 0, frames_of(1, 2, 10), None), whole(2)])
        with pytest.raises(ReplayError, match="nothing of this batch was recorded") as raised:
            await track.write(bad)
        assert not raised.value.retryable
        assert await read_sequences(track, 10) == [0, 1, 2]
        await track.write([GroupWrite(1, 2, (), FINISHED)])
        assert await read_group(track, 1) == (frames_of(1, 2, 10), FINISHED)


async def test_a_group_given_up_on_may_end_after_a_hole(open_track: OpenTrack) -> None:
    async with open_track() as track:
        await track.write([GroupWrite(1, 0, frames_of(1, 2, 10), None)])
        await track.write([GroupWrite(1, 9, (), Aborted(53)), GroupWrite(2, 4, (), Aborted(53))])
        assert await read_group(track, 1) == (frames_of(1, 2, 10), Aborted(53))
        assert await read_group(track, 2) == ([], Aborted(53))


async def test_late_groups_change_what_was_said_to_be_missing(open_track: OpenTrack) -> None:
    async with open_track() as track:
        await track.write([whole(0), whole(9)])
        assert await find_group(track, 3) == Missing(9)
        await track.write([whole(5)])
        assert await find_group(track, 3) == Missing(5)
        await track.write([whole(3, count=50, size=4000)])
        assert await read_group(track, 3) == (frames_of(3, 50, 4000), FINISHED)
        assert await read_sequences(track, 20) == [0, 3, 5, 9]
        assert await find_group(track, 10) == Missing(None)
        await track.write([whole(12)])
        assert await find_group(track, 10) == Missing(12)


async def test_cancelling_a_write_leaves_it_whole_or_undone(open_track: OpenTrack) -> None:
    async with open_track() as track:
        for sequence in range(20):
            with trio.move_on_after(0.0005 * (sequence % 4)):
                await track.write([whole(sequence), whole(sequence + 100, 30, 3000)])
        have = set(await read_sequences(track, 1000))
        assert {each + 100 for each in have if each < 100} == {each for each in have if each >= 100}
        for each in have:
            expected = frames_of(each, 1, 100) if each < 100 else frames_of(each, 30, 3000)
            assert await read_group(track, each) == (expected, FINISHED)


async def test_many_readers_of_one_group_get_the_same(open_track: OpenTrack) -> None:
    async with open_track() as track:
        await track.write([whole(0, 300, 4000)])
        done: list[bool] = []

        async def read(max_bytes: int) -> None:
            assert await read_group(track, 0, max_bytes) == (frames_of(0, 300, 4000), FINISHED)
            done.append(True)

        async with trio.open_nursery() as nursery:
            for index in range(20):
                nursery.start_soon(read, 1000 * (index + 1))
        assert len(done) == 20


async def test_an_answer_is_ready_or_says_when_it_will_be(open_track: OpenTrack) -> None:
    async with open_track() as track:
        await track.write([whole(0)])
        answer = track.poll_group(0)
        if isinstance(answer, Pending):
            await answer.wait()
            await answer.wait()  # As often as one likes.
            answer = track.poll_group(0)
        assert isinstance(answer, Ready)
        assert answer.value.sequence == 0
        answer.value.close()
