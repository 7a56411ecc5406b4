"""Subscriptions over the in-memory binding: ranges, ends, holes, orders, wishes."""

from __future__ import annotations

import pytest
import session_pairs
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

from moqtrio.errors import ReplayError, RequestError, StreamCode
from moqtrio.model import Origin
from moqtrio.session import Gap, Subscription
from moqtrio.transport.settings import TransportSettings
from moqtrio.wire import lite

pytestmark = pytest.mark.usefixtures("each_version")


@pytest.fixture
def origin() -> Origin:
    return Origin()


def needs(draft: int, why: str) -> None:
    """Skip the test where the sessions of the test speak an older draft."""
    if session_pairs.spoken.draft < draft:
        pytest.skip(f"moq-lite-{session_pairs.spoken.draft:02}: {why}")


# Where it starts and ends


async def test_latest_is_the_default_and_live_follows(origin: Origin) -> None:
    track = origin.create_broadcast("b").create_track("t")
    publish(track, 5)
    async with session_pair(origin) as pair, pair.client.subscribe("b", "t") as subscription:
        assert await see(subscription) == groups(4)[0]
        assert subscription.start == 4
        publish(track)
        assert await see(subscription) == groups(5)[0]
        track.finish()
        assert await see_all(subscription) == []
        assert subscription.final == 6


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, None, range(2, 9)),  # the oldest there is is 2
        (None, None, range(8, 9)),
        (4, None, range(4, 9)),
        (0, 5, range(2, 5)),  # an end inside history
        (3, 7, range(3, 7)),  # over the seam of store and log
        (0, 100, range(2, 9)),  # an end beyond the track's
        (0, 2, range(0)),  # nothing of it is there any more
        (0, 1, range(0)),
        (3, 3, range(0)),
        (9, None, range(0)),
        (50, None, range(0)),  # a start beyond the track's end
    ],
)
async def test_ranges_of_a_track_that_has_ended(
    origin: Origin, start: int | None, end: int | None, expected: range
) -> None:
    track, _ = await stored_track(origin, range(2, 6))
    publish(track, 3)
    track.finish()
    async with (
        session_pair(origin) as pair,
        pair.client.subscribe("b", "t", start=start, end=end) as subscription,
    ):
        with trio.fail_after(5):
            assert await see_all(subscription) == groups(*expected)


async def test_a_start_in_the_future_is_waited_for(origin: Origin) -> None:
    track = origin.create_broadcast("b").create_track("t")
    publish(track, 2)
    async with (
        session_pair(origin) as pair,
        pair.client.subscribe("b", "t", start=4, end=6) as subscription,
    ):
        await wait_all_tasks_blocked()
        publish(track, 10)
        assert await see_all(subscription) == groups(4, 5)
        assert subscription.start == 4


async def test_a_track_that_ends_before_its_subscriptions_start(origin: Origin) -> None:
    track = origin.create_broadcast("b").create_track("t")
    publish(track, 2)
    async with (
        session_pair(origin) as pair,
        pair.client.subscribe("b", "t", start=4) as subscription,
    ):
        await wait_all_tasks_blocked()
        publish(track, 1)
        track.finish()
        assert await see_all(subscription) == []


async def test_an_empty_track(origin: Origin) -> None:
    track = origin.create_broadcast("b").create_track("t")
    track.finish()
    async with (
        session_pair(origin) as pair,
        pair.client.subscribe("b", "t", start=0) as subscription,
    ):
        assert await see_all(subscription) == []
        assert (subscription.start, subscription.final) == (0, 0)


async def test_the_end_waits_for_a_group_that_is_open(origin: Origin) -> None:
    track = origin.create_broadcast("b").create_track("t")
    group = track.append_group()
    track.finish()
    async with session_pair(origin) as pair, pair.client.subscribe("b", "t") as subscription:
        item = await subscription.receive()
        assert not isinstance(item, Gap)
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                assert [frame.payload for frame in await item.read_all()] == [b"1", b"2"]
                assert await see_all(subscription) == []

            nursery.start_soon(read)
            await wait_all_tasks_blocked()
            group.write_frame(b"1")
            await wait_all_tasks_blocked()
            group.write_frame(b"2")
            group.finish()


