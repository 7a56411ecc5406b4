"""The resolver's rules, one by one (docs/replay.md)."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from moqtrio.errors import ReplayError, RequestError, StreamCode
from moqtrio.model.frame import Frame
from moqtrio.model.group import FINISHED, Aborted
from moqtrio.model.log import LogLimits, TrackLog
from moqtrio.replay import (
    DONE,
    END,
    PARKED,
    Dropped,
    GapWrite,
    GroupWrite,
    LiveReader,
    Pending,
    Ready,
    Resolver,
    RetryPolicy,
    resolve_group,
)
from moqtrio.replay.memory import MemoryGroupReader, MemoryTrack
from moqtrio.replay.resolver import Reader, Resolved

FOREVER = LogLimits(cache_age=1e9)


def publish(log: TrackLog, sequence: int | None = None, payload: bytes = b"live") -> int:
    group = log.create_group(sequence)
    log.write_frame(group, payload, 0)
    log.end_group(group, FINISHED)
    return group.sequence


def log_with(sequences: Iterable[int], *, first: int = 0) -> TrackLog:
    """A recorded track's log holding these groups; everything is reserved."""
    log = TrackLog(FOREVER)
    log.begin_recording(first, 10**6)
    for sequence in sequences:
        publish(log, sequence)
    return log


async def store_with(sequences: Iterable[int]) -> MemoryTrack:
    track = MemoryTrack()
    await track.write([GroupWrite(s, 0, [Frame(b"stored %d" % s, s)], FINISHED) for s in sequences])
    return track


async def started(resolver: Resolver) -> int:
    while isinstance(answer := resolver.poll_start(), Pending):
        await answer.wait()
    return answer.value


def single(log: TrackLog, source: MemoryTrack, sequence: int) -> Resolver:
    """As a FETCH has it."""
    return Resolver(log, source, start=sequence, end=sequence + 1)


async def answers(resolver: Resolver, limit: int = 100) -> list[tuple[str, int] | Dropped]:
    """What comes until there is nothing more to come for now."""
    found: list[tuple[str, int] | Dropped] = []
    for _ in range(limit):
        answer: Resolved = resolver.poll_next()
        if isinstance(answer, Pending):
            await answer.wait()
        elif isinstance(answer, Ready):
            where = "log" if isinstance(answer.value, LiveReader) else "store"
            found.append((where, answer.value.sequence))
            answer.value.close()
            resolver.retries.answered()  # as who reads it would say
        elif isinstance(answer, Dropped):
            found.append(answer)
        else:
            return found
    raise AssertionError(f"no end after {found}")


def payloads(reader: Reader) -> list[bytes]:
    found: list[bytes] = []
    while isinstance(answer := reader.poll_frames(1), Ready):
        found += [frame.payload for frame in answer.value]
    assert answer is END
    return found


# Rule 1: the start


@pytest.mark.parametrize(
    ("stored", "in_log", "asked", "expected"),
    [
        ([0, 1, 2], [3, 4], 0, 0),
        ([0, 1, 2], [3, 4], 2, 2),
        ([2], [3, 4], 0, 2),  # the store has forgotten the first ones
        ([], [3, 4], 0, 3),
        ([0, 4], [2], 1, 2),  # the log has it, between two the store has
        ([7], [3, 9], 4, 7),  # and the other way round
        ([0, 1], [2], 5, 5),  # in the future: it is waited for
        ([0, 1], [2], 3, 3),  # at the edge
        ([], [], 0, 0),
        ([0, 1], [2, 3], None, 3),  # none asked for: the latest
        ([], [], None, 0),
    ],
)
async def test_the_start_is_the_smallest_available_over_log_and_store(
    stored: list[int], in_log: list[int], asked: int | None, expected: int
) -> None:
    resolver = Resolver(log_with(in_log), await store_with(stored), start=asked, end=None)
    assert await started(resolver) == expected
    assert resolver.cursor == expected


async def test_the_start_counts_what_is_recorded_and_not_yet_durable() -> None:
    log = log_with([0, 1, 2])
    resolver = Resolver(log, MemoryTrack(), start=0, end=None)
    assert await started(resolver) == 0
    assert await answers(resolver) == [("log", 0), ("log", 1), ("log", 2)]


async def test_what_has_not_been_reserved_cannot_be_the_start() -> None:
    log = TrackLog(FOREVER)
    log.begin_recording(0, 2)
    for _ in range(4):
        publish(log)
    assert await started(Resolver(log, None, start=None, end=None)) == 1
    resolver = Resolver(log, None, start=3, end=None)
    assert await started(resolver) == 3
    assert resolver.poll_next() is PARKED
    log.set_reserved_end(10)
    assert await answers(resolver) == [("log", 3)]


