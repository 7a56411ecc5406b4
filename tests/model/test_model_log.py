"""The log: what stays in memory, what leaves it, and who is told."""

from __future__ import annotations

import logging

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from moqtrio.errors import ProtocolError, StreamCode
from moqtrio.model.group import FINISHED, Aborted, Group
from moqtrio.model.log import LogLimits, TrackLog
from moqtrio.model.track import Track

LARGEST_SEQUENCE = 2**62 - 2


def publish(log: TrackLog, size: int = 10, sequence: int | None = None) -> Group:
    group = log.create_group(sequence)
    log.write_frame(group, bytes(size), 0)
    log.end_group(group, FINISHED)
    return group


def record(log: TrackLog, group: Group) -> None:
    """What a recorder does once the rest of ``group`` is durable."""
    log.mark_recorded(group, len(group.frames) - group.recorded, group.end)


def held(log: TrackLog) -> list[int]:
    return [s for s in range(log.next_sequence) if log.get(s) is not None]


def make_log(**limits: float) -> TrackLog:
    return TrackLog(LogLimits(**limits))  # type: ignore[arg-type]  # ints and floats by name


# Eviction


async def test_groups_leave_by_age_counted_from_their_last_write(autojump_clock: MockClock) -> None:
    log = make_log(cache_age=5.0)
    first = log.create_group()
    await trio.sleep(3)
    log.write_frame(first, b"x", 0)
    log.end_group(first, FINISHED)
    publish(log)
    await trio.sleep(4.5)
    log.evict()
    assert held(log) == [0, 1]
    await trio.sleep(0.5)
    log.evict()
    assert held(log) == [1], "the latest stays however old it is"
    await trio.sleep(1000)
    log.evict()
    assert held(log) == [1]
    publish(log)
    assert held(log) == [2], "publishing forgets what is too old, without anybody looking"


async def test_groups_leave_by_bytes_oldest_first_and_the_latest_stays() -> None:
    log = make_log(cache_bytes=100)
    for _ in range(5):
        publish(log, 40)
    assert held(log) == [3, 4]
    publish(log, 500)
    assert held(log) == [5]
    statistics = log.statistics()
    assert (statistics.groups, statistics.bytes, statistics.oldest) == (1, 500, 5)
    assert (statistics.evicted, statistics.lost) == (5, 0)


async def test_writing_to_the_latest_group_evicts_those_before_it() -> None:
    log = make_log(cache_bytes=100)
    publish(log, 60)
    group = log.create_group()
    log.write_frame(group, bytes(41), 0)
    assert held(log) == [1]


async def test_an_open_group_is_not_forgotten_below_the_hard_cap(
    autojump_clock: MockClock,
) -> None:
    log = make_log(cache_age=1.0, cache_bytes=50, max_bytes=100)
    slow = log.create_group()
    publish(log, 60)
    await trio.sleep(10)
    log.evict()
    assert held(log) == [0, 1]
    log.write_frame(slow, bytes(30), 0)
    publish(log, 30)
    assert held(log) == [0, 2], "it holds nothing back that has ended"
    assert not slow.end
    publish(log, 80)
    assert slow.end == Aborted(StreamCode.EVICTED)
    assert 0 not in held(log)
    with pytest.raises(ProtocolError, match=r"group 0 takes no more frames.*53"):
        log.write_frame(slow, b"x", 0)


async def test_a_group_that_is_forced_out_by_its_own_write_ends() -> None:
    log = make_log(cache_bytes=50, max_bytes=100)
    old = log.create_group()
    publish(log, 10)
    log.write_frame(old, bytes(200), 0)
    assert old.end == Aborted(StreamCode.EVICTED)
    assert held(log) == [1]
    assert log.statistics().bytes == 10


async def test_whoever_reads_an_evicted_group_keeps_it() -> None:
    log = make_log(cache_bytes=0)
    group = publish(log, 7)
    publish(log)
    assert log.get(0) is None
    assert [len(frame.payload) for frame in group.frames] == [7]


# Eviction of what is recorded