async def test_frames_come_as_they_are_written_with_their_timestamps(origin: Origin) -> None:
    needs(5, "frames have no timestamps")
    track = origin.create_broadcast("b").create_track("t")
    async with session_pair(origin) as pair, pair.client.subscribe("b", "t") as subscription:
        with track.append_group() as group:
            item = await subscription.receive()
            assert not isinstance(item, Gap)
            for index, timestamp in enumerate((5_000_000, 4_000_000, 2**61 - 1, 0)):
                group.write_frame(b"%d" % index, timestamp)
                frame = await item.receive()
                assert (frame.payload, frame.timestamp_us) == (b"%d" % index, timestamp)
        with pytest.raises(trio.EndOfChannel):
            await item.receive()


# Holes and failures


async def test_holes_are_gaps_in_their_place(origin: Origin) -> None:
    track, target = await stored_track(origin, range(10))
    for sequence in (3, 4, 8):
        target.remove(sequence)
    publish(track)
    track.finish()
    async with (
        session_pair(origin) as pair,
        pair.client.subscribe("b", "t", start=0) as subscription,
    ):
        assert await see_all(subscription) == [
            *groups(0, 1, 2),
            Gap(3, 5, 0),
            *groups(5, 6, 7),
            Gap(8, 9, 0),
            *groups(9, 10),
        ]


async def test_a_gap_ends_where_the_subscription_does(origin: Origin) -> None:
    track, target = await stored_track(origin, range(10))
    for sequence in range(1, 10):
        target.remove(sequence)
    publish(track)
    async with (
        session_pair(origin) as pair,
        pair.client.subscribe("b", "t", start=0, end=7) as subscription,
    ):
        assert await see_all(subscription) == [*groups(0), Gap(1, 7, 0)]


async def test_a_group_that_cannot_be_read_is_a_gap_with_a_code(
    origin: Origin, autojump_clock: MockClock
) -> None:
    track, target = await stored_track(origin, range(4))
    target.fail(ReplayError("bad sector", code=70))
    async with (
        session_pair(origin) as pair,
        pair.client.subscribe("b", "t", start=0, end=5) as subscription,
    ):
        assert await see(subscription) == Gap(0, 1, 70)
        target.fail(None)
        publish(track)
        rest = await see_all(subscription)
    # Nothing silent: each of them has come or is in a gap with a code.
    told: list[int] = []
    for item in rest:
        told += range(item.start, item.end) if isinstance(item, Gap) else [item[0]]
        assert not isinstance(item, Gap) or item.code == 70
    assert told == [1, 2, 3, 4]


async def test_a_store_that_is_slow_delays_and_loses_nothing(
    origin: Origin, autojump_clock: MockClock
) -> None:
    """Longer than any gap timeout, with live groups in memory all the while."""
    track, target = await stored_track(origin, range(3))
    publish(track, 3)
    target.stall()

    async def heal() -> None:
        await trio.sleep(60)
        target.resume()

    async with session_pair(origin) as pair, trio.open_nursery() as nursery:
        nursery.start_soon(heal)
        async with pair.client.subscribe("b", "t", start=0, end=6) as subscription:
            assert await see_all(subscription) == groups(*range(6))
        assert trio.current_time() >= 60


async def test_a_read_that_stalls_inside_a_group_is_not_overtaken(
    origin: Origin, autojump_clock: MockClock
) -> None:
    """P3: a later group's stream must not open first, or the subscriber gives this one up."""
    track, target = await stored_track(origin, range(2), frames=3, size=40_000)
    publish(track, 6)
    async with (
        session_pair(origin) as pair,
        pair.client.subscribe("b", "t", start=0, end=8) as subscription,
    ):
        first = await subscription.receive()
        assert not isinstance(first, Gap)
        target.stall()
        with trio.move_on_after(30):
            await first.read_all()
        target.resume()
        await first.aclose()
        assert await see_all(subscription) == [
            *groups(1, frames=3, size=40_000),
            *groups(*range(2, 8)),
        ]