async def test_what_was_named_as_the_start_comes_although_it_is_forgotten_meanwhile() -> None:
    log = TrackLog(LogLimits(cache_bytes=0))
    publish(log)
    resolver = Resolver(log, None, start=0, end=None)
    assert await started(resolver) == 0
    publish(log)
    assert log.get(0) is None
    answer = resolver.poll_next()
    assert isinstance(answer, Ready)
    assert payloads(answer.value) == [b"live"]


async def test_too_old_groups_are_not_the_start_though_nobody_has_written_since(
    autojump_clock: MockClock,
) -> None:
    log = TrackLog(LogLimits(cache_age=1))
    publish(log)
    publish(log)
    await trio.sleep(5)
    assert await started(Resolver(log, None, start=0, end=None)) == 1


async def test_the_start_waits_for_a_stalled_store() -> None:
    source = await store_with([0])
    source.stall()
    resolver = Resolver(log_with([1], first=1), source, start=0, end=None)
    answer = resolver.poll_start()
    assert isinstance(answer, Pending)
    source.resume()
    with trio.fail_after(1):
        await answer.wait()
    assert await started(resolver) == 0


async def test_a_start_that_cannot_be_read_is_named_and_dropped(
    autojump_clock: MockClock,
) -> None:
    source = await store_with([0, 1])
    source.fail(ReplayError("the disk is gone", code=70))
    resolver = Resolver(log_with([2], first=2), source, start=0, end=None)
    assert await started(resolver) == 0
    assert await answers(resolver) == [Dropped(0, 1, 70), Dropped(1, 2, 70), ("log", 2)]


async def test_a_failed_start_counts_once_towards_the_breaker(autojump_clock: MockClock) -> None:
    source = await store_with([0, 1])
    source.fail(ReplayError("no", code=70))
    retry = RetryPolicy(budget=0, breaker=2)
    resolver = Resolver(log_with([2], first=2), source, start=0, end=None, retry=retry)
    assert await started(resolver) == 0
    assert resolver.poll_next() == Dropped(0, 1, 70)
    with pytest.raises(ReplayError, match="no"):
        resolver.poll_next()


# Rule 2: each sequence alone


async def test_every_sequence_comes_from_wherever_it_is() -> None:
    log = log_with([3, 4, 6])
    source = await store_with([0, 1, 5, 7])
    publish(log, 8)
    resolver = Resolver(log, source, start=0, end=None)
    assert await started(resolver) == 0
    assert await answers(resolver) == [
        ("store", 0),
        ("store", 1),
        Dropped(2, 3, 0),
        ("log", 3),
        ("log", 4),
        ("store", 5),
        ("log", 6),
        ("store", 7),
        ("log", 8),
    ]
    assert resolver.poll_next() is PARKED


async def test_the_log_goes_before_the_store() -> None:
    log, source = log_with([0]), await store_with([0])
    source.fail(ReplayError("must not be asked"))
    resolver = Resolver(log, source, start=0, end=None)
    assert await started(resolver) == 0
    assert await answers(resolver) == [("log", 0)]


async def test_a_group_that_leaves_the_log_behind_the_cursor_comes_from_the_store() -> None:
    """The hole of the first design: evicted above what was thought to be the boundary."""
    log = TrackLog(LogLimits(cache_bytes=0))
    log.begin_recording(0, 1000)
    source = MemoryTrack()
    resolver = Resolver(log, source, start=0, end=None)
    for _ in range(5):
        publish(log)
    assert await started(resolver) == 0
    first = resolver.poll_next()
    assert isinstance(first, Ready)
    for group in log.unrecorded():
        await source.write([GroupWrite(group.sequence, 0, group.frames, group.end)])
        log.mark_recorded(group, 1, group.end)
    log.evict()
    assert log.first_from(0) == 4
    assert await answers(resolver) == [("store", 1), ("store", 2), ("store", 3), ("log", 4)]
    assert payloads(first.value) == [b"live"], "and who reads one keeps it"


async def test_parked_at_the_edge_until_there_is_more() -> None:
    log = log_with([])
    resolver = Resolver(log, None, start=None, end=None)
    assert await started(resolver) == 0
    assert resolver.poll_next() is PARKED
    publish(log)
    assert await answers(resolver) == [("log", 0)]


# Rule 3: the source's answers


