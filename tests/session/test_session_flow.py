"""Flow control: tiny windows, slow subscribers, stalled stores, and who must not notice."""

from __future__ import annotations

import pytest
import trio
from session_pairs import (
    Seen,
    assert_nothing_left,
    groups,
    payload_of,
    publish,
    see,
    see_all,
    session_pair,
    stored_track,
)
from trio.testing import MockClock, wait_all_tasks_blocked

from moqtrio.model import Origin
from moqtrio.replay import Missing, Pending, Ready, Recorder
from moqtrio.replay.memory import MemoryGroupReader, MemoryTrack
from moqtrio.session import Gap, Subscription
from moqtrio.transport.settings import TransportSettings

TINY = TransportSettings(stream_window=1000, connection_window=4000, max_streams_uni=2)


@pytest.mark.parametrize("order", ["sequence", "arrival"])
@pytest.mark.parametrize("stored", [0, 100, 200])
async def test_every_byte_comes_through_tiny_windows(stored: int, order: str) -> None:
    origin = Origin()
    track, _ = await stored_track(origin, range(stored), frames=3, size=700)
    publish(track, 200 - stored, frames=3, size=700)
    track.finish()
    async with session_pair(origin, transport=TINY) as pair:
        async with pair.client.subscribe("b", "t", start=0, order=order) as subscription:
            seen = await see_all(subscription)
        # By arrival or not: a publisher sends the older ones first.
        assert seen == groups(*range(200), frames=3, size=700)
    assert_nothing_left(track, pair.client_connection, pair.server_connection)


async def test_a_thousand_groups() -> None:
    origin = Origin()
    track, _ = await stored_track(origin, range(1000))
    publish(track, 1000)
    track.finish()
    async with (
        session_pair(origin) as pair,
        pair.client.subscribe("b", "t", start=0) as subscription,
    ):
        assert await see_all(subscription) == groups(*range(2000))


async def test_a_frame_larger_than_every_window_and_watermark() -> None:
    origin = Origin()
    track = origin.create_broadcast("b").create_track("t")
    publish(track, size=3_000_000)
    publish(track, size=10)
    track.finish()
    async with (
        session_pair(origin, transport=TINY) as pair,
        pair.client.subscribe("b", "t", start=0) as subscription,
    ):
        first = await see(subscription)
        assert first == (0, [payload_of(0, 0, 3_000_000)])
        assert await see_all(subscription) == groups(1, size=10)
        group = await pair.client.fetch("b", "t", 0)
        assert len((await group.receive()).payload) > 3_000_000
        assert await group.read_all() == []


async def test_many_subscriptions_of_both_sides_share_the_connection() -> None:
    """Both sides publish, and both subscribe twice, over one tiny connection."""
    origins = Origin(), Origin()
    tracks = [origin.create_broadcast("b").create_track("t") for origin in origins]
    for track in tracks:
        publish(track, 20, frames=2, size=600)
        track.finish()
    results: list[list[Seen]] = []

    async def follow(subscription: Subscription) -> None:
        results.append(await see_all(subscription))

    async with (
        session_pair(origins[0], client_origin=origins[1], transport=TINY) as pair,
        pair.client.subscribe("b", "t", start=0) as one,
        pair.client.subscribe("b", "t", start=5) as two,
        pair.server.subscribe("b", "t", start=0) as three,
        pair.server.subscribe("b", "t", start=5) as four,
        trio.open_nursery() as nursery,
    ):
        for subscription in (one, two, three, four):
            nursery.start_soon(follow, subscription)
    whole = groups(*range(20), frames=2, size=600)
    assert sorted(map(len, results)) == [15, 15, 20, 20]
    assert all(result == whole[-len(result) :] for result in results)
    for track in tracks:
        assert_nothing_left(track, pair.client_connection, pair.server_connection)