async def test_an_aborted_group_is_reset_at_its_reader_and_is_no_gap(origin: Origin) -> None:
    track = origin.create_broadcast("b").create_track("t")
    async with session_pair(origin) as pair, pair.client.subscribe("b", "t") as subscription:
        group = track.append_group()
        group.write_frame(b"part")
        item = await subscription.receive()
        assert not isinstance(item, Gap)
        assert (await item.receive()).payload == b"part"
        group.abort(99)
        with pytest.raises(trio.BrokenResourceError, match="application error 35"):
            await item.receive()
        publish(track)
        track.finish()
        assert await see_all(subscription) == groups(1)


@pytest.mark.parametrize("code", [0, 1, 53, 64, 2**20])
async def test_the_code_a_group_was_aborted_with_is_the_code_its_reader_gets(
    origin: Origin, code: int
) -> None:
    track = origin.create_broadcast("b").create_track("t")
    async with session_pair(origin) as pair, pair.client.subscribe("b", "t") as subscription:
        group = track.append_group()
        await wait_all_tasks_blocked()
        group.abort(code)
        assert await see(subscription) == (0, code)


async def test_a_group_aborted_before_it_was_sent_is_a_gap(origin: Origin) -> None:
    track = origin.create_broadcast("b").create_track("t")
    publish(track)
    track.append_group().abort(99)
    track.append_group().abort(0)
    publish(track)
    track.finish()
    async with (
        session_pair(origin) as pair,
        pair.client.subscribe("b", "t", start=0) as subscription,
    ):
        seen = await see_all(subscription)
        assert seen[:2] == [*groups(0), Gap(1, 2, 99)]
        assert seen[3:] == groups(3)
        # Code 0 in a drop means that there is no such group, which is not true of this one.
        assert isinstance(seen[2], Gap)
        assert seen[2].code != 0


@pytest.mark.parametrize("code", [0, 77])
async def test_aborting_the_track_ends_its_subscriptions_with_the_code(
    origin: Origin, code: int
) -> None:
    track = origin.create_broadcast("b").create_track("t")
    publish(track)
    async with session_pair(origin) as pair, pair.client.subscribe("b", "t") as subscription:
        assert await see(subscription) == groups(0)[0]
        track.abort(code)
        for _ in range(2):
            with pytest.raises(RequestError, match="b/t") as caught:
                await subscription.receive()
            assert caught.value.code == code


# The order of arrival


async def test_order_arrival_hands_out_what_comes(origin: Origin) -> None:
    track, target = await stored_track(origin, range(6))
    target.remove(2)
    publish(track, 2)
    track.finish()
    async with (
        session_pair(origin) as pair,
        pair.client.subscribe("b", "t", start=0, order="arrival") as subscription,
    ):
        seen = await see_all(subscription)
    assert sorted(map(repr, seen)) == sorted(
        map(repr, [*groups(0, 1, 3, 4, 5, 6, 7), Gap(2, 3, 0)])
    )


async def test_order_arrival_does_not_wait_for_a_group_that_is_open(origin: Origin) -> None:
    track = origin.create_broadcast("b").create_track("t")
    async with (
        session_pair(origin) as pair,
        pair.client.subscribe("b", "t", order="arrival", start=0, end=3) as subscription,
    ):
        slow = track.append_group()
        publish(track, 1)
        first = await subscription.receive()
        assert not isinstance(first, Gap)
        second = await see(subscription)
        assert (first.sequence, second) == (0, groups(1)[0])
        slow.finish()
        publish(track)
        assert await see_all(subscription) == groups(2)


async def test_order_arrival_accounts_for_what_was_skipped(
    origin: Origin, autojump_clock: MockClock
) -> None:
    track = origin.create_broadcast("b").create_track("t")
    publish(track, 2)
    async with (
        session_pair(origin) as pair,
        pair.client.subscribe("b", "t", start=0, order="arrival") as subscription,
    ):
        assert [await see(subscription), await see(subscription)] == groups(0, 1)
        await subscription.update(start=5)
        await wait_all_tasks_blocked()
        publish(track, 5)
        track.finish()
        with trio.fail_after(60):
            assert await see_all(subscription) == groups(5, 6)