async def test_a_hole_is_dropped_as_one_range_exactly() -> None:
    resolver = Resolver(log_with([5, 20]), await store_with([1, 9]), start=0, end=None)
    assert await started(resolver) == 1
    assert await answers(resolver) == [
        ("store", 1),
        Dropped(2, 5, 0),
        ("log", 5),
        Dropped(6, 9, 0),
        ("store", 9),
        Dropped(10, 20, 0),
        ("log", 20),
    ]


async def test_without_a_store_a_hole_is_dropped_too() -> None:
    log = TrackLog(LogLimits(cache_bytes=0))
    publish(log)
    resolver = Resolver(log, None, start=0, end=None)
    assert await started(resolver) == 0
    for _ in range(3):
        publish(log)
    assert await answers(resolver) == [("log", 0), Dropped(1, 3, 0), ("log", 3)]


async def test_what_was_lost_is_dropped_as_evicted_without_asking_the_store() -> None:
    log = TrackLog(LogLimits(cache_bytes=0, max_bytes=5))
    log.begin_recording(0, 1000)
    source = MemoryTrack()
    resolver = Resolver(log, source, start=0, end=None)
    assert await started(resolver) == 0
    for _ in range(4):
        publish(log)
    source.fail(ReplayError("must not be asked"))
    assert await answers(resolver) == [Dropped(0, 3, StreamCode.EVICTED), ("log", 3)]


async def test_who_resumes_where_groups_were_lost_is_told_so() -> None:
    """Before and after the store has taken note of it. What was never there is no loss."""
    log = TrackLog(LogLimits(cache_bytes=0, max_bytes=5))
    log.begin_recording(0, 1000)
    source = await store_with([0])
    for sequence in (3, 4, 5, 6):
        publish(log, sequence)
    lost = Dropped(3, 6, StreamCode.EVICTED)
    for _ in range(2):
        for asked, expected in {1: 3, 3: 3, 4: 4}.items():
            resolver = Resolver(log, source, start=asked, end=None)
            assert await started(resolver) == expected
            assert await answers(resolver) == [attrs.evolve(lost, start=expected), ("log", 6)]
        await source.write_gaps([GapWrite(3, 6, StreamCode.EVICTED)])
        log.forget_lost(log.lost_ranges())


async def test_a_group_that_goes_on_from_the_store_is_wanted_as_much_as_before() -> None:
    asked: list[int] = []

    class Source(MemoryTrack):
        def poll_group(self, sequence: int, *, priority: int = 0) -> Any:
            asked.append(priority)
            return super().poll_group(sequence, priority=priority)

    source = Source()
    await source.write([GroupWrite(0, 0, [Frame(b"%d" % each, 0) for each in range(3)], FINISHED)])
    resolver = Resolver(log_with([]), source, start=0, end=None, priority=7)
    resolver.priority = 9  # as an update says
    assert payloads(resolver.reopen(0, 1)) == [b"1", b"2"]
    assert asked == [9]


async def test_a_source_that_heals_within_the_budget_loses_nothing(
    autojump_clock: MockClock,
) -> None:
    source = await store_with([0, 1])
    resolver = Resolver(log_with([2], first=2), source, start=0, end=None)
    assert await started(resolver) == 0
    source.fail(ReplayError("hiccup"))
    assert isinstance(resolver.poll_next(), Ready), "found before it failed, and held"
    pauses = []
    for _ in range(4):
        answer = resolver.poll_next()
        assert isinstance(answer, Pending)
        before = trio.current_time()
        again = resolver.poll_next()
        assert isinstance(again, Pending)  # not asked again before it is time
        await answer.wait()
        pauses.append(trio.current_time() - before)
    for number, pause in enumerate(pauses):
        assert 0.025 * 2**number <= pause <= 0.05 * 2**number
    source.fail(None)
    assert await answers(resolver) == [("store", 1), ("log", 2)]


async def test_a_source_that_stays_broken_is_given_up_group_by_group_then_altogether(
    autojump_clock: MockClock,
) -> None:
    source = await store_with(range(30))
    source.fail(ReplayError("gone", code=StreamCode.INTERNAL))
    resolver = Resolver(log_with([30], first=30), source, start=0, end=None)
    assert await started(resolver) == 0
    found = []
    while resolver.cursor is not None and resolver.cursor < 15:
        answer = resolver.poll_next()
        if isinstance(answer, Pending):
            await answer.wait()
        else:
            found.append(answer)
    with pytest.raises(ReplayError, match="gone"):
        resolver.poll_next()
    # Code 0 would say that there was nothing.
    assert found == [Dropped(s, s + 1, StreamCode.EVICTED) for s in range(15)]