async def test_a_recorded_group_waits_for_durability(autojump_clock: MockClock) -> None:
    log = make_log(cache_age=1.0, cache_bytes=0)
    log.begin_recording(0, 1000)
    groups = [publish(log) for _ in range(3)]
    await trio.sleep(100)
    log.evict()
    assert held(log) == [0, 1, 2]
    record(log, groups[0])
    log.evict()
    assert held(log) == [1, 2]
    assert log.durable_end == 1
    assert log.lost_until(0) is None


async def test_beyond_the_hard_cap_a_group_is_lost_and_said_to_be(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = make_log(cache_bytes=0, max_bytes=100)
    log.begin_recording(0, 1000)
    with caplog.at_level(logging.ERROR, "moqtrio.log"):
        groups = [publish(log, 60) for _ in range(4)]
    assert [group.lost for group in groups] == [True, True, True, False]
    assert held(log) == [3]
    assert log.lost_until(0) == 3
    assert log.lost_until(3) is None
    statistics = log.statistics()
    assert (statistics.lost, statistics.evicted, statistics.unrecorded) == (3, 3, 1)
    assert log.durable_end == 3
    # 1, 2, 4 ...: a store that is down for an hour must not flood the log.
    assert [record.args[0] for record in caplog.records if record.args] == [0, 1]
    assert "max_bytes is 100" in caplog.text


async def test_every_group_that_has_left_is_durable_or_marked_lost() -> None:
    log = make_log(cache_bytes=50, max_bytes=200)
    log.begin_recording(0, 10**6)
    groups = []
    for number in range(200):
        groups.append(publish(log, 30))
        if number % 3 == 0:
            record(log, groups[-1])
    for group in groups:
        gone = log.get(group.sequence) is None
        lost = log.lost_until(group.sequence) is not None
        assert not gone or group.durable != lost
        assert gone or not lost


async def test_a_commit_that_was_under_way_when_its_group_was_given_up_counts() -> None:
    """The hard cap may strike between a write's start and its success: then it is stored."""
    log = make_log(cache_bytes=0, max_bytes=100)
    log.begin_recording(0, 1000)
    groups = [publish(log, 60) for _ in range(3)]
    assert log.lost_until(0) == 2
    record(log, groups[0])
    assert log.lost_until(0) is None, "the store has it: it must not be reported as lost"
    assert log.lost_until(1) == 2
    assert (groups[0].lost, groups[0].durable) == (False, True)
    assert (log.lost, log.trouble) == (1, 2), "who has seen two must hear of a third"
    assert log.statistics().lost == 1


async def test_a_lost_group_with_a_stored_part_stays_with_the_recorder() -> None:
    log = make_log(cache_bytes=0, max_bytes=100)
    log.begin_recording(0, 1000)
    group = log.create_group()
    log.write_frame(group, bytes(30), 0)
    log.mark_recorded(group, 1, None)
    log.write_frame(group, bytes(30), 0)
    publish(log, 60)
    assert group.lost
    assert group in log.unrecorded(), "somebody must write that the part is not the whole"
    log.mark_recorded(group, 0, Aborted(StreamCode.EVICTED))
    assert group not in log.unrecorded()
    assert log.lost_until(0) == 1, "what is durable is the news that it is incomplete"
    assert not group.durable


async def test_a_part_that_becomes_durable_after_its_group_was_lost_is_not_forgotten() -> None:
    log = make_log(cache_bytes=0, max_bytes=100)
    log.begin_recording(0, 1000)
    group = log.create_group()
    log.write_frame(group, bytes(60), 0)  # the recorder begins to write this frame
    publish(log, 60)
    assert group.lost
    assert group not in log.unrecorded(), "nothing of it is stored, so there is nothing to say"
    log.mark_recorded(group, 1, None)  # the write succeeds
    assert group in log.unrecorded()
    assert log.is_behind(59)
    assert not log.is_behind(60), "its payload is not awaited any more"
    log.mark_recorded(group, 0, Aborted(StreamCode.EVICTED))
    assert [each.sequence for each in log.unrecorded()] == [1]


async def test_no_number_of_lost_groups_makes_one_look_as_if_it_never_was() -> None:
    log = make_log(cache_bytes=0, max_bytes=0)
    log.begin_recording(0, 10**6)
    used = range(10, 10 + 2 * 3000, 2)  # every other: no two are neighbours
    for sequence in used:
        publish(log, sequence=sequence)
    assert log.statistics().lost == 2999
    assert len(log.lost_ranges()) <= 1025
    for sequence in used[:-1]:
        end, code = log.absence(sequence, 10**6)
        assert code == StreamCode.EVICTED
        assert sequence < end <= used[-1]
        covered = [start <= sequence < stop for start, stop in log.lost_ranges()]
        assert any(covered), "the store is told of it"
    assert log.absence(0, 10**6) == (10, 0)
    assert log.absence(0, 5) == (5, 0)
    assert log.absence(used[-1] + 1, 10**6) == (10**6, 0)


async def test_what_never_was_is_told_from_what_is_lost() -> None:
    log = make_log(cache_bytes=0, max_bytes=0)
    log.begin_recording(0, 1000)
    for sequence in (4, 5, 9, 20):
        publish(log, sequence=sequence)
    assert log.absence(2, 15) == (4, 0)
    assert log.absence(4, 15) == (6, StreamCode.EVICTED)
    assert log.absence(6, 15) == (9, 0)
    assert log.absence(10, 15) == (15, 0)


async def test_what_the_store_knows_to_be_lost_is_not_kept() -> None:
    log = make_log(cache_bytes=0, max_bytes=0)
    log.begin_recording(0, 10**6)
    for sequence in range(0, 4002, 2):
        publish(log, sequence=sequence)
    log.forget_lost(log.lost_ranges())
    assert log.lost_ranges() == []
    publish(log, sequence=5000)
    told = log.lost_ranges()
    publish(log, sequence=5002)  # while it is written down
    log.forget_lost(told)
    assert log.lost_ranges() == [(5000, 5001)]
    assert log.absence(0, 100) == (100, 0)
    assert log.statistics().lost == 2002


async def test_a_group_that_is_given_up_goes_on_live(autojump_clock: MockClock) -> None:
    log = make_log(cache_age=1.0)
    log.begin_recording(0, 1000)
    group = log.create_group()
    log.write_frame(group, bytes(30), 0)
    publish(log, 5)
    log.give_up(group)
    log.write_frame(group, bytes(30), 0)
    assert log.get(0) is group
    assert [each.sequence for each in log.unrecorded()] == [1]
    assert log.behind_bytes == 5
    assert (log.lost_until(0), log.statistics().lost, log.trouble) == (1, 1, 1)
    log.end_group(group, FINISHED)
    await trio.sleep(2)
    log.evict()
    assert held(log) == [1]
    assert log.statistics().lost == 1


async def test_a_group_of_which_a_part_is_stored_is_given_up_twice() -> None:
    """Once for its frames, and once more if the store does not take its end either."""
    log = make_log()
    log.begin_recording(0, 1000)
    group = log.create_group()
    log.write_frame(group, bytes(30), 0)
    log.mark_recorded(group, 1, None)
    log.write_frame(group, bytes(30), 0)
    log.give_up(group)
    assert log.unrecorded() == [group]
    assert log.behind_bytes == 0
    log.give_up(group)
    assert log.unrecorded() == []
    assert log.behind_bytes == 0
    assert log.statistics().lost == 1


# Sequences


async def test_explicit_sequences_may_come_in_any_order() -> None:
    log = make_log()
    for sequence in (5, 2, 9, 3):
        publish(log, sequence=sequence)
    assert held(log) == [2, 3, 5, 9]
    assert log.next_sequence == 10
    assert log.latest == 9
    assert [log.first_from(s) for s in (0, 3, 4, 6, 10)] == [2, 3, 5, 9, None]
    assert publish(log).sequence == 10


async def test_a_used_sequence_is_refused_while_in_memory_and_after() -> None:
    log = make_log(cache_bytes=0)
    publish(log, sequence=4)
    with pytest.raises(ProtocolError, match=r"group 4 cannot be created.*next free one is 5"):
        log.create_group(4)
    publish(log)
    assert held(log) == [5]
    with pytest.raises(ProtocolError, match="group 4 cannot be created: sequences below 5"):
        log.create_group(4)
    with pytest.raises(ProtocolError):
        log.create_group(-1)
    assert log.next_sequence == 6


async def test_a_sequence_used_before_a_restart_is_refused() -> None:
    log = make_log()
    log.begin_recording(100, 200)
    with pytest.raises(ProtocolError):
        log.create_group(99)
    assert log.create_group().sequence == 100


@pytest.mark.parametrize("sequence", [2**62 - 1, 2**62, 2**70])
async def test_a_sequence_the_wire_cannot_carry_is_refused(sequence: int) -> None:
    """Its group, or the END after it, could be sent to nobody."""
    log = make_log()
    with pytest.raises(ProtocolError, match="4611686018427387902"):
        log.create_group(sequence)
    assert log.create_group(LARGEST_SEQUENCE).sequence == LARGEST_SEQUENCE


@pytest.mark.parametrize("timestamp", [-1, 2**61, 2**64])
async def test_a_timestamp_the_wire_cannot_carry_is_refused(timestamp: int) -> None:
    """One such frame in the log would end every subscription that reaches it."""
    log = make_log()
    group = log.create_group()
    with pytest.raises(ValueError, match=r"timestamp"):
        log.write_frame(group, b"", timestamp)
    assert group.frames == []
    log.write_frame(group, b"", 2**61 - 1)


async def test_recording_cannot_begin_after_the_first_group() -> None:
    log = make_log()
    publish(log)
    with pytest.raises(ProtocolError, match="before the first group"):
        log.begin_recording(0, 10)


async def test_nothing_is_seen_before_its_sequence_is_reserved() -> None:
    log = make_log()
    log.begin_recording(0, 1)
    for _ in range(3):
        publish(log)
    assert (log.edge, log.latest, log.first_from(0), log.first_from(1)) == (1, 0, 0, None)
    assert [log.get(s) is None for s in range(3)] == [False, True, True]
    log.set_reserved_end(100)
    assert (log.edge, log.latest, log.first_from(1)) == (3, 2, 1)
    assert log.get(2) is not None


async def test_a_frame_that_is_too_large_is_refused_and_changes_nothing() -> None:
    log = make_log(max_frame_bytes=10)
    group = log.create_group()
    with pytest.raises(ValueError, match=r"11 bytes.*max_frame_bytes=10"):
        log.write_frame(group, bytes(11), 0)
    assert (group.frames, group.size, log.statistics().bytes) == ([], 0, 0)


# Ends


async def test_finish_and_abort_end_a_track_once() -> None:
    log = make_log()
    open_group = log.create_group()
    log.finish()
    assert (log.final_sequence, log.ended) == (1, True)
    log.write_frame(open_group, b"late", 0)
    for action in (log.create_group, log.finish, lambda: log.abort(1)):
        with pytest.raises(ProtocolError, match="finished at group 1"):
            action()


async def test_abort_ends_every_open_group_and_no_other() -> None:
    track = Track("b", "t")
    done, aborted, going = (track.append_group() for _ in range(3))
    done.finish()
    aborted.abort(70)
    track.abort(77)
    log = track.log
    ends = [group.end for group in (log.get(s) for s in range(3)) if group is not None]
    assert ends == [FINISHED, Aborted(70), Aborted(77)]
    assert (log.aborted, log.ended) == (77, True)
    with pytest.raises(ProtocolError, match="aborted with code 77"):
        track.append_group()
    with pytest.raises(ProtocolError):
        going.write_frame(b"x")
    going.finish()
    assert ends[2] == Aborted(77), "the first end counts"


async def test_a_producer_says_how_its_block_ended() -> None:
    track = Track("b", "t")
    with track.append_group():
        pass
    with pytest.raises(KeyError), track.append_group():
        raise KeyError
    with trio.CancelScope() as scope, track.append_group():
        scope.cancel()
        await trio.sleep(1)
    with track.append_group() as group:
        group.abort(99)
    groups = [track.log.get(s) for s in range(4)]
    assert [group.end for group in groups if group is not None] == [
        FINISHED,
        Aborted(StreamCode.INTERNAL),
        Aborted(StreamCode.CANCEL),
        Aborted(99),
    ]


async def test_write_frame_on_a_track_is_a_whole_group() -> None:
    track = Track("b", "t")
    track.write_frame(b"one", 17)
    group = track.log.get(0)
    assert group is not None
    assert ([(f.payload, f.timestamp_us) for f in group.frames], group.end) == (
        [(b"one", 17)],
        FINISHED,
    )


# Watchers


async def test_every_change_is_told_and_a_change_that_is_none_is_not() -> None:
    log = make_log()
    told: list[None] = []
    remove = log.watchers.add(lambda: told.append(None))
    counts = []
    group = log.create_group()
    counts.append(len(told))
    log.write_frame(group, b"x", 0)
    counts.append(len(told))
    log.end_group(group, FINISHED)
    counts.append(len(told))
    log.end_group(group, FINISHED)
    counts.append(len(told))
    log.finish()
    counts.append(len(told))
    assert counts == [1, 2, 3, 3, 4]
    remove()
    remove()
    assert (len(log.watchers), log.statistics().readers) == (0, 0)


async def test_wait_durable() -> None:
    log_track = Track("b", "t")
    await log_track.wait_durable()  # not recorded: nothing to wait for
    track = Track("b", "t")
    track.log.begin_recording(0, 100)
    group = publish(track.log, 60)
    publish(track.log, 60)
    with trio.testing.assert_checkpoints():
        await track.wait_durable(200)
    returned: list[int] = []

    async def wait(behind: int) -> None:
        await track.wait_durable(behind)
        returned.append(behind)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, 60)
        nursery.start_soon(wait, 0)
        await trio.testing.wait_all_tasks_blocked()
        assert returned == []
        record(track.log, group)
        track.log.watchers.notify()
        await trio.testing.wait_all_tasks_blocked()
        assert returned == [60]
        nursery.cancel_scope.cancel()
    assert len(track.log.watchers) == 0


