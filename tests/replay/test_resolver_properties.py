"""P1 to P8: whatever the publisher, the log, the store and the subscriber do.

A plan is a list of steps, drawn by Hypothesis, that publishes, records, trims, breaks and
heals while one subscription polls. After each answer the account is checked against what
was available at that instant.
"""

from __future__ import annotations

import attrs
import trio
from hypothesis import event, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from moqtrio.errors import ReplayError
from moqtrio.model.frame import Frame
from moqtrio.model.group import FINISHED, Aborted, Group
from moqtrio.model.log import LogLimits, TrackLog
from moqtrio.model.ranges import RangeSet
from moqtrio.replay import (
    DONE,
    END,
    PARKED,
    Dropped,
    GroupWrite,
    Pending,
    Ready,
    Resolver,
    RetryPolicy,
)
from moqtrio.replay.memory import MemoryTrack
from moqtrio.replay.resolver import Reader

RETRY = RetryPolicy(budget=0.2, breaker=10**6)


class World:
    """A publisher, its log and its store, with every control a test may turn."""

    def __init__(self, *, recorded: bool, cache_bytes: int, max_bytes: int) -> None:
        self.log = TrackLog(LogLimits(cache_age=3, cache_bytes=cache_bytes, max_bytes=max_bytes))
        self.source = MemoryTrack() if recorded else None
        if recorded:
            self.log.begin_recording(0, 4)
        self.published: dict[int, Group] = {}
        self.broken = False
        self.stalled = False

    def publish(self, size: int, skip: int, end: str) -> None:
        log = self.log
        group = log.create_group(log.next_sequence + skip)
        self.published[group.sequence] = group
        log.write_frame(group, b"%d:" % group.sequence + bytes(size), group.sequence)
        if end != "open":
            log.end_group(group, FINISHED if end == "finish" else Aborted(70))

    def go_on(self, which: int) -> None:
        """Write to an open group, or end it."""
        going = [group for group in self.published.values() if group.end is None]
        if going:
            group = going[which % len(going)]
            if which % 3:
                self.log.write_frame(group, b"more %d" % len(group.frames), which)
            else:
                self.log.end_group(group, FINISHED)

    async def record(self, batch: int) -> None:
        """What the recorder does, a few groups at a time."""
        source, log = self.source, self.log
        if source is None or self.broken:
            return
        await source.reserve(log.next_sequence + 2)
        log.set_reserved_end(source.reserved_end)
        for group in log.unrecorded()[:batch]:
            frames = group.frames[group.recorded :]
            if group.lost and frames:
                write = GroupWrite(group.sequence, group.recorded, (), Aborted(53))
            else:
                write = GroupWrite(group.sequence, group.recorded, frames, group.end)
            await source.write([write])
            log.mark_recorded(group, len(write.frames), write.end)
        log.evict()

    def forget(self, number: int) -> None:
        """The store trims, or loses one group in the middle."""
        if self.source is None or not self.source._order:
            return
        sequence = self.source._order[number % len(self.source._order)]
        if number % 2:
            self.source.trim(sequence)
        else:
            self.source.remove(sequence)

    def set_broken(self, how: int) -> None:
        if self.source is not None:
            self.broken = how > 0
            error = ReplayError("broken", code=71, retryable=how > 1) if how else None
            self.source.fail(error)

    def set_stalled(self, stalled: bool) -> None:
        if self.source is not None:
            self.stalled = stalled
            (self.source.stall if stalled else self.source.resume)()

    def in_log(self, sequence: int) -> bool:
        return self.log.get(sequence) is not None

    def in_store(self, sequence: int) -> bool:
        return self.source is not None and sequence in self.source._groups


@attrs.define
class Reading:
    """A group under way to the subscriber."""

    reader: Reader
    frames: list[Frame] = attrs.Factory(list)


