"""The recorder: what cannot be stored is stored as a gap, and the rest goes on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from recorder_tools import GatedTrack, publish, recording, stored
from store_tools import eventually, frames_of, read_group, whole
from trio.testing import MockClock

from moqtrio.errors import ReplayError, StreamCode
from moqtrio.model import Origin
from moqtrio.model.group import FINISHED, Aborted
from moqtrio.model.log import LogLimits, TrackLog
from moqtrio.model.source import Missing, Ready
from moqtrio.replay import Dropped, GapWrite, GroupWrite, RecorderSettings, Resolver
from moqtrio.replay.memory import MemoryTrack
from moqtrio.replay.sqlite import SqliteStore

SMALL = LogLimits(cache_age=0, cache_bytes=0, max_bytes=100)


def resolve(log: TrackLog, target: MemoryTrack, start: int, end: int) -> list[object]:
    """What a subscriber from ``start`` on is told; groups as their sequence."""
    resolver = Resolver(log, target, start=start, end=end)
    resolver.cursor = start
    answers: list[object] = []
    while resolver.cursor < min(end, log.edge):
        answer = resolver.poll_next()
        assert isinstance(answer, Ready | Dropped), "the source does not fail"
        answers.append(answer.value.sequence if isinstance(answer, Ready) else answer)
    resolver.close()
    return answers


class Refusing(GatedTrack):
    """Never takes certain groups."""

    def __init__(self, *refused: int) -> None:
        super().__init__()
        self.refused = set(refused)

    async def write(self, writes: Sequence[GroupWrite]) -> None:
        for write in writes:
            if write.sequence in self.refused:
                raise ReplayError(f"not {write.sequence}", retryable=False)
        await super().write(writes)


class Full(GatedTrack):
    """Takes nothing more, but gives what it has."""

    full = False

    def _check_room(self) -> None:
        if self.full:
            raise ReplayError("disk full")

    async def write(self, writes: Sequence[GroupWrite]) -> None:
        self._check_room()
        await super().write(writes)

    async def write_gaps(self, gaps: Sequence[GapWrite]) -> None:
        self._check_room()
        await super().write_gaps(gaps)


# Gaps


async def test_what_was_lost_is_said_to_be_after_a_restart(autojump_clock: MockClock) -> None:
    log, target = TrackLog(SMALL), Full()
    async with recording(log, target):
        target.full = True
        for _ in range(10):
            publish(log, bytes(40))
        assert resolve(log, target, 0, 10) == [Dropped(0, 8, StreamCode.EVICTED), 8, 9]
        target.full = False
        await trio.sleep(20)
        assert log.lost_ranges() == []
        assert resolve(log, target, 0, 10) == [Dropped(0, 8, StreamCode.EVICTED), 8, 9]
    restarted = TrackLog()
    async with recording(restarted, target):
        assert resolve(restarted, target, 0, 99) == [Dropped(0, 8, StreamCode.EVICTED), 8, 9]


async def test_a_gap_is_told_from_what_never_was(autojump_clock: MockClock) -> None:
    log, target = TrackLog(SMALL), Full()
    async with recording(log, target):
        target.full = True
        for sequence in (3, 5, 6):
            group = log.create_group(sequence)
            log.write_frame(group, bytes(60), 0)
            log.end_group(group, FINISHED)
        expected = [Dropped(0, 3, 0), Dropped(3, 4, 53), Dropped(4, 5, 0), Dropped(5, 6, 53), 6]
        assert resolve(log, target, 0, 99) == expected
        target.full = False
        await trio.sleep(20)
        assert log.lost_ranges() == []
        assert resolve(log, target, 0, 99) == expected


async def test_more_lost_groups_than_are_kept_apart_never_look_absent(
    autojump_clock: MockClock,
) -> None:
    log, target = TrackLog(SMALL), Full()
    await target.reserve(10**6)
    async with recording(log, target):
        durable = publish(log, bytes(40))
        await trio.sleep(1)
        target.full = True
        used = range(10, 6010, 2)
        for sequence in used:
            group = log.create_group(sequence)
            log.write_frame(group, bytes(60), 0)
            log.end_group(group, FINISHED)
        for when in ("at once", "recorded"):
            answers = resolve(log, target, 0, 99999)
            assert answers[:2] == [durable.sequence, Dropped(1, 10, 0)], when
            coded = [answer for answer in answers if isinstance(answer, Dropped) and answer.code]
            dropped = {each for answer in coded for each in range(answer.start, answer.end)}
            assert set(used[:-1]) <= dropped
            assert answers[-1] == used[-1]
            target.full = False
            await trio.sleep(20)
            assert log.lost_ranges() == []
        assert len(target._gaps) <= 1024


async def test_what_is_stored_within_a_coarse_gap_is_found() -> None:
    track = MemoryTrack()
    await track.write([whole(5)])
    await track.write_gaps([GapWrite(0, 10, 53)])
    assert isinstance(track.poll_group(5), Ready)
    with pytest.raises(ReplayError):
        track.poll_group(4)
    await track.write([whole(4)])
    assert isinstance(track.poll_group(4), Ready)
    assert track.poll_group(10) == Missing(None)
    assert track.bounds().oldest == 4
    assert track.next_sequence == 10
    track.trim(8)
    assert track.poll_group(4) == Missing(8), "a gap that expired is a gap no more"


async def test_the_sqlite_store_remembers_gaps(tmp_path: Path) -> None:
    directory = tmp_path / "store"
    async with SqliteStore.open(directory, slice_bytes=1) as store:
        track = store.track("a", "b")
        await track.write([whole(0)])
        await track.write_gaps([GapWrite(1, 4, 53), GapWrite(6, 7, 60)])
        await track.write([whole(4), whole(9)])
        await track.write_gaps([GapWrite(7, 9, 53), GapWrite(12, 14, 53)])
        await track.write_gaps([])
        await check_gaps(store)
    async with SqliteStore.open(directory) as store:
        await check_gaps(store)
        assert store.track("a", "b").next_sequence == 14
        assert store.track("a", "b").reserved_end >= 14
        with pytest.raises(ReplayError, match="used before"):
            await store.track("a", "b").write([whole(13)])


async def check_gaps(store: SqliteStore) -> None:
    track = store.track("a", "b")
    for sequence in (0, 4, 9):
        assert await read_group(track, sequence) == (frames_of(sequence, 1, 100), FINISHED)
    assert (track.bounds().oldest, track.bounds().latest) == (0, 9)
    assert await read_group(track, 5) == Missing(6), "the next thing there is to say"
    assert await read_group(track, 10) == Missing(12)
    assert await read_group(track, 14) == Missing(None)
    for sequence in (1, 2, 3, 6, 7, 8, 12, 13):
        with pytest.raises(ReplayError, match="could not be recorded") as raised:
            await read_group(track, sequence)
        assert not raised.value.retryable
        assert raised.value.code == 53
    assert store.track("a", "other").poll_group(1) == Missing(None)


async def test_retention_forgets_gaps_with_the_groups_around_them(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with SqliteStore.open(tmp_path, slice_bytes=1, retention=1000) as store:
        track = store.track("a", "b")
        await track.write_gaps([GapWrite(0, 2, 53)])
        with pytest.raises(ReplayError):
            track.poll_group(1)
        await track.write([whole(2)])
        await trio.sleep(500)
        await track.write_gaps([GapWrite(3, 9, 53), GapWrite(11, 12, 53)])
        await track.write([whole(10)])
        with pytest.raises(ReplayError):
            track.poll_group(1)
        await trio.sleep(600)
        await store.apply_retention()
        assert track.bounds().oldest == 10
        assert track.poll_group(1) == track.poll_group(8) == Missing(10)
        with pytest.raises(ReplayError):
            track.poll_group(11)
        await trio.sleep(600)
        await track.write([whole(12)])
        await store.apply_retention()
        assert track.bounds().oldest == 12
        with pytest.raises(ReplayError):
            track.poll_group(11)  # younger than what expired last
        await trio.sleep(600)
        await track.write([whole(14)])
        await trio.sleep(600)
        await store.apply_retention()
        assert track.poll_group(11) == Missing(14)


async def test_gaps_that_expired_are_gone_after_a_restart_too(tmp_path: Path) -> None:
    async with SqliteStore.open(tmp_path, retention_bytes=4) as store:  # keeps nothing
        track = store.track("a", "b")
        await track.write([whole(0)])
        await track.write_gaps([GapWrite(1, 2, 53), GapWrite(3, 6, 53)])
        await track.write([whole(4)])
        await store.apply_retention()
        assert track.bounds().oldest is None
    async with SqliteStore.open(tmp_path) as store:
        gaps = store.track("a", "b").gaps
        assert [(gap.start, gap.end) for gap in gaps] == [(5, 6)]


async def test_a_gap_that_cannot_be_written_is_kept_and_tried_again(
    autojump_clock: MockClock,
) -> None:
    class NoGaps(MemoryTrack):
        refuses = True

        async def write_gaps(self, gaps: Sequence[GapWrite]) -> None:
            if self.refuses:
                raise ReplayError("the catalog's disk is full")
            await super().write_gaps(gaps)

    log, target = TrackLog(SMALL), NoGaps()
    async with recording(log, target) as recorder:
        for _ in range(4):
            publish(log, bytes(60))
        await trio.sleep(10)
        assert 2 < recorder.statistics().failures < 20
        assert recorder.statistics().failing
        assert resolve(log, target, 0, 4) == [Dropped(0, 3, 53), 3]
        later = publish(log, bytes(60))
        await trio.sleep(10)
        assert later.durable, "the groups are recorded all the same"
        target.refuses = False
        await trio.sleep(10)
        assert log.lost_ranges() == []
        assert not recorder.statistics().failing


async def test_a_full_disk_and_a_restart_of_a_real_store(tmp_path: Path) -> None:
    """The whole way: lost while the store fails, recorded as a gap, found by the next run."""
    directory = tmp_path / "store"
    async with SqliteStore.open(directory) as store:
        track = (
            Origin()
            .create_broadcast("a")
            .create_track("b", store=store, cache_bytes=0, max_bytes=1000)
        )
        track.write_frame(b"first")
        await track.wait_durable()
        blocker = store._shelf._lock  # as good as a disk that hangs
        await blocker.acquire()
        for _ in range(5):
            track.write_frame(bytes(600))
        assert track.statistics().lost >= 3
        blocker.release()
        await track.wait_durable()
        await eventually(lambda: not track.log.lost_ranges())
        lost = [each for each in range(6) if each in track_gaps(store)]
        assert len(lost) == track.statistics().lost
    async with SqliteStore.open(directory) as store:
        for sequence in lost:
            with pytest.raises(ReplayError, match="could not be recorded"):
                await read_group(store.track("a", "b"), sequence)


def track_gaps(store: SqliteStore) -> set[int]:
    return {each for gap in store.track("a", "b").gaps for each in range(gap.start, gap.end)}


# Groups that no repetition can record


async def test_a_group_the_store_refuses_is_given_up_and_no_other(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    log, target = TrackLog(), Refusing(3, 17)
    async with recording(log, target) as recorder:
        groups = [publish(log, b"x") for _ in range(40)]
        await trio.sleep(1)
        assert [group.sequence for group in groups if group.lost] == [3, 17]
        assert all(group.durable for group in groups if not group.lost)
        assert sorted(stored(target)) == [s for s in range(40) if s not in (3, 17)]
        assert log.durable_end == 40
        assert len(target.writes) < 30, "not one commit for each group"
        statistics = recorder.statistics()
        assert (statistics.failures, statistics.lost, statistics.trouble) == (2, 2, 4)
        assert (statistics.failing, statistics.last_error) == (False, "not 17")
        assert resolve(log, target, 0, 5) == [0, 1, 2, 3, 4], "live goes on"
        assert "group 3 cannot be recorded and is given up: not 3" in caplog.text
    assert resolve_after_restart(target, 5) == [0, 1, 2, Dropped(3, 4, 53), 4]


def resolve_after_restart(target: MemoryTrack, end: int) -> list[object]:
    log = TrackLog()
    log.begin_recording(target.next_sequence, target.reserved_end)
    return resolve(log, target, 0, end)


async def test_a_group_refused_half_way_is_never_whole(autojump_clock: MockClock) -> None:
    log, target = TrackLog(), Refusing()
    async with recording(log, target):
        group = publish(log, b"one", end=None)
        await trio.sleep(1)
        target.refused.add(0)
        log.write_frame(group, b"two", 0)
        await trio.sleep(1)
        assert group.lost
        assert log.unrecorded() == [], "it does not take the news of it either"
        log.write_frame(group, b"three", 0)
        log.end_group(group, FINISHED)
        publish(log, b"x")
        await trio.sleep(1)
        assert log.durable_end == 2
        assert not log.is_behind(0)


async def test_a_part_of_a_refused_group_ends_with_an_error(autojump_clock: MockClock) -> None:
    class RefusingFrames(Refusing):
        async def write(self, writes: Sequence[GroupWrite]) -> None:
            taken = [write for write in writes if write.frames]
            await Refusing.write(self, taken or writes) if taken else None
            if not taken:
                await GatedTrack.write(self, writes)

    log, target = TrackLog(), RefusingFrames()
    async with recording(log, target):
        group = publish(log, b"one", end=None)
        await trio.sleep(1)
        target.refused.add(0)
        log.write_frame(group, b"two", 0)
        await trio.sleep(1)
        assert stored(target)[0] == (group.frames[:1], Aborted(StreamCode.EVICTED))
        assert not log.is_behind(0)


async def test_a_refusal_while_retryable_errors_come_and_go(autojump_clock: MockClock) -> None:
    class Flaky(Refusing):
        calls = 0

        async def write(self, writes: Sequence[GroupWrite]) -> None:
            self.calls += 1
            if self.calls % 3 == 0:
                raise ReplayError("hiccup")
            await super().write(writes)

    log, target = TrackLog(), Flaky(5)
    async with recording(log, target):
        groups = [publish(log, b"x") for _ in range(20)]
        await trio.sleep(60)
    assert [group.sequence for group in groups if group.lost] == [5]
    assert sorted(stored(target)) == [s for s in range(20) if s != 5]


# Whatever happens

plans = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(0, 90), st.integers(1, 3)),
        st.tuples(st.just("sleep"), st.integers(0, 3), st.just(0)),
        st.tuples(st.just("fail"), st.integers(0, 1), st.just(0)),
        st.tuples(st.just("refuse"), st.integers(0, 12), st.just(0)),
        st.tuples(st.just("restart"), st.just(0), st.just(0)),
    ),
    min_size=4,
    max_size=30,
)


@settings(max_examples=150)
@given(plans)
def test_over_restarts_each_group_is_stored_or_said_to_be_lost(
    plan: list[tuple[str, int, int]],
) -> None:
    """No sequence is used twice, and none that was used ever looks as if it was not, if the
    store worked for a moment before the restart."""

    async def main() -> None:
        target = Refusing()
        published: dict[int, bytes] = {}
        steps = [*plan, ("restart", 0, 0)]
        while steps:
            log = TrackLog(LogLimits(cache_age=1, cache_bytes=50, max_bytes=100))
            async with recording(log, target, RecorderSettings(interval=0.01)):
                while steps:
                    action, number, skip = steps.pop(0)
                    if action == "publish":
                        group = log.create_group(log.next_sequence + skip - 1)
                        assert group.sequence not in published
                        payload = b"%d|" % len(published) + bytes(number)
                        published[group.sequence] = payload
                        log.write_frame(group, payload, 0)
                        log.end_group(group, FINISHED)
                    elif action == "sleep":
                        await trio.sleep(number)
                    elif action == "fail":
                        target.fail(ReplayError("broken") if number else None)
                    elif action == "refuse":
                        target.refused.add(number)
                    else:
                        target.fail(None)
                        await trio.sleep(20)
                        assert not log.is_behind(0)
                        break
                check(target, published, log)

    def check(target: Refusing, published: dict[int, bytes], log: TrackLog) -> None:
        for answer in resolve(log, target, 0, log.edge):
            if isinstance(answer, Dropped):
                used = [each for each in range(answer.start, answer.end) if each in published]
                assert bool(used) <= bool(answer.code)
            else:
                assert answer in published
        for sequence, (frames, end) in stored(target).items():
            assert [frame.payload for frame in frames] == [published[sequence]]
            assert end == FINISHED

    trio.run(main, clock=MockClock(autojump_threshold=0))