async def record(origin: Origin, nursery: trio.Nursery, **limits: int) -> MemoryTrack:
    """Make ``b/t`` a recorded track with a small memory."""
    target = MemoryTrack()

    class Store:
        def attach(self, track: object) -> MemoryTrack:
            nursery.start_soon(Recorder(track.log, target).run)  # type: ignore[attr-defined]
            return target

    origin.create_broadcast("b").create_track("t", store=Store(), cache_age=0.1, **limits)  # type: ignore[arg-type]
    return target


async def test_a_subscriber_that_stops_reading_holds_its_window_and_is_caught_up(
    autojump_clock: MockClock,
) -> None:
    """And another does not notice: P9, P14, P15."""
    origin = Origin()
    transport = TransportSettings(
        stream_window=20_000,
        connection_window=100_000,
        connection_send_high=200_000,
        connection_send_low=100_000,
    )
    async with trio.open_nursery() as nursery:
        await record(origin, nursery, cache_bytes=100_000)
        track = origin.broadcasts["b"].tracks["t"]
        async with (
            session_pair(origin, transport=transport) as slow_pair,
            session_pair(origin, transport=transport) as fast_pair,
            slow_pair.client.subscribe("b", "t", start=0) as slow,
            fast_pair.client.subscribe("b", "t", start=0) as fast,
        ):
            for sequence in range(300):
                publish(track, size=10_000)
                with trio.fail_after(0.5):
                    assert await see(fast) == groups(sequence, size=10_000)[0]
                await trio.sleep(0.1)
            sent = slow_pair.server_connection.statistics()
            assert sent.bytes_sent <= 100_000 + 1000
            assert sent.send_buffered <= 200_000 + 5 * 70_000
            statistics = track.log.statistics()
            assert statistics.bytes <= 100_000 + 20_000
            assert statistics.lost == 0
            track.finish()
            with trio.fail_after(60):
                assert await see_all(slow) == groups(*range(300), size=10_000)
            assert await see_all(fast) == []
        assert len(track.log.watchers) == 1, "the recorder"
        nursery.cancel_scope.cancel()


async def test_without_a_store_a_subscriber_that_stops_reading_is_told_what_it_missed(
    autojump_clock: MockClock,
) -> None:
    origin = Origin()
    transport = TransportSettings(
        stream_window=20_000,
        connection_window=50_000,
        connection_send_high=60_000,
        connection_send_low=30_000,
    )
    track = origin.create_broadcast("b").create_track("t", cache_bytes=50_000)
    async with (
        session_pair(origin, transport=transport) as pair,
        pair.client.subscribe("b", "t", start=0) as subscription,
    ):
        for _ in range(300):
            publish(track, size=10_000)
            await wait_all_tasks_blocked()
        track.finish()
        seen = await see_all(subscription)
    told: list[int] = []
    for item in seen:
        told += range(item.start, item.end) if isinstance(item, Gap) else [item[0]]
        assert isinstance(item, Gap) or item == groups(item[0], size=10_000)[0]
    assert told == list(range(300))
    gaps = [item for item in seen if isinstance(item, Gap)]
    assert len(gaps) == 1
    assert gaps[0].code == 0
    assert gaps[0].end - gaps[0].start > 200