class Subscriber:
    """Polls like a subscription does, and keeps the account."""

    def __init__(self, world: World, start: int | None, end: int | None) -> None:
        self.world = world
        self.asked = start
        self.resolver = Resolver(world.log, world.source, start=start, end=end, retry=RETRY)
        self.start: int | None = None
        self.expected = 0  # the next sequence to be accounted for
        self.reading: list[Reading] = []
        self.delivered = RangeSet()
        self.reset = RangeSet()
        self.dropped = RangeSet()
        self.skipped = RangeSet()

    def poll_start(self) -> Pending | None:
        answer = self.resolver.poll_start()
        if isinstance(answer, Pending):
            self.check_pending()
            return answer
        self.start = self.expected = start = answer.value
        world = self.world
        if self.asked is None:
            assert start == world.log.edge or world.in_log(start) or world.in_store(start)
            return None
        assert start >= self.asked  # P1
        for sequence in range(self.asked, min(start, world.log.edge)):
            assert not world.in_log(sequence)
            assert not world.in_store(sequence) or world.broken
        if start < world.log.edge:
            lost = world.log.lost_until(start) is not None  # and is dropped by name
            assert world.in_log(start) or world.in_store(start) or lost or world.broken
        return None

    def poll_next(self) -> Pending | None:
        """Take one answer. None: there was one, or there is none to wait for."""
        answer = self.resolver.poll_next()
        if isinstance(answer, Pending):
            self.check_pending()
            return answer
        if answer is PARKED:
            assert self.expected >= self.world.log.edge
        elif answer is DONE:
            assert self.at_end()
        elif isinstance(answer, Dropped):
            self.check_dropped(answer)
            self.dropped.add(answer.start, answer.end)
            self.expected = answer.end
        else:
            assert isinstance(answer, Ready)
            assert answer.value.sequence == self.expected  # P2, P3
            assert self.expected in self.world.published  # P5
            assert not self.at_end()
            self.reading.append(Reading(answer.value))
            self.expected += 1
        return None

    def at_end(self) -> bool:
        final = self.world.log.final_sequence
        ends = [end for end in (self.resolver.end, final) if end is not None]
        return any(self.expected >= end for end in ends)

    def check_pending(self) -> None:
        assert self.world.stalled or self.world.broken or self.resolver._tries.waiting() is not None

    def check_dropped(self, drop: Dropped) -> None:
        world = self.world
        assert drop.start == self.expected < drop.end  # P2
        assert drop.end <= world.log.edge
        assert self.resolver.end is None or drop.end <= self.resolver.end
        for sequence in range(drop.start, drop.end):
            assert not world.in_log(sequence)  # P4
            if drop.code == 0:
                assert not world.in_store(sequence)  # P4, P7
            elif not world.broken:
                assert world.log.lost_until(sequence) is not None  # P8
        if world.broken:
            assert drop.code != 0  # P8: nobody could know that there is none

    def read(self, number: int) -> Pending | None:
        """Read one piece of one of the groups under way."""
        if not self.reading:
            return None
        reading = self.reading[number % len(self.reading)]
        sequence = reading.reader.sequence
        group = self.world.published[sequence]
        try:
            answer = reading.reader.poll_frames(16)
        except ReplayError as error:
            self.check_failed(group, error)
            self.finish(reading, self.reset)
            return None
        if isinstance(answer, Pending):
            return answer
        if isinstance(answer, Ready):
            assert answer.value, "an answer that is no answer"
            reading.frames += answer.value
            assert reading.frames == group.frames[: len(reading.frames)]  # P5
        elif answer is END:
            assert group.end == FINISHED
            assert reading.frames == group.frames  # P5: a part is never the whole
            self.finish(reading, self.delivered)
        return None

    def check_failed(self, group: Group, error: ReplayError) -> None:
        world = self.world
        aborted = isinstance(group.end, Aborted)
        trimmed = not world.in_store(group.sequence)
        lost = world.log.lost_until(group.sequence) is not None  # only a part of it is stored
        assert aborted or trimmed or lost or world.broken, error  # P4
        assert error.code != 0  # P8

    def finish(self, reading: Reading, how: RangeSet) -> None:
        sequence = reading.reader.sequence
        reading.reader.close()
        self.reading.remove(reading)
        assert all(sequence not in ranges for ranges in self.account())  # P2: once
        how.add(sequence, sequence + 1)

    def account(self) -> list[RangeSet]:
        return [self.delivered, self.reset, self.dropped, self.skipped]

    def take(self, action: str, number: int) -> None:
        if action == "read":
            self.read(number)
        elif action == "raise_start":
            self.raise_start(max(self.resolver.cursor or 0, 0) + number)
        elif action == "set_end":
            cursor = self.resolver.cursor
            self.resolver.end = None if number < 0 or cursor is None else cursor + number
        else:
            assert action == "poll"
            for _ in range(number):
                if self.start is None:
                    self.poll_start()
                else:
                    self.poll_next()

    def raise_start(self, start: int) -> None:
        start = max(start, 0)
        self.resolver.raise_start(start)
        if self.start is None:
            self.asked = start if self.asked is None else max(self.asked, start)
        elif start > self.expected:
            self.skipped.add(self.expected, start)
            self.expected = start

    async def finish_everything(self) -> None:
        """Everything is well again: the account must close. (P2, P6, P15)"""
        with trio.fail_after(60):
            while self.start is None:
                if (pending := self.poll_start()) is not None:
                    await pending.wait()
            while self.resolver.poll_next() is not DONE if self.at_end() else True:
                if (pending := self.poll_next()) is not None:
                    await pending.wait()
            while self.reading:
                if (pending := self.read(0)) is not None:
                    await pending.wait()
        whole = RangeSet()
        for ranges in self.account():
            for start, end in ranges.ranges():
                whole.add(start, end)
        assert self.start is not None
        assert whole.ranges() == ([(self.start, self.expected)] if whole else [])
        assert len(whole) == sum(len(ranges) for ranges in self.account())
        assert self.at_end()


