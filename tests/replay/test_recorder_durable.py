"""Recording mode ``durable``: subscribers see a frame once it has been recorded."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from recorder_tools import GatedTrack, publish, recording
from trio.testing import MockClock

from moqtrio.errors import ReplayError, RequestError, StreamCode
from moqtrio.model import Origin
from moqtrio.model.group import FINISHED, Aborted, Group
from moqtrio.model.log import LogLimits, TrackLog
from moqtrio.model.source import END, Ready
from moqtrio.replay import (
    DONE,
    PARKED,
    Dropped,
    GroupWrite,
    RecorderSettings,
    Resolver,
    resolve_group,
)
from moqtrio.replay.memory import MemoryTrack
from moqtrio.replay.sqlite import SqliteStore


def make_log(**limits: float) -> TrackLog:
    return TrackLog(LogLimits(**limits), recording="durable")  # type: ignore[arg-type]  # by name


def payloads(resolver: Resolver) -> list[bytes]:
    """Everything of the next group that may be seen."""
    answer = resolver.poll_next()
    assert isinstance(answer, Ready)
    frames = answer.value.poll_frames(10**6)
    assert isinstance(frames, Ready)
    return [frame.payload for frame in frames.value]


async def test_a_frame_is_seen_after_its_commit(autojump_clock: MockClock) -> None:
    log, target = make_log(), GatedTrack()
    async with recording(log, target):
        target.write_gate = gate = trio.Event()
        publish(log, b"one")
        log.finish()
        resolver = Resolver(log, target, start=0, end=None)
        assert resolver.poll_start() == Ready(0)
        await trio.sleep(10)
        assert resolver.poll_next() is PARKED
        told: list[float] = []
        log.watchers.add(lambda: told.append(trio.current_time()))
        gate.set()
        await trio.sleep(1)
        assert told, "whoever waits at the edge must hear of it"
        assert payloads(resolver) == [b"one"]
        assert resolver.poll_next() is DONE


async def test_latest_is_the_latest_that_is_durable(autojump_clock: MockClock) -> None:
    log, target = make_log(), GatedTrack()
    async with recording(log, target):
        publish(log, b"one")
        await trio.sleep(1)
        target.write_gate = trio.Event()
        publish(log, b"two")
        await trio.sleep(1)
        resolver = Resolver(log, target, start=None, end=None)
        assert resolver.poll_start() == Ready(0)
        target.write_gate.set()
        await trio.sleep(1)
        resolver = Resolver(log, target, start=None, end=None)
        assert resolver.poll_start() == Ready(1)


async def test_a_fetch_finds_what_is_durable(autojump_clock: MockClock) -> None:
    log, target = make_log(), GatedTrack()
    async with recording(log, target):
        publish(log, b"one")
        await trio.sleep(1)
        target.write_gate = trio.Event()
        publish(log, b"two")
        reader = await resolve_group(Resolver(log, target, start=0, end=1))
        assert reader.sequence == 0
        with pytest.raises(RequestError) as raised:
            await resolve_group(Resolver(log, target, start=1, end=2))
        assert raised.value.code == StreamCode.NOT_FOUND


async def test_beyond_the_hard_cap_what_is_not_durable_is_never_seen(
    autojump_clock: MockClock,
) -> None:
    log, target = make_log(cache_bytes=0, max_bytes=100), GatedTrack()
    async with recording(log, target):
        resolver = Resolver(log, target, start=0, end=None)
        assert resolver.poll_start() == Ready(0)
        target.fail(ReplayError("disk full"))
        for _ in range(10):
            publish(log, bytes(40))
        assert resolver.poll_next() == Dropped(0, 8, StreamCode.EVICTED)
        assert resolver.poll_next() is PARKED
        target.fail(None)
        await trio.sleep(20)
        assert payloads(resolver) == [bytes(40)]
        assert payloads(resolver) == [bytes(40)]


async def test_a_durable_track_over_a_real_store(tmp_path: Path) -> None:
    async with SqliteStore.open(tmp_path) as store:
        broadcast = Origin().create_broadcast("a")
        track = broadcast.create_track("b", store=store, recording="durable")
        track.write_frame(b"one")
        assert (track.log.edge, track.log.latest) == (0, None)
        await track.wait_durable()
        assert (track.log.edge, track.log.latest) == (1, 0)


def test_a_durable_track_needs_a_store() -> None:
    with pytest.raises(ValueError, match="needs a store"):
        Origin().create_broadcast("a").create_track("b", recording="durable")


plans = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(0, 60)),
        st.tuples(st.just("open"), st.integers(0, 60)),
        st.tuples(st.just("write"), st.integers(0, 60)),
        st.tuples(st.just("end"), st.integers(0, 9)),
        st.tuples(st.just("abort"), st.integers(0, 9)),
        st.tuples(st.just("sleep"), st.integers(0, 3)),
        st.tuples(st.just("fail"), st.integers(0, 1)),
        st.tuples(st.just("slow"), st.integers(0, 2)),
    ),
    min_size=5,
    max_size=40,
)


class SlowTrack(MemoryTrack):
    delay = 0.0

    async def write(self, writes: list[GroupWrite]) -> None:  # type: ignore[override]  # a list
        await trio.sleep(self.delay)
        await super().write(writes)


@settings(max_examples=150)
@given(plans)
def test_what_was_seen_is_in_the_store_whenever_the_process_is_killed(
    plan: list[tuple[str, int]],
) -> None:
    """And a subscriber is told of every group, whatever happens to the store."""

    async def main() -> None:
        log = make_log(cache_age=1, cache_bytes=150, max_bytes=300)
        target = SlowTrack()
        resolver = Resolver(log, target, start=0, end=None)
        groups: list[Group] = []
        seen: dict[int, list[bytes]] = {}
        dropped: set[int] = set()

        def look() -> None:
            while True:
                answer = resolver.poll_next()
                if isinstance(answer, Dropped):
                    assert answer.code
                    dropped.update(range(answer.start, answer.end))
                elif isinstance(answer, Ready):
                    readers.append(answer.value)
                else:
                    break
            for reader in tuple(readers):
                got = seen.setdefault(reader.sequence, [])
                try:
                    while isinstance(some := reader.poll_frames(70), Ready):
                        got += [frame.payload for frame in some.value]
                except ReplayError as error:
                    if error.retryable or not error.code:
                        continue
                    dropped.add(reader.sequence)
                    readers.remove(reader)
                else:
                    if some is END:
                        assert target._groups[reader.sequence].end == FINISHED
                        readers.remove(reader)
            for sequence, got in seen.items():
                if got:
                    frames = target._groups[sequence].frames
                    assert got == [frame.payload for frame in frames[: len(got)]]

        readers: list = []  # type: ignore[type-arg]  # of either kind
        async with recording(log, target, RecorderSettings(interval=0.01)):
            assert resolver.poll_start() == Ready(0)
            for action, number in plan:
                if action in ("publish", "open"):
                    end = FINISHED if action == "publish" else None
                    groups.append(publish(log, b"%d|" % len(groups) + bytes(number), end=end))
                elif action == "sleep":
                    await trio.sleep(number)
                elif action == "fail":
                    target.fail(ReplayError("broken") if number else None)
                elif action == "slow":
                    target.delay = number / 2
                elif groups:
                    group = groups[-1 - number % len(groups)]
                    if action == "write" and group.end is None:
                        log.write_frame(group, bytes(number), 0)
                    elif action in ("end", "abort"):
                        log.end_group(group, FINISHED if action == "end" else Aborted(9))
                look()
            target.fail(None)
            for group in groups:
                log.end_group(group, FINISHED)
            for _ in range(30):
                await trio.sleep(1)
                look()
            assert not readers
            assert set(seen) | dropped == set(range(len(groups))), "every group is accounted for"
            for group in groups:
                if group.durable and group.end == FINISHED and group.sequence not in dropped:
                    assert seen[group.sequence] == [frame.payload for frame in group.frames]

    trio.run(main, clock=MockClock(autojump_threshold=0))