# Everything at once

actions = st.lists(
    st.one_of(
        st.tuples(st.just("create"), st.one_of(st.none(), st.integers(0, 40))),
        st.tuples(st.just("write"), st.integers(0, 5), st.integers(0, 60)),
        st.tuples(st.just("end"), st.integers(0, 5)),
        st.tuples(st.just("durable"), st.integers(0, 5)),
        st.tuples(st.just("sleep"), st.floats(0, 3)),
    ),
    min_size=15,
    max_size=60,
)


@given(actions, st.booleans())
def test_bookkeeping_holds_whatever_happens(plan: list[tuple[object, ...]], recorded: bool) -> None:
    async def main() -> None:
        log = make_log(cache_age=2.0, cache_bytes=100, max_bytes=200)
        if recorded:
            log.begin_recording(0, 10**6)
        groups: list[Group] = []
        used: set[int] = set()
        for action, *arguments in plan:
            if action == "create":
                (sequence,) = arguments
                try:
                    groups.append(log.create_group(sequence))  # type: ignore[arg-type]
                except ProtocolError:
                    assert sequence is not None
                else:
                    assert groups[-1].sequence not in used
                    used.add(groups[-1].sequence)
            elif action == "sleep":
                await trio.sleep(arguments[0])  # type: ignore[arg-type]
            elif groups:
                group = groups[-1 - arguments[0] % len(groups)]  # type: ignore[operator]
                if action == "write" and group.end is None:
                    log.write_frame(group, bytes(arguments[1]), 0)  # type: ignore[call-overload]
                elif action == "end":
                    log.end_group(group, FINISHED)
                elif action == "durable" and recorded and group.end is not None:
                    record(log, group)
            check(log, groups)

    def check(log: TrackLog, groups: list[Group]) -> None:
        inside = [group for group in groups if log.get(group.sequence) is group]
        statistics = log.statistics()
        assert statistics.groups == len(inside)
        assert statistics.bytes == sum(group.size for group in inside)
        assert statistics.evicted == len(groups) - len(inside)
        assert statistics.oldest == min((g.sequence for g in inside), default=None)
        if groups:
            top = max(groups, key=lambda group: group.sequence)
            assert top in inside
            assert log.latest == top.sequence
            assert statistics.bytes <= 200 + top.size
        for group in groups:
            if group in inside:
                assert not group.lost
            else:
                assert group.end is not None
                assert not recorded or group.durable or group.lost
        behind = sum(group.size for group in log.unrecorded() if not group.lost)
        assert log.behind_bytes == behind
        assert behind <= 1 or log.is_behind(behind - 1)
        assert not log.is_behind(behind) or behind == 0

    trio.run(main, clock=MockClock(autojump_threshold=0))
