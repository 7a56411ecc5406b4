"""The log: an open group does not keep those behind it in memory."""

from __future__ import annotations

import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from moqtrio.model.group import FINISHED, Group
from moqtrio.model.log import LogLimits, TrackLog


def publish(log: TrackLog, size: int = 10, sequence: int | None = None) -> Group:
    group = log.create_group(sequence)
    log.write_frame(group, bytes(size), 0)
    log.end_group(group, FINISHED)
    return group


def record(log: TrackLog, group: Group) -> None:
    log.mark_recorded(group, len(group.frames) - group.recorded, group.end)


def held(log: TrackLog) -> list[int]:
    return [s for s in range(log.next_sequence) if log.get(s) is not None]


async def test_durable_groups_leave_from_behind_an_open_one(autojump_clock: MockClock) -> None:
    log = TrackLog(LogLimits(cache_age=1.0))
    log.begin_recording(0, 10**6)
    slow = log.create_group()
    for group in [publish(log) for _ in range(5)]:
        record(log, group)
    await trio.sleep(2)
    log.evict()
    assert held(log) == [0, 5], "the latest stays, and what is not durable"
    assert (log.latest, log.first_from(0), log.first_from(1), log.first_from(6)) == (5, 0, 5, None)
    log.write_frame(slow, b"goes on", 0)
    log.end_group(slow, FINISHED)
    record(log, slow)
    await trio.sleep(2)
    publish(log)
    assert held(log) == [6]
    assert log.statistics().evicted == 6
    assert log.statistics().lost == 0


async def test_too_much_in_memory_does_not_cost_an_open_group_while_others_can_go() -> None:
    log = TrackLog(LogLimits(cache_bytes=100, max_bytes=200))
    log.begin_recording(0, 10**6)
    slow = log.create_group()
    log.write_frame(slow, bytes(50), 0)
    for _ in range(100):
        record(log, publish(log, 60))
    assert slow.end is None
    assert held(log) == [0, 100]
    assert log.statistics().bytes == 110


async def test_frames_alone_keep_to_the_smaller_limit() -> None:
    """However much may be remembered, what is too much to hold at all leaves at once."""
    log = TrackLog(LogLimits(cache_bytes=1000, max_bytes=100))
    publish(log, 60)
    latest = log.create_group()
    log.write_frame(latest, bytes(40), 0)
    assert held(log) == [0, 1]
    log.write_frame(latest, b"1", 0)
    assert held(log) == [1]
    assert log.statistics().bytes == 41


async def test_the_latest_leaves_in_its_turn_once_it_is_not(autojump_clock: MockClock) -> None:
    log = TrackLog(LogLimits(cache_age=1.0))
    publish(log, sequence=9)
    publish(log, sequence=3)
    await trio.sleep(2)
    log.evict()
    assert held(log) == [9], "the latest by number"
    publish(log, sequence=12)
    assert held(log) == [12]


async def test_when_there_is_something_to_evict_is_known(autojump_clock: MockClock) -> None:
    log = TrackLog(LogLimits(cache_age=3.0))
    due = [log.next_eviction]
    publish(log)
    due.append(log.next_eviction)  # the latest stays for ever
    await trio.sleep(1)
    log.create_group()
    due.append(log.next_eviction)
    assert due == [None, None, trio.current_time() + 2]
    await trio.sleep(2)
    log.evict()
    assert held(log) == [1]
    assert log.next_eviction is None


async def test_what_an_open_group_costs_does_not_grow_with_what_comes_after_it() -> None:
    log = TrackLog(LogLimits(cache_bytes=0))
    log.create_group()
    for _ in range(20_000):
        publish(log)
    assert held(log) == [0, 20_000]
    # What is kept to find groups by number: no more than a multiple of those there are.
    assert len(log._order) < 520
    assert log.first_from(1) == 20_000


@given(
    st.lists(st.tuples(st.sampled_from(["open", "whole", "end", "sleep"]), st.integers(0, 60))),
    st.booleans(),
)
def test_what_has_ended_leaves_in_time_whatever_is_open(
    plan: list[tuple[str, int]], recorded: bool
) -> None:
    async def main() -> None:
        log = TrackLog(LogLimits(cache_age=10, cache_bytes=200, max_bytes=10**6))
        if recorded:
            log.begin_recording(0, 10**6)
        ended_at: dict[int, float] = {}
        groups: list[Group] = []

        def end(group: Group) -> None:
            log.end_group(group, FINISHED)
            if recorded and not group.durable:
                record(log, group)
            ended_at.setdefault(group.sequence, trio.current_time())

        for action, number in plan:
            if action in ("open", "whole"):
                groups.append(log.create_group())
                log.write_frame(groups[-1], bytes(number), 0)
            if action == "sleep":
                await trio.sleep(number / 4)
            elif action != "open" and groups:
                end(groups[number % len(groups) if action == "end" else -1])
            log.evict()
            inside = held(log)
            for sequence in inside[:-1]:
                if sequence in ended_at:
                    assert trio.current_time() < ended_at[sequence] + 10
            settled = [groups[s].size for s in inside[:-1] if s in ended_at]
            assert not settled or log.statistics().bytes <= 200
            assert all(g.end is None or g.sequence in ended_at for g in groups)
            assert [log.first_from(s) for s in range(len(groups))] == [
                next((each for each in inside if each >= s), None) for s in range(len(groups))
            ]

    trio.run(main, clock=MockClock(autojump_threshold=0))
