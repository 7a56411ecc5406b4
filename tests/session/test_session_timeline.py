"""Frames by time: a track's timeline, asked with an ordinary FETCH."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import suppress

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from session_pairs import payload_of, publish, session_pair

from moqtrio.errors import DecodeError, ProtocolError, ReplayError, RequestError, StreamCode
from moqtrio.model import GroupProducer, Origin, Track
from moqtrio.model.source import Bounds, Missing
from moqtrio.replay import GroupWrite
from moqtrio.replay.memory import MemoryStore, MemoryTrack
from moqtrio.session.timeline import Answer


def timed_track(name: str = "t", **options: float) -> tuple[Origin, Track]:
    origin = Origin()
    return origin, origin.create_broadcast("b").create_track(name, **options)  # type: ignore[arg-type]  # numbers by name


def now_of(track: Track) -> float:
    timeline = track.timeline
    assert timeline is not None
    return timeline.now()


async def test_a_subscription_starts_at_a_time(autojump_clock: trio.testing.MockClock) -> None:
    origin, track = timed_track(cache_age=3600.0)
    times = []
    for _ in range(10):
        times.append(now_of(track))
        publish(track)
        await trio.sleep(60)
    track.finish()
    async with session_pair(origin) as pair:
        for start in (0, 4, 9):
            when = times[start]
            async with pair.client.subscribe("b", "t", start_time=when) as subscription:
                groups = [item.sequence async for item in subscription]  # type: ignore[union-attr]  # no gaps
            assert groups == list(range(start, 10))
        assert await pair.client.find_time("b", "t", times[4] + 1.5) == 5
        assert await pair.client.find_time("b", "t", 0) == 0
        assert await pair.client.find_time("b", "t", times[9] + 30) == 10


async def test_history_is_found_in_the_store(autojump_clock: trio.testing.MockClock) -> None:
    origin = Origin()
    target = MemoryTrack()
    track = origin.create_broadcast("b").create_track("t", store=Recording(target))
    times = []
    for _ in range(10):
        times.append(now_of(track))
        publish(track)
        await record(track, target, 1)
        await trio.sleep(60)
    assert track.statistics().groups == 1, "the others have left memory"
    async with session_pair(origin) as pair:
        for sequence, when in enumerate(times):
            assert await pair.client.find_time("b", "t", when) == sequence
        assert await pair.client.find_time("b", "t", now_of(track)) == 10


async def test_nothing_that_young_is_what_comes_next(
    autojump_clock: trio.testing.MockClock,
) -> None:
    origin, track = timed_track()
    async with session_pair(origin) as pair:
        async with pair.client.subscribe("b", "t", start_time=now_of(track)) as subscription:
            publish(track)
            item = await subscription.receive()
            assert (item.sequence, subscription.start) == (0, 0)  # type: ignore[union-attr]  # a group
        await trio.sleep(60)
        assert await pair.client.find_time("b", "t", now_of(track) - 30) == 1


async def test_a_clock_that_is_behind_is_told(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    origin, track = timed_track()
    publish(track, 3)
    async with session_pair(origin) as pair:
        assert await pair.client.find_time("b", "t", now_of(track) - 1) == 0
        assert not caplog.records
        with caplog.at_level(logging.WARNING, "moqtrio.session"):
            assert await pair.client.find_time("b", "t", now_of(track) + 90) == 3
        assert "90 s behind" in caplog.text or "89 s behind" in caplog.text


async def test_the_answer_is_plain_json(autojump_clock: trio.testing.MockClock) -> None:
    origin, track = timed_track("all")
    second = int(now_of(track))
    publish(track, 7)
    async with session_pair(origin) as pair:
        group = await pair.client.fetch("b", "all.timeline", second)
        (frame,) = await group.read_all()
        answer = json.loads(frame.payload)
        assert answer == {"sequence": 0, "now": frame.timestamp_us / 1e6}
        assert frame.timestamp_us == pytest.approx(now_of(track) * 1e6, abs=2)
        await pair.client.track_info("b", "all.timeline")


async def test_a_timeline_cannot_be_subscribed_to() -> None:
    origin, track = timed_track()
    publish(track)
    async with session_pair(origin) as pair:
        with pytest.raises(RequestError) as raised:
            async with pair.client.subscribe("b", "t.timeline") as subscription:
                await subscription.receive()
        assert raised.value.code == StreamCode.NOT_FOUND
        assert await pair.client.find_time("b", "t", 0) == 0, "the session goes on"


async def test_a_track_of_that_name_is_the_users() -> None:
    origin, track = timed_track()
    publish(track)
    own = origin.broadcasts["b"].create_track("t.timeline")
    own.write_frame(b"mine")
    async with session_pair(origin) as pair:
        group = await pair.client.fetch("b", "t.timeline", 0)
        assert [frame.payload for frame in await group.read_all()] == [b"mine"]
        with pytest.raises(RequestError, match=r"no track 't\.timeline'"):
            await pair.client.find_time("b", "t", 1000.0)
        own.create_group(1000).write_frame(b"mine too")
        with pytest.raises(DecodeError, match="mine too"):
            await pair.client.find_time("b", "t", 1000.0)


class Timeless:
    """A source of an application's own, without an index of times."""

    def bounds(self) -> Bounds:
        return Bounds(None, 0, 7)

    def poll_group(self, sequence: int, *, priority: int = 0) -> Missing:
        return Missing(None)

    def attach(self, track: Track) -> Timeless:
        return self


