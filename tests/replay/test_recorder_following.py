"""The recorder: what it tells of itself, an idle track, and when it has done its work."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import attrs
import pytest
import trio
from recorder_tools import GatedTrack, publish, recording
from trio.testing import MockClock, wait_all_tasks_blocked

from moqtrio.errors import ProtocolError, ReplayError
from moqtrio.model import RecordingStatistics, Track
from moqtrio.model.group import FINISHED
from moqtrio.model.log import LogLimits, TrackLog
from moqtrio.replay import GapWrite, GroupWrite, Recorder
from moqtrio.replay.memory import MemoryTrack
from moqtrio.replay.sqlite import SqliteStore


class Recorded:
    """A track store around one target, as a program would write it."""

    def __init__(self, nursery: trio.Nursery, target: MemoryTrack) -> None:
        self.nursery, self.target = nursery, target

    def attach(self, track: Track) -> MemoryTrack:
        self.nursery.start_soon(Recorder(track.log, self.target, name=track.name).run)
        return self.target


# An idle track


async def test_an_idle_track_lets_go_of_what_is_too_old(autojump_clock: MockClock) -> None:
    log, target = TrackLog(LogLimits(cache_age=5.0)), MemoryTrack()
    async with recording(log, target):
        going = publish(log, b"x", end=None)
        for _ in range(3):
            publish(log, b"x")
        await trio.sleep(4.9)
        assert log.statistics().groups == 4
        await trio.sleep(0.2)
        assert log.statistics().groups == 2, "the open one and the latest"
        log.end_group(going, FINISHED)
        await trio.sleep(0.2)
        assert log.statistics().groups == 1


async def test_an_idle_track_costs_nothing(autojump_clock: MockClock) -> None:
    class Counting(MemoryTrack):
        asked = 0

        @property
        def reserved_end(self) -> int:
            self.asked += 1
            return super().reserved_end

    log, target = TrackLog(), Counting()
    async with recording(log, target):
        publish(log, b"x")
        publish(log, b"x")
        await trio.sleep(100)
        asked = target.asked
        await trio.sleep(80_000)
        assert target.asked == asked


async def test_an_idle_track_lets_go_while_its_store_fails(autojump_clock: MockClock) -> None:
    log, target = TrackLog(LogLimits(cache_age=5.0)), MemoryTrack()
    async with recording(log, target):
        for _ in range(3):
            publish(log, b"x")
        await trio.sleep(1)
        target.fail(ReplayError("disk full"))
        publish(log, b"x")
        await trio.sleep(20)
        assert log.statistics().groups == 1


# The end of its work


async def test_it_ends_when_the_track_has_ended_and_all_is_done(autojump_clock: MockClock) -> None:
    log, target = TrackLog(LogLimits(cache_age=5.0)), GatedTrack()
    ended = trio.Event()

    async def run(recorder: Recorder) -> None:
        await recorder.run()
        ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, Recorder(log, target))
        await wait_all_tasks_blocked()
        going = publish(log, b"x", end=None)
        publish(log, b"x")
        log.finish()
        await trio.sleep(100)
        assert not ended.is_set(), "an open group goes on"
        target.write_gate = gate = trio.Event()
        log.end_group(going, FINISHED)
        await trio.sleep(100)
        assert not ended.is_set()
        gate.set()
        await trio.sleep(0.1)
        assert going.durable
        await trio.sleep(6)
        assert ended.is_set()
        assert log.statistics().groups == 1
        assert len(log.watchers) == 0


async def test_it_does_not_end_before_the_store_knows_what_was_lost(
    autojump_clock: MockClock,
) -> None:
    class Full(MemoryTrack):
        full = True

        async def write_gaps(self, gaps: Sequence[GapWrite]) -> None:
            if self.full:
                raise ReplayError("disk full")
            await super().write_gaps(gaps)

    log, target = TrackLog(LogLimits(cache_bytes=0, max_bytes=100)), Full()
    async with recording(log, target):
        publish(log, bytes(90))
        publish(log, bytes(90))
        log.finish()
        await trio.sleep(100)
        assert log.lost_ranges() == [(0, 1)]
        target.full = False
        await trio.sleep(10)
        assert log.lost_ranges() == []


# What it tells


async def test_statistics_say_how_far_behind_it_is(autojump_clock: MockClock) -> None:
    log, target = TrackLog(), GatedTrack()
    async with recording(log, target) as recorder:
        await trio.sleep(50)
        assert recorder.statistics().lag == 0
        target.write_gate = gate = trio.Event()
        group = publish(log, b"one", b"two", end=None)
        await trio.sleep(3)
        publish(log, b"four")
        await trio.sleep(2)
        statistics = recorder.statistics()
        assert statistics.lag == pytest.approx(5, abs=0.1)
        assert (statistics.behind_groups, statistics.behind_bytes) == (2, 10)
        assert (statistics.frames, statistics.bytes, statistics.commits) == (0, 0, 0)
        gate.set()
        await trio.sleep(100)
        statistics = recorder.statistics()
        assert statistics.lag == 0, "an open group that is quiet is not behind"
        assert (statistics.behind_groups, statistics.behind_bytes) == (1, 6)
        assert (statistics.frames, statistics.bytes, statistics.commits) == (3, 10, 2)
        target.write_gate = gate = trio.Event()
        log.write_frame(group, b"x", 0)
        await trio.sleep(1)
        assert recorder.statistics().lag == pytest.approx(1, abs=0.1)
        gate.set()
        await trio.sleep(1)
        assert log.statistics().recording == recorder.statistics()


async def test_lag_does_not_grow_while_it_keeps_up(autojump_clock: MockClock) -> None:
    log, target = TrackLog(), GatedTrack()
    async with recording(log, target) as recorder:
        going = publish(log, b"x", end=None)
        for _ in range(2000):
            log.write_frame(going, b"x", 0)
            publish(log, b"y")
            await trio.sleep(0.01)
            assert recorder.statistics().lag < 0.1


async def test_lag_is_that_of_the_oldest_frame_also_while_it_never_rests(
    autojump_clock: MockClock,
) -> None:
    class Busy(MemoryTrack):
        async def write(self, writes: Sequence[GroupWrite]) -> None:
            await trio.sleep(0.1)
            await super().write(writes)

    log, target = TrackLog(), Busy()
    async with recording(log, target) as recorder:
        going, quiet = publish(log, b"x", end=None), publish(log, end=None)
        for turn in range(1000):
            log.write_frame(going, b"x", 0)
            if turn > 500:
                log.write_frame(quiet, b"x", 0)
            await trio.sleep(0.01)
            assert recorder.statistics().lag < 0.3
        assert recorder.statistics().commits > 80


async def test_statistics_are_plain_data_for_a_status_page() -> None:
    async with trio.open_nursery() as nursery:
        track = Track("b", "t", store=Recorded(nursery, MemoryTrack()))
        said = json.loads(json.dumps(attrs.asdict(track.statistics())))
        assert set(said["recording"]) == set(attrs.fields_dict(RecordingStatistics))
        nursery.cancel_scope.cancel()
    assert Track("b", "t").statistics().recording is None


async def test_trouble_can_be_followed_and_none_is_missed(autojump_clock: MockClock) -> None:
    told: list[RecordingStatistics] = []

    async def follow(track: Track) -> None:
        seen = 0
        while True:
            told.append(await track.wait_trouble(seen))
            seen = told[-1].trouble

    target = MemoryTrack()
    limits = LogLimits(cache_bytes=0, max_bytes=100)
    async with trio.open_nursery() as nursery:
        track = Track("b", "t", store=Recorded(nursery, target), limits=limits)
        nursery.start_soon(follow, track)
        await trio.sleep(1)
        track.write_frame(b"fine")
        await trio.sleep(1)
        assert told == []
        target.fail(ReplayError("disk full"))
        track.write_frame(b"x")
        await trio.sleep(0.05)
        assert [(each.failures, each.last_error, each.failing) for each in told] == [
            (1, "disk full", True)
        ]
        for _ in range(3):
            track.write_frame(bytes(90))
        await trio.sleep(0.01)
        assert told[-1].lost == 3
        count = len(told)
        target.fail(None)
        await trio.sleep(100)
        assert track.statistics().recording is not None
        assert len(told) == count
        assert (await track.wait_trouble()).failing is False
        nursery.cancel_scope.cancel()
    assert len(track.log.watchers) == 0


async def test_there_is_no_trouble_to_follow_where_nothing_is_recorded() -> None:
    with pytest.raises(ProtocolError, match="b/t is not recorded"):
        await Track("b", "t").wait_trouble()


async def test_a_real_store_that_fails_says_so(tmp_path: Path) -> None:
    async with SqliteStore.open(tmp_path) as store:
        track = Track("b", "t", store=store)
        track.write_frame(b"x")
        await track.wait_durable()
        store._shelf._catalog.close()  # from now on nothing can be reserved
        for _ in range(1024):
            track.write_frame(b"x")
        recording = await track.wait_trouble()
        assert recording.last_error
        assert "closed database" in recording.last_error
        assert recording.failing
        assert recording.lost == 0
