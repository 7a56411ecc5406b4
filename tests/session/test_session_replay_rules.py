"""Rules of replay that need a session: retries inside a group, latency, pins, who goes first."""

from __future__ import annotations

import gc
import logging
from collections.abc import Sequence

import pytest
import trio
from session_pairs import (
    groups,
    payload_of,
    publish,
    see,
    see_all,
    session_pair,
    stored_track,
)
from session_raw import SUBSCRIBE, raw_subscriber
from trio.testing import MockClock, wait_all_tasks_blocked

from moqtrio.errors import ReplayError, RequestError, StreamCode, StreamReset
from moqtrio.model import FINISHED, Frame, Group, Origin, Track
from moqtrio.replay import End, GroupWrite, Pending, Ready, Recorder, RetryPolicy
from moqtrio.replay.memory import MemoryGroupReader, MemoryTrack
from moqtrio.session import Gap, ServingLimits, SessionSettings, Subscription
from moqtrio.session.serving import SubscriptionServer
from moqtrio.transport.connection import ReceiveStream
from moqtrio.transport.settings import TransportSettings
from moqtrio.wire import LITE_05
from moqtrio.wire.lite import Subscribe, SubscribeUpdate

BIG = 200_000
TINY = TransportSettings(
    stream_window=1000,
    connection_window=4000,
    stream_send_high=2000,
    stream_send_low=1000,
    connection_send_high=2000,
    connection_send_low=1000,
)


class Flaky(MemoryTrack):
    """Finds every group, and fails in the middle of some."""

    def __init__(self, failing: Sequence[int] = ()) -> None:
        super().__init__()
        self.failing = set(failing)
        self.reads = 0

    def poll_group(self, sequence: int, *, priority: int = 0) -> Ready[MemoryGroupReader] | Pending:  # type: ignore[override]  # it has all of them
        answer = super().poll_group(sequence)
        assert isinstance(answer, Ready)
        return Ready(FlakyReader(self, answer.value._group))


class FlakyReader(MemoryGroupReader):
    first = True

    def poll_frames(self, max_bytes: int) -> Ready[Sequence[Frame]] | Pending | End:
        assert isinstance(self._track, Flaky)
        self._track.reads += 1
        if not self.first and self.sequence in self._track.failing:
            raise ReplayError("read error", code=71)
        self.first = False
        return super().poll_frames(max_bytes)


async def flaky_track(origin: Origin, count: int, failing: Sequence[int]) -> tuple[Track, Flaky]:
    target = Flaky(failing)
    for sequence in range(count):
        frames = [Frame(payload_of(sequence, index, BIG), index) for index in range(2)]
        await target.write([GroupWrite(sequence, 0, frames, FINISHED)])

    class Store:
        def attach(self, track: Track) -> Flaky:
            track.log.begin_recording(count, 10**6)
            return target

    return origin.create_broadcast("b").create_track("t", store=Store()), target


# A source that fails in the middle of a group


async def heal_after(seconds: float, target: Flaky) -> None:
    await trio.sleep(seconds)
    target.failing.clear()