# Wishes that change


async def test_a_changed_priority_leaves_the_end_as_it_is(origin: Origin) -> None:
    track = origin.create_broadcast("b").create_track("t")
    publish(track, 3)
    async with (
        session_pair(origin) as pair,
        pair.client.subscribe("b", "t", start=0, end=2) as subscription,
    ):
        await subscription.update(priority=5)
        assert await see_all(subscription) == groups(0, 1)


async def test_an_end_before_the_latest_group_may_grow_beyond_it(origin: Origin) -> None:
    needs(5, "publishers do not say where it starts")
    track = origin.create_broadcast("b").create_track("t")
    publish(track, 5)
    async with session_pair(origin) as pair, pair.client.subscribe("b", "t", end=1) as subscription:
        with trio.fail_after(5):
            assert await see_all(subscription) == []
            assert subscription.start == 4
            await subscription.update(end=4)
            assert await see_all(subscription) == []
            await subscription.update(end=None)
            assert await see(subscription) == groups(4)[0]
            track.finish()
            assert await see_all(subscription) == []
            assert (subscription.start, subscription.final) == (4, 5)


async def test_the_latest_group_may_be_gone_when_the_end_grows_beyond_it(origin: Origin) -> None:
    needs(6, "the publisher was asked for it, and keeps it")
    track = origin.create_broadcast("b").create_track("t", cache_age=0.0)
    publish(track, 5)
    async with session_pair(origin) as pair, pair.client.subscribe("b", "t", end=1) as subscription:
        with trio.fail_after(5):
            assert await see_all(subscription) == []
            publish(track, 2)
            await trio.sleep(1)
            track.log.evict()
            await subscription.update(end=None)
            assert await see(subscription) == Gap(4, 6, 0)
            assert await see(subscription) == groups(6)[0]


async def test_the_end_may_grow_after_it_was_reached_and_shrink(origin: Origin) -> None:
    track = origin.create_broadcast("b").create_track("t")
    publish(track, 10)
    track_log = track.log
    assert track_log.next_sequence == 10
    async with (
        session_pair(origin) as pair,
        pair.client.subscribe("b", "t", start=9, end=10) as subscription,
    ):
        assert await see_all(subscription) == groups(9)
        await subscription.update(end=12)
        publish(track, 5)
        assert await see_all(subscription) == groups(10, 11)
        await subscription.update(end=None)
        publish(track)
        assert await see(subscription) == groups(12)[0]
        await subscription.update(end=14)
        assert await see_all(subscription) == groups(13)


async def test_groups_beyond_a_lowered_end_hold_no_window(origin: Origin) -> None:
    """They are not wanted any more; if they are after all, the gap says why they do not come."""
    broadcast = origin.create_broadcast("b")
    track, other = broadcast.create_track("t"), broadcast.create_track("other")
    transport = TransportSettings(connection_window=50_000)
    async with (
        session_pair(origin, transport=transport) as pair,
        pair.client.subscribe("b", "t", start=0) as subscription,
        pair.client.subscribe("b", "other", start=0) as waiting,
    ):
        await wait_all_tasks_blocked()
        publish(track, 4, size=10_000)
        await wait_all_tasks_blocked()
        await subscription.update(end=1)
        await wait_all_tasks_blocked()
        publish(other, size=35_000)
        with trio.fail_after(5):
            assert await see(waiting) == groups(0, size=35_000)[0]
            assert await see_all(subscription) == groups(0, size=10_000)
        await subscription.update(end=None)
        publish(track)
        assert [await see(subscription) for _ in range(4)] == [
            *(Gap(sequence, sequence + 1, StreamCode.CANCEL) for sequence in (1, 2, 3)),
            groups(4)[0],
        ]