async def test_without_an_index_it_says_what_to_do() -> None:
    origin = Origin()
    track = origin.create_broadcast("b").create_track("t", store=Timeless())
    publish(track)
    with pytest.raises(ReplayError, match="start at a sequence instead"):
        await track.find_time(0.0)
    async with session_pair(origin) as pair:
        with pytest.raises(RequestError, match="start at a sequence instead") as raised:
            async with pair.client.subscribe("b", "t", start_time=1.0):
                pass
        assert raised.value.code == StreamCode.NOT_FOUND
        with pytest.raises(RequestError, match="b/none: the publisher refused"):
            await pair.client.find_time("b", "none", 1.0)
        with pytest.raises(RequestError, match="unroutable"):
            await pair.client.find_time("none", "t", 1.0)


async def test_a_failing_store_refuses_and_heals() -> None:
    origin = Origin()
    target = MemoryTrack()
    track = origin.create_broadcast("b").create_track("t", store=Recording(target))
    publish(track)
    async with session_pair(origin) as pair:
        target.fail(ReplayError("broken"))
        with pytest.raises(RequestError, match="could not find a group by time: internal"):
            await pair.client.find_time("b", "t", 1.0)
        target.fail(None)
        assert await pair.client.find_time("b", "t", 1.0) == 0


@pytest.mark.parametrize("when", [-600.0, float("nan"), float("inf"), 2.0**70])
async def test_what_is_no_time_is_refused(when: float) -> None:
    origin, _ = timed_track()
    async with session_pair(origin) as pair:
        with pytest.raises(ValueError, match="since the Unix epoch"):
            await pair.client.find_time("b", "t", when)


async def test_one_start_is_enough() -> None:
    origin, _ = timed_track()
    async with session_pair(origin) as pair:
        with pytest.raises(ValueError, match="exclude each other"):
            async with pair.client.subscribe("b", "t", start=0, start_time=1.0):
                pass


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"7",
        b"[]",
        b"{}",
        b"\xff",
        b'{"sequence": 1}',
        b'{"sequence": true, "now": 1}',
        b'{"sequence": -1, "now": 1}',
        b'{"sequence": 1.5, "now": 1}',
        b'{"sequence": 4611686018427387904, "now": 1}',
        b'{"sequence": 1, "now": "noon"}',
        b'{"sequence": 1, "now": null}',
        b"[" * 4000,
        b'{"sequence": %s, "now": 1}' % (b"9" * 4000),
        b'{"sequence": 1, "now": 1}' + b" " * 5000,
    ],
)
def test_answers_that_make_no_sense(payload: bytes) -> None:
    with pytest.raises(DecodeError, match="expected a timeline's answer"):
        Answer.parse(payload)


def test_answers_may_say_more() -> None:
    assert Answer.parse(b'{"sequence": 1, "now": 2, "oldest": 0}') == Answer(1, 2)


async def test_an_asker_who_leaves_holds_nothing_up() -> None:
    origin = Origin()
    target = MemoryTrack()
    track = origin.create_broadcast("b").create_track("t", store=Recording(target))
    publish(track)
    target.stall()
    async with session_pair(origin) as pair:
        for _ in range(20):
            with trio.move_on_after(0.01) as scope:
                await pair.client.find_time("b", "t", 1.0)
            assert scope.cancelled_caught
        target.resume()
        with trio.fail_after(5):
            assert await pair.client.find_time("b", "t", 1.0) == 0