numbers = st.integers(0, 11)
publish = st.tuples(
    st.just("publish"),
    st.integers(0, 30),
    st.sampled_from([0, 0, 0, 1, 3]),
    st.sampled_from(["finish", "finish", "finish", "abort", "open"]),
)
record = st.tuples(st.just("record"), st.integers(1, 5))
numbers = st.integers(0, 11)
go_on = st.tuples(st.just("go_on"), numbers)
forget = st.tuples(st.just("forget"), numbers)
sleep = st.tuples(st.just("sleep"), st.sampled_from([0.01, 0.3, 4.0]))
poll = st.tuples(st.just("poll"), st.integers(1, 6))
read = st.tuples(st.just("read"), numbers)
disturbances = st.one_of(
    go_on,
    forget,
    sleep,
    st.tuples(st.just("break"), st.integers(0, 2)),
    st.tuples(st.just("stall"), st.booleans()),
    st.tuples(st.just("raise_start"), st.integers(-3, 2)),
    st.tuples(st.just("set_end"), st.integers(-2, 10)),
)
before = st.lists(
    st.one_of(publish, publish, record, go_on, forget, sleep), min_size=6, max_size=20
)
steps = st.lists(st.one_of(publish, record, poll, read, disturbances), min_size=25, max_size=60)


async def take(world: World, subscriber: Subscriber | None, step: tuple[object, ...]) -> None:
    action, *arguments = step
    (first, *_) = arguments
    assert isinstance(first, int | float)
    number = int(first)
    if action == "publish":
        world.publish(*arguments)  # type: ignore[arg-type]  # as drawn above
    elif action == "go_on":
        world.go_on(number)
    elif action == "record":
        await world.record(number)
    elif action == "forget":
        world.forget(number)
    elif action == "break":
        world.set_broken(number)
    elif action == "stall":
        world.set_stalled(bool(number))
    elif action == "sleep":
        await trio.sleep(first)
    elif subscriber is not None:
        subscriber.take(str(action), number)


@settings(max_examples=400)
@given(
    history=before,
    plan=steps,
    start=st.one_of(st.none(), st.integers(0, 4)),
    end=st.one_of(st.none(), st.integers(1, 20)),
    recorded=st.booleans(),
    cache_bytes=st.sampled_from([0, 50, 10**6]),
    max_bytes=st.sampled_from([60, 10**6]),
)
def test_the_account_is_kept(
    history: list[tuple[object, ...]],
    plan: list[tuple[object, ...]],
    start: int | None,
    end: int | None,
    recorded: bool,
    cache_bytes: int,
    max_bytes: int,
) -> None:
    async def main() -> None:
        world = World(recorded=recorded, cache_bytes=cache_bytes, max_bytes=max_bytes)
        for step in history:
            await take(world, None, step)
        subscriber = Subscriber(world, start, end)
        for step in plan:
            await take(world, subscriber, step)
        world.set_broken(0)
        world.set_stalled(False)
        for group in world.published.values():
            world.log.end_group(group, FINISHED)
        world.log.finish()
        await world.record(10**6)
        await subscriber.finish_everything()
        for name in ("delivered", "reset", "dropped"):
            event(f"{name}: {min(len(getattr(subscriber, name)), 3)}")
        event(f"lost: {min(world.log.statistics().lost, 3)}")

    trio.run(main, clock=MockClock(autojump_threshold=0))
