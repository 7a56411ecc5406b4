"""The recorder: what is published is stored, or said to be lost."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from recorder_tools import GatedTrack, content, publish, recording, stored
from trio.testing import MockClock

from moqtrio.errors import ReplayError, StreamCode
from moqtrio.model.group import FINISHED, Aborted, Group
from moqtrio.model.log import LogLimits, TrackLog
from moqtrio.replay import (
    PARKED,
    Dropped,
    GroupWrite,
    Ready,
    RecorderSettings,
    Resolver,
)
from moqtrio.replay.memory import MemoryTrack

# Recording


async def test_groups_frames_and_ends_are_stored_as_they_were_published(
    autojump_clock: MockClock,
) -> None:
    log, target = TrackLog(), MemoryTrack()
    async with recording(log, target):
        whole = publish(log, b"a", b"", b"c" * 1000)
        empty = publish(log)
        aborted = publish(log, b"part", end=Aborted(70))
        going = publish(log, b"first", end=None)
        await trio.sleep(0.1)
        assert stored(target) == content(whole, empty, aborted, going)
        assert (log.durable_end, target.bounds().durable_end) == (3, 3)
        log.write_frame(going, b"second", 6)
        await trio.sleep(0.1)
        log.write_frame(going, b"third", 5)
        log.end_group(going, FINISHED)
        await trio.sleep(0.1)
        assert stored(target)[3] == (going.frames, FINISHED)
        assert target.bounds().durable_end == 4
    assert all(group.durable for group in (whole, empty, aborted, going))
    assert len(log.watchers) == 0


async def test_what_is_published_is_durable_within_the_interval(autojump_clock: MockClock) -> None:
    log, target = TrackLog(), GatedTrack()
    async with recording(log, target) as recorder:
        await trio.sleep(10)
        before = trio.current_time()
        for _ in range(50):
            publish(log, b"x")
        await trio.sleep(1)
        assert target.written_at[0] - before == pytest.approx(0.02)
        assert len(target.writes[0]) == 50, "one commit for all that came meanwhile"
        statistics = recorder.statistics()
        assert (statistics.frames, statistics.bytes, statistics.commits) == (50, 50, 1)
        assert (statistics.failures, statistics.last_error) == (0, None)


async def test_a_commit_is_bounded_in_bytes(autojump_clock: MockClock) -> None:
    log, target = TrackLog(), GatedTrack()
    settings = RecorderSettings(batch_bytes=100)
    async with recording(log, target, settings):
        groups = [publish(log, bytes(60)) for _ in range(6)]
        await trio.sleep(1)
        assert [len(batch) for batch in target.writes] == [2, 2, 2]
        assert stored(target) == content(*groups)


async def test_groups_in_any_order_are_stored(autojump_clock: MockClock) -> None:
    log, target = TrackLog(), MemoryTrack()
    async with recording(log, target):
        for sequence in (7, 3, 2000, 5):
            group = log.create_group(sequence)
            log.write_frame(group, b"%d" % sequence, 0)
            log.end_group(group, FINISHED)
        await trio.sleep(1)
        assert sorted(stored(target)) == [3, 5, 7, 2000]
        assert log.edge == 2001


# Sequences


async def test_a_restart_goes_on_with_the_next_sequence(autojump_clock: MockClock) -> None:
    target = MemoryTrack()
    for run in range(3):
        log = TrackLog()
        async with recording(log, target):
            assert log.next_sequence == run * 5
            for _ in range(5):
                publish(log, b"run %d" % run)
            assert log.latest == run * 5 + 4, "visible at once: these were reserved before"
            await trio.sleep(1)
    assert sorted(stored(target)) == list(range(15))
    assert {g[0][0].payload for s, g in stored(target).items() if s < 5} == {b"run 0"}


async def test_a_restart_uses_no_sequence_again_that_was_not_recorded(
    autojump_clock: MockClock,
) -> None:
    log, target = TrackLog(), MemoryTrack()
    async with recording(log, target):
        publish(log, b"recorded")
        await trio.sleep(1)
        target.fail(ReplayError("disk full"))
        for _ in range(3):
            publish(log, b"seen, and gone")
        assert log.edge == 4
    target.fail(None)
    async with recording(TrackLog(), target) as recorder:
        assert recorder._log.next_sequence == 4


async def test_nothing_is_seen_before_it_is_reserved(autojump_clock: MockClock) -> None:
    log, target = TrackLog(), GatedTrack()
    target.reserve_gate = trio.Event()
    resolver = Resolver(log, target, start=0, end=None)
    async with recording(log, target):
        publish(log, b"early")
        await trio.sleep(100)
        assert isinstance(resolver.poll_start(), Ready)
        assert resolver.poll_next() is PARKED
        told: list[None] = []
        log.watchers.add(lambda: told.append(None))
        target.reserve_gate.set()
        await trio.sleep(1)
        assert told, "whoever waits at the edge must hear of it"
        assert isinstance(resolver.poll_next(), Ready)


async def test_sequences_are_reserved_ahead_of_a_fast_publisher(autojump_clock: MockClock) -> None:
    log, target = TrackLog(), MemoryTrack()
    hidden = 0
    async with recording(log, target):
        for _ in range(20_000):
            publish(log)
            hidden += log.edge != log.next_sequence
            if log.next_sequence % 100 == 0:
                await trio.sleep(0.05)
        assert hidden == 0
        assert target.reserved_end >= 20_000
        assert target.reserved_end <= 20_000 + 65536 * 2, "a kill must not waste without bound"


# Trouble


async def test_live_goes_on_while_the_store_fails_and_nothing_is_lost_below_the_cap(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    log, target = TrackLog(LogLimits(cache_age=1)), MemoryTrack()
    resolver = Resolver(log, target, start=0, end=None)
    async with recording(log, target) as recorder:
        target.fail(ReplayError("disk full"))
        groups = []
        for _ in range(60):
            groups.append(publish(log, b"x"))
            await trio.sleep(1)
        assert isinstance(resolver.poll_start(), Ready)
        for _ in range(60):
            assert isinstance(resolver.poll_next(), Ready)
        statistics = recorder.statistics()
        assert statistics.last_error == "disk full"
        # 0.1, 0.2 ... 5 s with jitter: about 18 tries in a minute, never a busy loop.
        assert 12 <= statistics.failures <= 30
        assert log.statistics().unrecorded == 60
        assert "b/t: recording failed, live goes on" in caplog.text
        target.fail(None)
        await trio.sleep(10)
        assert stored(target) == content(*groups)
        assert log.statistics().lost == 0
        assert log.statistics().groups == 1


async def test_the_pause_is_short_again_after_a_success(autojump_clock: MockClock) -> None:
    class Flaky(GatedTrack):
        """Fails every other time while it catches up."""

        async def write(self, writes: Sequence[GroupWrite]) -> None:
            self.fail(ReplayError("hiccup") if len(self.writes) % 2 else None)
            await super().write(writes)

    log, target = TrackLog(), Flaky()
    async with recording(log, target, RecorderSettings(batch_bytes=1)) as recorder:
        for _ in range(20):
            publish(log, b"x")
        await trio.sleep(60)
        assert not log.unrecorded()
        assert recorder.statistics().failures >= 15
        pauses = [after - before for before, after in pairwise(target.written_at)]
        assert max(pauses) < 0.2


async def test_beyond_the_hard_cap_what_was_never_stored_is_lost_and_said_to_be(
    autojump_clock: MockClock,
) -> None:
    log = TrackLog(LogLimits(cache_age=0, cache_bytes=0, max_bytes=100))
    target = MemoryTrack()
    async with recording(log, target):
        target.fail(ReplayError("disk full"))
        for _ in range(10):
            publish(log, bytes(40))
        target.fail(None)
        await trio.sleep(20)
        assert log.statistics().lost == 8
        assert sorted(stored(target)) == [8, 9]
        resolver = Resolver(log, target, start=0, end=None)
        resolver.cursor = 0
        assert resolver.poll_next() == Dropped(0, 8, StreamCode.EVICTED)


async def test_a_lost_group_of_which_a_part_is_stored_is_never_whole(
    autojump_clock: MockClock,
) -> None:
    log = TrackLog(LogLimits(cache_bytes=0, max_bytes=100))
    target = MemoryTrack()
    async with recording(log, target):
        group = publish(log, b"stored", end=None)
        await trio.sleep(1)
        target.fail(ReplayError("disk full"))
        log.write_frame(group, bytes(90), 0)
        log.end_group(group, FINISHED)  # those who follow live get it whole
        publish(log, bytes(90))
        assert group.lost
        target.fail(None)
        await trio.sleep(20)
    frames, end = stored(target)[0]
    assert [frame.payload for frame in frames] == [b"stored"]
    assert end == Aborted(StreamCode.EVICTED)


async def test_a_lost_group_is_not_kept_in_memory_for_what_is_not_stored(
    autojump_clock: MockClock,
) -> None:
    log = TrackLog(LogLimits(cache_bytes=0, max_bytes=100))
    target = MemoryTrack()
    async with recording(log, target):
        target.fail(ReplayError("disk full"))
        for _ in range(1000):
            publish(log, bytes(60))
        assert len(log.unrecorded()) == 1
        assert log.statistics().bytes <= 160


async def test_a_group_lost_while_its_last_commit_is_under_way_is_not_lost(
    autojump_clock: MockClock,
) -> None:
    log = TrackLog(LogLimits(cache_bytes=0, max_bytes=100))
    target = GatedTrack()
    async with recording(log, target):
        target.write_gate = trio.Event()
        group = publish(log, bytes(60))
        await trio.sleep(1)
        publish(log, bytes(60))
        assert group.lost
        target.write_gate.set()
        await trio.sleep(1)
        assert not group.lost
        assert log.lost_until(0) is None
        resolver = Resolver(log, target, start=0, end=None)
        assert resolver.poll_start() == Ready(0)
        assert isinstance(resolver.poll_next(), Ready)


async def test_a_group_lost_while_its_first_commit_is_under_way_gets_its_end(
    autojump_clock: MockClock,
) -> None:
    log = TrackLog(LogLimits(cache_bytes=0, max_bytes=100))
    target = GatedTrack()
    async with recording(log, target):
        target.write_gate = trio.Event()
        group = publish(log, bytes(60), end=None)
        await trio.sleep(1)
        publish(log, bytes(60))
        assert group.lost
        target.write_gate.set()
        await trio.sleep(1)
        assert isinstance(stored(target)[0][1], Aborted), "or a reader would wait for ever"
        assert log.durable_end == 2


# Cancelling


async def test_cancelling_records_what_is_in_memory(autojump_clock: MockClock) -> None:
    log, target = TrackLog(), GatedTrack()
    async with recording(log, target):
        await trio.sleep(1)
        groups = [publish(log, b"x" * n) for n in range(200)]
        going = publish(log, b"unfinished", end=None)
    assert stored(target) == content(*groups, going)
    assert len(log.watchers) == 0


async def test_cancelling_waits_for_a_commit_under_way_and_repeats_nothing(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    log, target = TrackLog(), GatedTrack()
    target.write_gate = gate = trio.Event()

    async def open_gate() -> None:
        await trio.sleep(3)
        gate.set()

    async with trio.open_nursery() as nursery, recording(log, target):
        groups = [publish(log, b"one")]
        await trio.sleep(1)
        groups.append(publish(log, b"two"))
        nursery.start_soon(open_gate)
    assert stored(target) == content(*groups)
    assert len(target.writes) == 2
    assert not caplog.records


async def test_cancelling_gives_a_stuck_store_up_after_the_drain_timeout(
    autojump_clock: MockClock,
) -> None:
    log, target = TrackLog(), GatedTrack()
    with trio.fail_after(60):
        async with recording(log, target):
            target.write_gate = trio.Event()
            publish(log, b"x")
            before = trio.current_time()
    assert trio.current_time() - before == pytest.approx(5.0, abs=0.1)


async def test_cancelling_with_a_failing_store_ends_at_once_and_says_so(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    log, target = TrackLog(), MemoryTrack()
    async with recording(log, target):
        target.fail(ReplayError("disk full"))
        publish(log, b"x")
        before = trio.current_time()
    assert trio.current_time() - before < 5
    assert "the end of the track was not recorded: disk full" in caplog.text


# Whatever happens

plans = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.lists(st.integers(0, 80), max_size=4), st.booleans()),
        st.tuples(st.just("sleep"), st.floats(0, 2)),
        st.tuples(st.just("fail"), st.booleans()),
        st.tuples(st.just("write"), st.integers(0, 3)),
        st.tuples(st.just("slow"), st.floats(0, 1)),
    ),
    min_size=5,
    max_size=40,
)


class SlowTrack(MemoryTrack):
    delay = 0.0

    async def write(self, writes: Sequence[GroupWrite]) -> None:
        await trio.sleep(self.delay)
        await super().write(writes)


@settings(max_examples=150)
@given(plans)
def test_published_is_stored_or_lost_and_never_both(plan: list[tuple[object, ...]]) -> None:
    async def main() -> None:
        log = TrackLog(LogLimits(cache_age=0.5, cache_bytes=100, max_bytes=200))
        target = SlowTrack()
        groups: list[Group] = []
        async with recording(log, target):
            for action, *arguments in plan:
                if action == "publish":
                    sizes, ended = arguments
                    assert isinstance(sizes, list)
                    end = FINISHED if ended else None
                    groups.append(publish(log, *(bytes(size) for size in sizes), end=end))
                elif action == "sleep":
                    await trio.sleep(float(arguments[0]))  # type: ignore[arg-type]  # as drawn
                elif action == "slow":
                    target.delay = float(arguments[0])  # type: ignore[arg-type]  # as drawn
                elif action == "fail":
                    target.fail(ReplayError("broken") if arguments[0] else None)
                else:
                    for group in groups[-1:]:
                        if group.end is None:
                            log.write_frame(group, b"more", 0)
            target.fail(None)
            for group in groups:
                log.end_group(group, FINISHED)
            await trio.sleep(60)
        assert not log.unrecorded()
        found = stored(target)
        for group in groups:
            frames, end = found.get(group.sequence, ([], None))
            if group.durable:
                assert (frames, end) == (group.frames, group.end)
                continue
            assert group.lost
            assert frames == group.frames[: len(frames)]
            if group.sequence in found:
                assert isinstance(end, Aborted)
            else:
                with pytest.raises(ReplayError) as raised:
                    target.poll_group(group.sequence)
                assert (raised.value.code, raised.value.retryable) == (StreamCode.EVICTED, False)
        assert log.lost_ranges() == []
        assert log.statistics().lost == sum(group.lost for group in groups)

    trio.run(main, clock=MockClock(autojump_threshold=0))