# What a track finds, against what was published when


@attrs.frozen
class Recording:
    """Records into memory, a write at a time, when the test says so."""

    target: MemoryTrack

    def attach(self, track: Track) -> MemoryTrack:
        track.log.begin_recording(0, 10**9)
        return self.target


async def record(track: Track, target: MemoryTrack, limit: int) -> None:
    """Record what the first ``limit`` unrecorded groups have."""
    for group in track.log.unrecorded()[:limit]:
        frames = group.frames[group.recorded :]
        if frames or group.end is not None:
            await target.write([GroupWrite(group.sequence, group.recorded, frames, group.end)])
            track.log.mark_recorded(group, len(frames), group.end)
    track.log.evict()


@attrs.frozen
class Step:
    """Something the application or its recorder does."""

    kind: str
    number: int


STEPS = st.lists(
    st.builds(
        Step,
        st.sampled_from(["open", "late", "write", "write", "end", "wait", "wait", "record"]),
        st.integers(0, 5),
    ),
    min_size=8,
    max_size=40,
)


class Application:
    """Publishes, and knows when it did."""

    def __init__(self, *, recorded: bool) -> None:
        self.target = MemoryStore().track("b", "t") if recorded else None
        store = None if self.target is None else Recording(self.target)
        self.track = Origin().create_broadcast("b").create_track("t", store=store, cache_age=2.0)
        self.open: list[GroupProducer] = []
        self.published: dict[int, list[float]] = {}
        self.recorded_at: dict[int, float] = {}
        self.next_sequence = 0

    async def do(self, step: Step) -> None:
        match step.kind:
            case "open":
                self.open.append(self.track.create_group(self.next_sequence))
                self.next_sequence += 2
            case "late":
                with suppress(ProtocolError):  # it was used, or may have been
                    sequence = self.next_sequence - 1 - 2 * step.number
                    self.open.append(self.track.create_group(sequence))
            case "write" if self.open:
                self.write(self.open[step.number % len(self.open)])
            case "end" if self.open:
                group = self.open.pop(step.number % len(self.open))
                self.write(group)
                group.finish()
            case "wait":
                await trio.sleep(0.3 + step.number)
                self.track.log.evict()
            case "record" if self.target is not None:
                await record(self.track, self.target, 1 + step.number)

    def write(self, group: GroupProducer) -> None:
        group.write_frame(payload_of(group.sequence))
        self.published.setdefault(group.sequence, []).append(now_of(self.track))

    def times(self) -> Sequence[float]:
        return sorted({time for times in self.published.values() for time in times})

    def check(self, when: float, found: int) -> None:
        available = {s for s in range(self.next_sequence) if self.is_there(s)}
        wanted = {s for s in available if any(time >= when for time in self.published.get(s, ()))}
        wanted |= {group.sequence for group in self.open}
        assert all(found <= sequence for sequence in wanted), "something would be missed"
        if found in wanted or found == self.track.log.edge:
            return
        assert self.target is not None, "it has neither changed since nor is it open"
        assert self.target._groups[found].recorded >= when, "it is older than need be"

    def is_there(self, sequence: int) -> bool:
        in_store = self.target is not None and sequence in self.target._groups
        return in_store or self.track.log.get(sequence) is not None


@pytest.mark.parametrize("recorded", [False, True])
@settings(max_examples=150)
@given(script=STEPS)
def test_nothing_published_since_is_missed(recorded: bool, script: list[Step]) -> None:
    async def main() -> None:
        application = Application(recorded=recorded)
        for step in script:
            await application.do(step)
        for time in (0.0, *application.times(), now_of(application.track)):
            for when in (time, time + 0.1):
                application.check(when, await application.track.find_time(when))

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_many_groups_in_memory_do_not_hold_up_the_rest(
    autojump_clock: trio.testing.MockClock,
) -> None:
    _, track = timed_track(cache_age=3600.0)
    publish(track, 20_000)
    await trio.sleep(10)
    turns = 0

    async def live() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(live)
        assert await track.find_time(now_of(track) - 5) == 20_000
        nursery.cancel_scope.cancel()
    assert turns > 50