class SlowReads(MemoryTrack):
    """Finds groups at once and reads some of them when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[int, trio.Event] = {}
        self.open_readers = 0

    def poll_group(
        self, sequence: int, *, priority: int = 0
    ) -> Ready[MemoryGroupReader] | Pending | Missing:
        answer = super().poll_group(sequence)
        if isinstance(answer, Ready):
            self.open_readers += 1
            return Ready(SlowReader(self, answer.value._group))
        return answer


class SlowReader(MemoryGroupReader):
    closed = False

    def poll_frames(self, max_bytes: int):  # type: ignore[no-untyped-def]  # as inherited
        assert not self.closed
        assert isinstance(self._track, SlowReads)
        event = self._track.held.get(self.sequence)
        if event is not None and not event.is_set():
            return Pending(event.wait)
        return super().poll_frames(max_bytes)

    def close(self) -> None:
        assert isinstance(self._track, SlowReads)
        self._track.open_readers -= not self.closed
        self.closed = True


async def slow_track(origin: Origin, stored: int) -> SlowReads:
    target = SlowReads()
    _, filled = await stored_track(Origin(), range(stored))
    for sequence, group in filled._groups.items():
        target._groups[sequence] = group
        target._order.append(sequence)
    target._next_sequence = stored

    class Store:
        def attach(self, track: object) -> SlowReads:
            track.log.begin_recording(stored, 10**6)  # type: ignore[attr-defined]
            return target

    origin.create_broadcast("b").create_track("t", store=Store())
    return target


async def test_a_group_whose_first_read_is_slow_is_not_overtaken(
    autojump_clock: MockClock,
) -> None:
    """P3: if a later group's stream opened first, the subscriber would give this one up."""
    origin = Origin()
    target = await slow_track(origin, 3)
    target.held = {0: trio.Event(), 2: trio.Event()}
    publish(origin.broadcasts["b"].tracks["t"], 5)

    async def heal() -> None:
        for event in target.held.values():
            await trio.sleep(30)
            event.set()

    async with (
        session_pair(origin) as pair,
        pair.client.subscribe("b", "t", start=0, end=8, gap_timeout=1.0) as subscription,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(heal)
        assert await see_all(subscription) == groups(*range(8))
        assert trio.current_time() >= 60
    assert target.open_readers == 0


async def test_leaving_closes_every_reader_and_ends_every_wait() -> None:
    """P13."""
    origin = Origin()
    target = await slow_track(origin, 10)
    track = origin.broadcasts["b"].tracks["t"]
    target.held = {2: trio.Event()}
    async with session_pair(origin) as pair:
        for _ in range(5):
            async with pair.client.subscribe("b", "t", start=0) as subscription:
                assert [await see(subscription), await see(subscription)] == groups(0, 1)
                await wait_all_tasks_blocked()
                assert target.open_readers == 1
                assert target.held[2].statistics().tasks_waiting == 1
            group = None
            with trio.move_on_after(0.01):
                group = await pair.client.fetch("b", "t", 2)
            assert group is None
            await wait_all_tasks_blocked()
            assert target.open_readers == 0
            assert target.held[2].statistics().tasks_waiting == 0
        assert_nothing_left(track, pair.client_connection, pair.server_connection)


async def test_a_stalled_store_does_not_delay_those_who_are_live(
    autojump_clock: MockClock,
) -> None:
    """P14, in one session."""
    origin = Origin()
    track, target = await stored_track(origin, range(5))
    publish(track)
    async with (
        session_pair(origin) as pair,
        pair.client.subscribe("b", "t") as live,
    ):
        assert await see(live) == groups(5)[0]
        target.stall()
        async with pair.client.subscribe("b", "t", start=0) as replayed:
            for sequence in range(6, 50):
                publish(track)
                before = trio.current_time()
                assert await see(live) == groups(sequence)[0]
                assert trio.current_time() == before
            target.resume()
            for sequence in range(50):
                assert await see(replayed) == groups(sequence)[0]


async def test_a_request_waits_for_our_own_credit_as_long_as_it_takes(
    autojump_clock: MockClock,
) -> None:
    """A peer whose request we do not let through has not been slow."""
    origin, client_origin = Origin(), Origin()
    transport = TransportSettings(
        connection_window=10_000, connection_send_high=20_000, connection_send_low=10_000
    )
    origin.create_broadcast("b").create_track("t")
    track = client_origin.create_broadcast("b").create_track("t")
    async with (
        session_pair(origin, client_origin=client_origin, transport=transport) as pair,
        pair.server.subscribe("b", "t", start=0) as subscription,
        trio.open_nursery() as nursery,
    ):
        publish(track, 10, size=9_000)
        track.finish()
        await wait_all_tasks_blocked()
        assert pair.client_connection.statistics().send_buffered >= 20_000
        nursery.start_soon(pair.client.track_info, "b", "t")
        await trio.sleep(60)
        assert await see_all(subscription) == groups(*range(10), size=9_000)