async def test_success_resets_the_count_of_failures(autojump_clock: MockClock) -> None:
    source = await store_with(range(100))
    resolver = Resolver(
        log_with([100], first=100),
        source,
        start=0,
        end=None,
        retry=RetryPolicy(budget=0.2, breaker=3),
    )
    assert await started(resolver) == 0
    lost = 0
    for number in range(40):
        source.fail(ReplayError("every other") if number % 3 else None)
        while isinstance(answer := resolver.poll_next(), Pending):
            await answer.wait()
        lost += isinstance(answer, Dropped)
        if isinstance(answer, Ready):
            resolver.retries.answered()  # as who reads it would say
    assert resolver.cursor == 40
    assert lost == 26


async def test_what_cannot_help_is_not_repeated() -> None:
    source = await store_with([0, 1])
    resolver = Resolver(log_with([2], first=2), source, start=0, end=None)
    assert await started(resolver) == 0
    source.fail(ReplayError("corrupt", code=77, retryable=False))
    assert await answers(resolver) == [("store", 0), Dropped(1, 2, 77), ("log", 2)]


async def test_damage_is_named_as_one_range_and_never_too_much() -> None:
    """What is known to be lost is an answer: no number of such groups ends a subscription."""
    source = await store_with(range(2510))
    resolver = Resolver(log_with([2510], first=2510), source, start=0, end=None)
    assert await started(resolver) == 0
    poll_group = source.poll_group

    def poll_damaged(sequence: int, *, priority: int = 0) -> Any:
        if 10 <= sequence < 2500:
            raise ReplayError("corrupt", code=77, retryable=False)
        return poll_group(sequence)

    source.poll_group = poll_damaged  # type: ignore[method-assign] # as a damaged file would
    found = await answers(resolver)
    drops = [each for each in found if isinstance(each, Dropped)]
    assert (drops[0].start, drops[-1].end) == (10, 2500)
    assert all(before.end == after.start for before, after in pairwise(drops))
    assert {drop.code for drop in drops} == {77}
    assert len(drops) <= 3
    assert [each for each in found if each not in drops] == [
        *[("store", sequence) for sequence in (*range(10), *range(2500, 2510))],
        ("log", 2510),
    ]


# Rule 4 and 10: ends


async def test_done_is_at_the_tracks_end_and_not_before() -> None:
    log = log_with([0, 1])
    resolver = Resolver(log, None, start=0, end=None)
    assert await started(resolver) == 0
    log.finish()
    assert await answers(resolver) == [("log", 0), ("log", 1)]
    assert resolver.poll_next() is DONE


async def test_a_track_whose_last_groups_are_not_reserved_is_not_done() -> None:
    log = TrackLog(FOREVER)
    log.begin_recording(0, 1)
    publish(log)
    publish(log)
    log.finish()
    resolver = Resolver(log, None, start=0, end=None)
    assert await started(resolver) == 0
    assert await answers(resolver) == [("log", 0)]
    assert resolver.poll_next() is PARKED
    log.set_reserved_end(10)
    assert await answers(resolver) == [("log", 1)]
    assert resolver.poll_next() is DONE


@pytest.mark.parametrize("end", [0, 1, 3, 5])
async def test_an_end_inside_history_is_served_to_and_no_further(end: int) -> None:
    resolver = Resolver(log_with([4, 5], first=4), await store_with(range(4)), start=0, end=end)
    assert await started(resolver) == 0
    found = await answers(resolver)
    assert [sequence for _, sequence in found] == list(range(end))  # type: ignore[misc]  # no drop
    assert resolver.poll_next() is DONE


async def test_a_drop_does_not_go_beyond_the_end() -> None:
    resolver = Resolver(log_with([50]), await store_with([0]), start=0, end=10)
    assert await started(resolver) == 0
    assert await answers(resolver) == [("store", 0), Dropped(1, 10, 0)]
    assert resolver.poll_next() is DONE


async def test_an_end_below_what_is_available_is_done_at_once() -> None:
    resolver = Resolver(log_with([50]), None, start=0, end=10)
    assert await started(resolver) == 50
    assert resolver.poll_next() is DONE
    resolver.close()


async def test_the_end_may_move() -> None:
    resolver = Resolver(log_with(range(10)), None, start=0, end=3)
    assert await started(resolver) == 0
    assert len(await answers(resolver)) == 3
    resolver.end = 5
    assert await answers(resolver) == [("log", 3), ("log", 4)]
    resolver.end = None
    assert len(await answers(resolver)) == 5