async def test_a_raised_start_skips(origin: Origin) -> None:
    track = origin.create_broadcast("b").create_track("t")
    publish(track, 1)
    async with (
        session_pair(origin) as pair,
        pair.client.subscribe("b", "t", start=0) as subscription,
    ):
        assert await see(subscription) == groups(0)[0]
        await subscription.update(start=5)
        await wait_all_tasks_blocked()
        publish(track, 6)
        assert await see(subscription) == groups(5)[0]
        await subscription.update(start=2)
        assert await see(subscription) == groups(6)[0], "going back is not possible"


async def test_a_start_that_is_raised_before_the_answer_has_come(origin: Origin) -> None:
    needs(5, "a subscription begins with the answer")
    track, target = await stored_track(origin, range(5))
    target.stall()
    async with (
        session_pair(origin) as pair,
        pair.client.subscribe("b", "t", start=0) as subscription,
    ):
        await wait_all_tasks_blocked()
        await subscription.update(start=3)
        target.resume()
        assert await see(subscription) == groups(3)[0]
        publish(track)


@pytest.mark.parametrize("known", [False, True])
async def test_a_raised_start_takes_effect_although_the_store_stalls(
    origin: Origin, known: bool, autojump_clock: MockClock
) -> None:
    """The way out for a subscriber who had rather go live than wait for history."""
    needs(5, "a subscription begins with the answer")
    track, target = await stored_track(origin, range(1, 200))
    publish(track)
    if not known:
        target.stall()
    transport = TransportSettings(max_streams_uni=1)
    async with (
        session_pair(origin, transport=transport) as pair,
        pair.client.subscribe("b", "t", start=0) as subscription,
    ):
        if known:
            await wait_all_tasks_blocked()
            target.stall()
            assert await see(subscription) == groups(1)[0]
        await wait_all_tasks_blocked()
        assert target._changed.statistics().tasks_waiting == 1
        await subscription.update(start=100)
        await wait_all_tasks_blocked()
        assert target._changed.statistics().tasks_waiting == 1
        await subscription.update(start=200)
        with trio.fail_after(1):
            assert await see(subscription) == groups(200)[0]
        assert target._changed.statistics().tasks_waiting == 0


async def test_impossible_wishes_are_refused_and_change_nothing(origin: Origin) -> None:
    track = origin.create_broadcast("b").create_track("t")
    publish(track, 3)
    async with (
        session_pair(origin) as pair,
        pair.client.subscribe("b", "t", start=0, end=3) as subscription,
    ):
        assert await see(subscription) == groups(0)[0]
        for wish in ({"start": 5, "end": 2}, {"priority": 256, "end": 2}, {"start": -1, "end": 2}):
            with pytest.raises(ValueError):  # noqa: PT011  # each says what it is about
                await subscription.update(**wish)
        assert await see_all(subscription) == groups(1, 2)
        for wish in ({"start": 5, "end": 2}, {"priority": -1}, {"order": "sideways"}):
            with pytest.raises(ValueError):  # noqa: PT011
                async with pair.client.subscribe("b", "t", **wish):  # type: ignore[arg-type]
                    pass
        await wait_all_tasks_blocked()
        assert len(track.log.watchers) == 1
    assert_nothing_left(track, pair.client_connection, pair.server_connection)


async def test_a_priority_applies_to_the_groups_under_way(origin: Origin) -> None:
    broadcast = origin.create_broadcast("b")
    tracks = {name: broadcast.create_track(name) for name in ("first", "low", "high")}
    transport = TransportSettings(connection_window=20_000, stream_window=10**6)
    async with (
        session_pair(origin, transport=transport) as pair,
        pair.client.subscribe("b", "first", priority=200) as first,
        pair.client.subscribe("b", "low", priority=100) as low,
        pair.client.subscribe("b", "high", priority=0) as high,
    ):
        for track in tracks.values():
            await wait_all_tasks_blocked()
            publish(
                track, frames=10, size=60_000
            )  # the first one fills the window, the others wait
        await wait_all_tasks_blocked()
        await high.update(priority=101)
        await wait_all_tasks_blocked()
        finished: list[str] = []

        async def read(name: str, subscription: Subscription) -> None:
            assert await see(subscription) == groups(0, frames=10, size=60_000)[0]
            finished.append(name)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, "low", low)
            nursery.start_soon(read, "high", high)
            nursery.start_soon(read, "first", first)
        assert finished == ["first", "high", "low"]


