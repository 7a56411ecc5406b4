"""The log of a track that shows only what is durable."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from moqtrio.errors import ReplayError, StreamCode
from moqtrio.model.group import FINISHED, Aborted, Group
from moqtrio.model.log import LogLimits, TrackLog
from moqtrio.model.source import END, Ready
from moqtrio.replay import PARKED, LiveReader


def make_log(first: int = 0, **limits: int) -> TrackLog:
    log = TrackLog(LogLimits(**limits), recording="durable")
    log.begin_recording(first, first + 1000)
    return log


def publish(log: TrackLog, *sizes: int) -> Group:
    group = log.create_group()
    for size in sizes:
        log.write_frame(group, bytes(size), 0)
    log.end_group(group, FINISHED)
    return group


def record(log: TrackLog, group: Group) -> None:
    log.mark_recorded(group, len(group.frames) - group.recorded, group.end)


def seen(reader: LiveReader) -> list[int] | str:
    """The sizes of the frames a reader has to give, or what it says instead."""
    answer = reader.poll_frames(10**6)
    if isinstance(answer, Ready):
        return [len(frame.payload) for frame in answer.value]
    return "end" if answer is END else "parked"


async def test_nothing_is_seen_before_it_is_durable() -> None:
    log = make_log(first=5)
    group = log.create_group()
    log.write_frame(group, bytes(1), 0)
    log.write_frame(group, bytes(2), 0)
    log.set_reserved_end(10_000)
    assert (log.edge, log.latest, log.first_from(0), log.get(5)) == (5, None, None, None)
    assert log.latest_first_us is None
    log.mark_recorded(group, 1, None)
    assert (log.edge, log.latest, log.first_from(0)) == (6, 5, 5)
    reader = LiveReader(group)
    assert [seen(reader), seen(reader)] == [[1], "parked"]
    log.end_group(group, FINISHED)
    assert seen(reader) == "parked"
    log.mark_recorded(group, 1, None)
    assert [seen(reader), seen(reader)] == [[2], "parked"], "its end is not durable"
    log.mark_recorded(group, 0, FINISHED)
    assert seen(reader) == "end"


async def test_a_reader_takes_no_more_than_it_asks_for_and_is_durable() -> None:
    log = make_log()
    group = publish(log, 10, 10, 10, 10)
    log.mark_recorded(group, 3, None)
    reader = LiveReader(group)
    sizes = []
    while isinstance(answer := reader.poll_frames(15), Ready):
        sizes.append(len(answer.value))
    assert (sizes, answer) == ([2, 1], PARKED)


async def test_a_group_below_one_that_is_durable_is_waited_for_not_absent() -> None:
    log = make_log()
    empty, later = log.create_group(), publish(log, 7)
    record(log, later)
    assert (log.edge, log.latest, log.first_from(0)) == (2, 1, 0)
    group = log.get(0)
    assert group is empty
    assert seen(LiveReader(group)) == "parked"


async def test_an_aborted_group_is_aborted_for_all_once_that_is_durable() -> None:
    log = make_log()
    group = log.create_group()
    log.write_frame(group, bytes(3), 0)
    log.mark_recorded(group, 1, None)
    log.end_group(group, Aborted(77))
    reader = LiveReader(group)
    assert [seen(reader), seen(reader)] == [[3], "parked"]
    log.mark_recorded(group, 0, Aborted(77))
    with pytest.raises(ReplayError, match="aborted") as raised:
        seen(reader)
    assert raised.value.code == 77


async def test_what_is_lost_is_never_seen_and_holds_nothing_up() -> None:
    log = make_log(cache_bytes=0, max_bytes=100)
    begun = publish(log, 30, 30)
    log.mark_recorded(begun, 1, None)
    reader = LiveReader(begun)
    groups = [publish(log, 60) for _ in range(3)]
    assert begun.lost
    assert [group.lost for group in groups] == [True, True, False]
    assert seen(reader) == [30], "as far as it is durable"
    with pytest.raises(ReplayError, match="group 0 was lost") as raised:
        seen(reader)
    assert (raised.value.code, raised.value.retryable) == (StreamCode.EVICTED, False)
    assert (log.edge, log.latest, log.lost_until(0)) == (3, None, 3)
    record(log, groups[2])
    assert (log.edge, log.latest) == (4, 3)


async def test_what_the_store_refuses_is_not_seen() -> None:
    log = make_log()
    groups = [publish(log, 10) for _ in range(3)]
    record(log, groups[0])
    log.give_up(groups[1])
    record(log, groups[2])
    assert (log.edge, log.latest, log.get(1)) == (3, 2, None)
    assert log.lost_until(1) == 2


async def test_the_latest_is_one_of_which_something_is_durable() -> None:
    log = make_log()
    record(log, publish(log, 10))
    log.create_group()
    log.give_up(publish(log, 10))
    assert (log.edge, log.latest, log.first_from(1)) == (3, 0, 1)


@pytest.mark.parametrize("begin_first", [False, True])
async def test_an_end_without_a_group_is_reached(begin_first: bool) -> None:
    log = TrackLog(recording="durable")
    if begin_first:
        log.begin_at(7)
    log.begin_recording(3, 1000)
    log.begin_at(7)
    log.finish()
    assert (log.final_sequence, log.edge) == (7, 7)


steps = st.lists(
    st.tuples(
        st.sampled_from(["create", "write", "end", "abort", "record", "give up", "finish record"]),
        st.integers(0, 5),
    ),
    max_size=40,
)


@given(steps)
def test_only_what_is_durable_is_ever_seen(plan: list[tuple[str, int]]) -> None:
    log = make_log(cache_bytes=60, max_bytes=120)
    groups: list[Group] = []
    readers: dict[int, LiveReader] = {}
    got: dict[int, int] = {}

    def step(action: str, number: int) -> None:
        if action == "create":
            groups.append(log.create_group())
        if not groups:
            return
        group = groups[number % len(groups)]
        open_frames = len(group.frames) - group.recorded
        if action == "write" and group.end is None:
            log.write_frame(group, bytes(20), 0)
        elif action in ("end", "abort"):
            log.end_group(group, FINISHED if action == "end" else Aborted(9))
        elif group in log.unrecorded() and not group.lost:
            if action == "record" and open_frames:
                log.mark_recorded(group, 1, None)
            elif action == "finish record" and group.end is not None:
                log.mark_recorded(group, open_frames, group.end)
            elif action == "give up":
                log.give_up(group)

    def look() -> None:
        latest = log.latest
        assert latest is None or groups[latest].recorded or groups[latest].durable
        for group in groups:
            found = log.get(group.sequence)
            if group.sequence >= log.edge:
                assert found is None
                assert not group.recorded
                assert not group.durable
                assert not group.lost, "or it would be waited for, for ever"
                continue
            if found is not None:
                readers.setdefault(group.sequence, LiveReader(found))
            else:
                assert group.durable or group.lost
            reader = readers.get(group.sequence)
            if reader is None:
                continue
            try:
                answer = seen(reader)
            except ReplayError:
                assert group.lost or (group.durable and isinstance(group.end, Aborted))
                continue
            if answer == "end":
                assert group.durable
            elif answer != "parked":
                got[group.sequence] = got.get(group.sequence, 0) + len(answer)
            assert got.get(group.sequence, 0) == group.recorded, "all that is durable, no more"

    async def main() -> None:
        for action, number in plan:
            step(action, number)
            look()

    trio.run(main)