async def test_a_raised_start_skips_and_a_lowered_one_repeats_nothing() -> None:
    source = await store_with(range(5))
    resolver = Resolver(log_with(range(5, 10), first=5), source, start=0, end=None)
    assert await started(resolver) == 0
    resolver.raise_start(4)  # what was found for the start is let go of
    assert await answers(resolver, 1 + 1 + 5 + 1) == [
        ("store", 4),
        *(("log", s) for s in range(5, 10)),
    ]
    resolver.raise_start(0)
    assert resolver.poll_next() is PARKED


async def test_closing_closes_what_was_found() -> None:
    closed: list[int] = []

    class Reader_(MemoryGroupReader):
        def close(self) -> None:
            closed.append(self.sequence)

    class Source(MemoryTrack):
        def poll_group(self, sequence: int, *, priority: int = 0):  # type: ignore[no-untyped-def]  # as inherited
            answer = super().poll_group(sequence)
            if isinstance(answer, Ready):
                return Ready(Reader_(self, answer.value._group))
            return answer

    source = Source()
    await source.write([GroupWrite(s, 0, [], FINISHED) for s in range(3)])
    log = log_with([3], first=3)
    resolver = Resolver(log, source, start=0, end=None)
    await started(resolver)
    resolver.close()
    resolver.close()
    assert closed == [0]
    skipping = Resolver(log, source, start=1, end=None)
    await started(skipping)
    skipping.raise_start(2)
    taken = skipping.poll_next()
    assert isinstance(taken, Ready)
    assert taken.value.sequence == 2
    assert closed == [0, 1]
    ended = Resolver(log, source, start=0, end=None)
    await started(ended)
    ended.end = 0
    assert ended.poll_next() is DONE
    assert closed == [0, 1, 0]


# Rule 11: one group


async def test_resolve_group() -> None:
    log, source = log_with([3, 4], first=3), await store_with([0, 1])
    assert payloads(await resolve_group(single(log, source, 1))) == [b"stored 1"]
    assert payloads(await resolve_group(single(log, source, 4))) == [b"live"]
    for absent in (2, 5, 2**61):
        with pytest.raises(RequestError, match=f"no group {absent}") as caught:
            await resolve_group(single(log, source, absent))
        assert caught.value.code == StreamCode.NOT_FOUND
    log.finish()
    with pytest.raises(RequestError):
        await resolve_group(single(log, source, 5))


async def test_resolve_group_tells_failure_from_absence(autojump_clock: MockClock) -> None:
    source = await store_with([0])
    log = log_with([1], first=1)
    source.fail(ReplayError("broken", code=70))
    with pytest.raises(ReplayError) as caught:
        await resolve_group(single(log, source, 0))
    assert (caught.value.code, caught.value.retryable) == (70, False)
    assert 20 < trio.current_time() < 31, "it was retried"
    source.fail(None)
    source.stall()

    async def resolve() -> None:
        assert payloads(await resolve_group(single(log, source, 0))) == [b"stored 0"]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(resolve)
        await trio.testing.wait_all_tasks_blocked()
        source.resume()


# Reading what is in memory


async def test_a_live_reader_follows_its_group() -> None:
    log = TrackLog()
    group = log.create_group()
    reader = LiveReader(group)
    assert reader.poll_frames(100) is PARKED
    for payload in (b"a" * 40, b"b" * 40, b"c" * 40):
        log.write_frame(group, payload, 0)
    sizes = []
    while isinstance(answer := reader.poll_frames(50), Ready):
        sizes.append(len(answer.value))
    assert sizes == [2, 1], "about max_bytes, and at least one"
    assert answer is PARKED
    log.write_frame(group, b"d", 0)
    log.end_group(group, FINISHED)
    answer = reader.poll_frames(1000)
    assert isinstance(answer, Ready)
    assert [frame.payload for frame in answer.value] == [b"d"]
    assert reader.poll_frames(1) is END
    assert reader.sequence == 0


async def test_a_live_reader_never_ends_an_aborted_group() -> None:
    log = TrackLog()
    group = log.create_group()
    log.write_frame(group, b"part", 0)
    log.end_group(group, Aborted(66))
    reader = LiveReader(group)
    assert isinstance(reader.poll_frames(100), Ready)
    for _ in range(2):
        with pytest.raises(ReplayError, match="group 0 was aborted") as caught:
            reader.poll_frames(100)
        assert (caught.value.code, caught.value.retryable) == (66, False)