# Several groups at once, and what is not wanted


async def test_groups_may_be_read_side_by_side_and_out_of_order(origin: Origin) -> None:
    track = origin.create_broadcast("b").create_track("t")
    publish(track, 5)
    async with (
        session_pair(origin) as pair,
        pair.client.subscribe("b", "t", start=4) as subscription,
    ):
        publish(track, 4)
        items = [await subscription.receive() for _ in range(5)]
        for item in reversed(items):
            assert not isinstance(item, Gap)
            assert [f.payload for f in await item.read_all()] == [payload_of(item.sequence)]


async def test_a_group_that_is_not_wanted_is_stopped_and_the_rest_comes(origin: Origin) -> None:
    track = origin.create_broadcast("b").create_track("t")
    async with session_pair(origin) as pair, pair.client.subscribe("b", "t") as subscription:
        unwanted = track.append_group()
        unwanted.write_frame(b"x")
        item = await subscription.receive()
        assert not isinstance(item, Gap)
        await item.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await item.receive()
        unwanted.write_frame(b"y")
        await wait_all_tasks_blocked()
        assert pair.server_connection.statistics().streams_open == 1, "the subscription's"
        publish(track)
        track.finish()
        assert await see_all(subscription) == groups(1)


async def test_leaving_while_another_task_reads_never_looks_like_the_end(origin: Origin) -> None:
    track = origin.create_broadcast("b").create_track("t")
    publish(track, 1, frames=3)
    async with session_pair(origin) as pair:
        async with pair.client.subscribe("b", "t", start=0) as subscription:
            item = await subscription.receive()
            assert not isinstance(item, Gap)
            await item.receive()  # two more have arrived with this one, and the end
        with pytest.raises(trio.ClosedResourceError):
            await item.receive()
        with pytest.raises(trio.ClosedResourceError):
            await item.receive_batch()
        with pytest.raises(trio.ClosedResourceError):
            await subscription.receive()


async def test_a_late_group_is_a_gap_after_the_timeout_however_often_one_asks(
    origin: Origin, autojump_clock: MockClock
) -> None:
    """A program that waits with timeouts of its own must hear of the gap too."""
    broadcast = origin.create_broadcast("b")
    broadcast.create_track("t")
    async with (
        session_pair(origin) as pair,
        pair.client.subscribe("b", "t", start=0, gap_timeout=2.0) as subscription,
    ):
        await wait_all_tasks_blocked()
        stream = await pair.server_connection.open_uni()
        # Group 3 of subscription 0; 0 to 2 never come.
        await stream.send_all(lite.encode_group_header(0, 3, session_pairs.spoken))
        stream.finish()
        seen: Seen | None = None
        begin = trio.current_time()
        while seen is None and trio.current_time() < begin + 60:
            with trio.move_on_after(0.5):
                seen = await see(subscription)
        assert seen == Gap(0, 3, StreamCode.DELIVERY_TIMEOUT)
        assert trio.current_time() - begin == pytest.approx(2.0, abs=0.6)
        assert await see(subscription) == (3, [])


async def test_receive_nowait(origin: Origin) -> None:
    needs(5, "the end is not told")
    track = origin.create_broadcast("b").create_track("t")
    async with (
        session_pair(origin) as pair,
        pair.client.subscribe("b", "t", start=0) as subscription,
    ):
        with pytest.raises(trio.WouldBlock):
            subscription.receive_nowait()
        publish(track, 2)
        track.finish()
        await wait_all_tasks_blocked()
        for sequence in range(2):
            item = subscription.receive_nowait()
            assert not isinstance(item, Gap)
            assert item.receive_nowait().payload == payload_of(sequence)
            with pytest.raises(trio.EndOfChannel):
                item.receive_nowait()
        with pytest.raises(trio.EndOfChannel):
            subscription.receive_nowait()