async def test_a_read_that_fails_inside_a_group_is_tried_again(autojump_clock: MockClock) -> None:
    origin = Origin()
    track, target = await flaky_track(origin, 3, [1])
    track.finish()
    async with (
        session_pair(origin) as pair,
        pair.client.subscribe("b", "t", start=0) as subscription,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(heal_after, 20, target)
        assert await see_all(subscription) == groups(0, 1, 2, frames=2, size=BIG)
        assert 20 < trio.current_time() < 23
    assert target.reads < 60, "with pauses in between"


async def test_a_fetch_that_fails_in_the_middle_is_tried_again(autojump_clock: MockClock) -> None:
    origin = Origin()
    _, target = await flaky_track(origin, 1, [0])
    async with session_pair(origin) as pair, trio.open_nursery() as nursery:
        nursery.start_soon(heal_after, 20, target)
        group = await pair.client.fetch("b", "t", 0)
        assert [frame.payload for frame in await group.read_all()] == [
            payload_of(0, index, BIG) for index in range(2)
        ]
        target.failing = {0}
        group = await pair.client.fetch("b", "t", 0)
        with pytest.raises(StreamReset) as caught:
            await group.read_all()
        assert caught.value.code == 71


async def test_beyond_the_budget_the_group_is_reset_and_the_rest_comes(
    autojump_clock: MockClock,
) -> None:
    origin = Origin()
    track, _ = await flaky_track(origin, 3, [1])
    track.finish()
    async with (
        session_pair(origin) as pair,
        pair.client.subscribe("b", "t", start=0) as subscription,
    ):
        assert await see(subscription) == groups(0, frames=2, size=BIG)[0]
        assert await see(subscription) == (1, 71)
        assert 28 < trio.current_time() < 31
        assert await see_all(subscription) == groups(2, frames=2, size=BIG)


async def test_groups_that_all_fail_to_be_read_end_the_subscription(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Although each of them is found, and without the whole budget for every one."""
    origin = Origin()
    await flaky_track(origin, 30, range(30))
    async with (
        session_pair(origin) as pair,
        pair.client.subscribe("b", "t", start=0) as subscription,
    ):
        seen: list[tuple[int, object]] = []

        async def see_them() -> None:
            while True:
                item = await see(subscription)
                assert not isinstance(item, Gap)
                seen.append(item)

        with pytest.raises(RequestError) as caught:
            await see_them()
        assert caught.value.code == 71
        # What was under way when it ended is not blamed on the source.
        assert [sequence for sequence, _ in seen] == [*range(len(seen))]
        assert {code for _, code in seen} <= {71, StreamCode.CANCEL}
        assert len(seen) <= 16
        # Four groups are under way at once, and had begun before the source was known to fail.
        assert trio.current_time() < 35


async def test_the_policy_is_the_sessions(autojump_clock: MockClock) -> None:
    origin = Origin()
    track, _ = await flaky_track(origin, 2, [0])
    track.finish()
    settings = SessionSettings(serving=ServingLimits(retry=RetryPolicy(budget=1)))
    async with (
        session_pair(origin, settings=settings) as pair,
        pair.client.subscribe("b", "t", start=0) as subscription,
    ):
        assert await see(subscription) == (0, 71)
        assert trio.current_time() < 1.1


# Where "latest" is


async def test_latest_after_a_restart_is_what_is_latest_in_the_store() -> None:
    origin = Origin()
    track, _ = await stored_track(origin, range(5))
    async with (
        session_pair(origin) as pair,
        pair.client.subscribe("b", "t") as subscription,
    ):
        assert await see(subscription) == groups(4)[0]
        publish(track)
        assert await see(subscription) == groups(5)[0]


# Max latency


async def account(subscription: Subscription, last: int, size: int) -> dict[int, object]:
    """What became of each group up to ``last``: reset or dropped, the code."""
    found: dict[int, object] = {}
    while last not in found:
        item = await see(subscription)
        if isinstance(item, Gap):
            found.update(dict.fromkeys(range(item.start, item.end), item.code))
        else:
            found[item[0]] = "whole" if item == groups(item[0], size=size)[0] else item[1]
    return found


async def test_live_groups_that_lag_are_dropped_and_history_is_not(
    autojump_clock: MockClock,
) -> None:
    origin = Origin()
    track, _ = await stored_track(origin, range(3), size=3000)
    async with (
        session_pair(origin, transport=TINY) as pair,
        pair.client.subscribe("b", "t", start=0, max_latency=2.5) as subscription,
    ):
        await wait_all_tasks_blocked()
        for _ in range(6):  # 3 to 8
            publish(track, size=3000)
            await trio.sleep(1)
        assert await account(subscription, 8, size=3000) == {
            **dict.fromkeys([0, 1, 2], "whole"),
            **dict.fromkeys([3, 4, 5], StreamCode.OLD),
            **dict.fromkeys([6, 7, 8], "whole"),
        }


async def test_a_group_under_way_is_reset_when_it_has_become_too_old(
    autojump_clock: MockClock,
) -> None:
    origin = Origin()
    track = origin.create_broadcast("b").create_track("t")
    publish(track, size=BIG)
    async with (
        session_pair(origin, transport=TINY) as pair,
        pair.client.subscribe("b", "t", max_latency=2.5) as subscription,
    ):
        group = await subscription.receive()
        assert not isinstance(group, Gap)
        await trio.sleep(2)
        publish(track)
        await wait_all_tasks_blocked()
        await trio.sleep(2)
        publish(track)
        await wait_all_tasks_blocked()
        with pytest.raises(StreamReset) as caught:
            await group.read_all()
        assert caught.value.code == StreamCode.OLD
        assert await see(subscription) == groups(1)[0]
        assert await see(subscription) == groups(2)[0]


async def test_timestamps_make_a_group_old_as_well() -> None:
    origin = Origin()
    track = origin.create_broadcast("b").create_track("t")
    with track.append_group() as group:
        group.write_frame(b"first", 0)
    async with (
        session_pair(origin) as pair,
        pair.client.subscribe("b", "t", max_latency=2.0) as subscription,
    ):
        assert await see(subscription) == (0, [b"first"])
        for timestamp_us in (10_000_000, 11_000_000, 13_000_000):  # all at once
            with track.append_group() as group:
                group.write_frame(b"%d" % timestamp_us, timestamp_us)
        with track.append_group():
            pass  # without a frame it says nothing of the time
        assert await see(subscription) == Gap(1, 2, StreamCode.OLD)
        assert await see(subscription) == (2, [b"11000000"])
        assert await see(subscription) == (3, [b"13000000"])
        assert await see(subscription) == (4, [])


async def test_what_only_the_store_has_is_too_old_by_its_timestamps(
    autojump_clock: MockClock,
) -> None:
    """A subscriber that fell behind the memory of a recorded track."""
    origin = Origin()
    target = MemoryTrack()
    async with trio.open_nursery() as nursery:

        class Store:
            def attach(self, track: Track) -> MemoryTrack:
                nursery.start_soon(Recorder(track.log, target).run)
                return target

        track = origin.create_broadcast("b").create_track("t", store=Store(), cache_age=0.0)
        await wait_all_tasks_blocked()
        async with (
            session_pair(origin, transport=TINY) as pair,
            pair.client.subscribe("b", "t", start=0, max_latency=10.5) as subscription,
        ):
            await wait_all_tasks_blocked()
            for _ in range(20):
                publish(track, size=3000)
                await trio.sleep(1)
            assert await account(subscription, 19, size=3000) == {
                **dict.fromkeys(range(9), StreamCode.OLD),
                **dict.fromkeys(range(9, 20), "whole"),
            }
        nursery.cancel_scope.cancel()


async def test_a_max_latency_can_be_changed(autojump_clock: MockClock) -> None:
    origin = Origin()
    track = origin.create_broadcast("b").create_track("t")
    async with (
        session_pair(origin, transport=TINY) as pair,
        pair.client.subscribe("b", "t", max_latency=0.5) as subscription,
    ):
        await wait_all_tasks_blocked()
        for _ in range(3):
            publish(track, size=3000)
            await trio.sleep(1)
        await subscription.update(max_latency=100)
        await wait_all_tasks_blocked()
        for _ in range(3):
            publish(track, size=3000)
            await trio.sleep(1)
        assert await account(subscription, 5, size=3000) == {
            **dict.fromkeys([0, 1], StreamCode.OLD),
            **dict.fromkeys([2, 3, 4, 5], "whole"),
        }


# Pins


def living_groups() -> set[int]:
    gc.collect()
    return {each.sequence for each in gc.get_objects() if isinstance(each, Group)}


async def test_a_blocked_subscriber_keeps_groups_in_memory_for_a_while_only(
    autojump_clock: MockClock,
) -> None:
    """Then they come from the store, from the frame on where it stopped."""
    origin = Origin()
    target = MemoryTrack()
    async with trio.open_nursery() as nursery:

        class Store:
            def attach(self, track: Track) -> MemoryTrack:
                nursery.start_soon(Recorder(track.log, target).run)
                return target

        track = origin.create_broadcast("b").create_track(
            "t", store=Store(), cache_age=0.0, cache_bytes=0
        )
        await wait_all_tasks_blocked()
        async with (
            session_pair(origin, transport=TINY) as pair,
            pair.client.subscribe("b", "t", start=0) as subscription,
        ):
            await wait_all_tasks_blocked()
            publish(track, 3, frames=6, size=100_000)
            await track.wait_durable()
            publish(track)
            await trio.sleep(4)
            assert 0 in living_groups(), "it is being sent"
            await trio.sleep(3)
            assert living_groups() == {3}, "the latest never leaves"
            await trio.sleep(3600)
            seen = [await see(subscription) for _ in range(4)]
            assert seen == [*groups(0, 1, 2, frames=6, size=100_000), *groups(3)]
        nursery.cancel_scope.cancel()


async def test_a_fetch_nobody_reads_keeps_its_group_for_a_while_only(
    autojump_clock: MockClock,
) -> None:
    origin = Origin()
    track = origin.create_broadcast("b").create_track("t", cache_age=1.0)
    publish(track, frames=6, size=100_000)
    async with session_pair(origin, transport=TINY) as pair:
        group = await pair.client.fetch("b", "t", 0)
        await trio.sleep(10)
        assert 0 in living_groups(), "the track itself has it"
        publish(track)
        await wait_all_tasks_blocked()
        assert living_groups() == {1}
        with pytest.raises(StreamReset) as caught:
            await group.read_all()
        assert caught.value.code == StreamCode.EVICTED


async def test_without_a_store_what_was_pinned_too_long_is_lost_and_said_to_be(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    # A record that pytest keeps has the error, and that its traceback.
    caplog.set_level(logging.CRITICAL)
    origin = Origin()
    track = origin.create_broadcast("b").create_track("t", cache_age=1.0)
    publish(track, frames=6, size=100_000)
    async with (
        session_pair(origin, transport=TINY) as pair,
        pair.client.subscribe("b", "t", start=0) as subscription,
    ):
        await trio.sleep(10)
        publish(track)
        await trio.sleep(0.1)
        assert living_groups() == {1}
        assert await see(subscription) == (0, StreamCode.EVICTED)
        assert await see(subscription) == groups(1)[0]


# Who goes first


async def test_who_follows_goes_before_who_catches_up() -> None:
    """On one connection whose subscriber takes a little at a time."""
    origin = Origin()
    track, _ = await stored_track(origin, range(50), size=20_000)
    live = origin.create_broadcast("live").create_track("t")
    publish(live)
    transport = TransportSettings(stream_window=20_000, connection_window=40_000)
    async with (
        session_pair(origin, transport=transport) as pair,
        pair.client.subscribe("live", "t") as following,
        pair.client.subscribe("b", "t", start=0) as catching_up,
    ):
        assert await see(following) == groups(0)[0]
        assert await see(catching_up) == groups(0, size=20_000)[0]
        for number in range(1, 10):
            await wait_all_tasks_blocked()
            publish(live)  # behind everything the transport has taken
            await wait_all_tasks_blocked()
            # One group's worth of credit, and it is here.
            assert await see(catching_up) == groups(number, size=20_000)[0]
            with trio.fail_after(1):
                assert await see(following) == groups(number)[0]
    assert track.log.edge == 50


async def test_a_priority_reaches_what_the_transport_has_taken() -> None:
    """Two subscriptions, of which the transport has several groups each."""
    origin = Origin()
    await stored_track(origin, range(8), size=600)
    settings = TransportSettings(stream_window=1000, connection_window=1300)
    async with raw_subscriber(origin, transport=settings) as raw:
        for number in (0, 1):
            await raw.request(SUBSCRIBE, Subscribe(number, "b", "t", priority=9, start=0))
        first = await raw.request(SUBSCRIBE, Subscribe(2, "b", "t", priority=1, start=0))
        update = SubscribeUpdate(priority=200, start=0)
        await first.send.send_all(update.encode(LITE_05))
        await wait_all_tasks_blocked()
        order: list[int] = []

        async def read(stream: ReceiveStream) -> None:
            data = b""
            while more := await stream.receive_some():
                data += more
            order.append(data[2])  # type, length, subscribe id

        async with trio.open_nursery() as nursery:
            for _ in range(24):
                nursery.start_soon(read, await raw.connection.accept_uni())
        # Behind what had been sent when the update came, and before most of the others.
        assert order[:16].count(2) == 8


async def test_who_is_held_up_in_history_is_not_woken_by_every_live_frame(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns = 0
    turn = SubscriptionServer._turn

    def count(server: SubscriptionServer, nursery: trio.Nursery) -> bool:
        nonlocal turns
        turns += 1
        return turn(server, nursery)

    monkeypatch.setattr(SubscriptionServer, "_turn", count)
    origin = Origin()
    track, _ = await stored_track(origin, range(20), size=BIG)
    async with (
        session_pair(origin, transport=TINY) as pair,
        pair.client.subscribe("b", "t", start=0) as subscription,
    ):
        await wait_all_tasks_blocked()
        before = turns
        for _ in range(50):
            publish(track)
            await wait_all_tasks_blocked()
        assert turns == before
        track.finish()
        assert await see_all(subscription) == [
            *groups(*range(20), size=BIG),
            *groups(*range(20, 70)),
        ]
