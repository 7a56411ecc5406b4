"""An application answers for a track's old groups, asked through real sessions."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack

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
)
from session_raw import FETCH, SUBSCRIBE, raw_subscriber
from trio.testing import MockClock, wait_all_tasks_blocked

from moqtrio import Frame, from_async
from moqtrio.errors import RequestError, StreamCode, StreamReset
from moqtrio.model import Origin, ReplayRequest, ReplayRequests, ReplayWriter, Track
from moqtrio.session import Gap, Session
from moqtrio.wire import lite

HISTORY = 10


@pytest.fixture
def origin() -> Origin:
    return Origin()


@pytest.fixture
def track(origin: Origin) -> Track:
    """Groups 0 to 9 were published before this program started."""
    return origin.create_broadcast("b").create_track("t", first_sequence=HISTORY)


def provide(request: ReplayRequest) -> None:
    with request.accept() as group:
        group.write_frame(payload_of(group.sequence))


async def answer(requests: ReplayRequests, how: Callable[[ReplayRequest], None] = provide) -> None:
    """Answer every request at once."""
    async for request in requests:
        with request:
            how(request)


async def test_a_subscription_and_a_fetch_reach_the_application(
    origin: Origin, track: Track
) -> None:
    asked = []

    def how(request: ReplayRequest) -> None:
        asked.append(request.sequence)
        provide(request)

    with trio.fail_after(5), track.requests(cache_bytes=0) as requests:
        async with session_pair(origin) as pair, trio.open_nursery() as nursery:
            nursery.start_soon(answer, requests, how)
            publish(track, 2)
            track.finish()
            async with pair.client.subscribe("b", "t", start=3) as subscription:
                assert await see_all(subscription) == groups(*range(3, 12))
            assert asked == list(range(3, 10))
            group = await pair.client.fetch("b", "t", 8)
            assert [frame.payload for frame in await group.read_all()] == [payload_of(8)]
            assert asked == [*range(3, 10), 8]
            nursery.cancel_scope.cancel()
        assert_nothing_left(track)


async def test_without_an_application_there_is_no_history(origin: Origin, track: Track) -> None:
    with trio.fail_after(5):
        async with session_pair(origin) as pair:
            publish(track)
            track.finish()
            async with pair.client.subscribe("b", "t", start=0) as subscription:
                assert await see_all(subscription) == groups(10)


async def test_ten_subscribers_are_one_request(origin: Origin, track: Track) -> None:
    asked = []
    seen: list[list[Seen]] = []

    async def follow(session: Session) -> None:
        async with session.subscribe("b", "t", start=0) as subscription:
            seen.append(await see_all(subscription))

    def how(request: ReplayRequest) -> None:
        asked.append(request.sequence)
        provide(request)

    with trio.fail_after(5), track.requests() as requests:
        track.finish()
        async with AsyncExitStack() as stack:
            pairs = [await stack.enter_async_context(session_pair(origin)) for _ in range(10)]
            async with trio.open_nursery() as followers:
                for pair in pairs:
                    followers.start_soon(follow, pair.client)
                await wait_all_tasks_blocked()
                followers.start_soon(answer, requests, how)
                while len(seen) < 10:
                    await wait_all_tasks_blocked()
                followers.cancel_scope.cancel()
    assert seen == [groups(*range(10))] * 10
    assert asked == list(range(10))


async def test_an_update_changes_the_priority_of_the_request(origin: Origin, track: Track) -> None:
    with trio.fail_after(5), track.requests() as requests:
        async with session_pair(origin) as pair, AsyncExitStack() as stack:
            first = await stack.enter_async_context(
                pair.client.subscribe("b", "t", start=0, priority=10)
            )
            second = await stack.enter_async_context(
                pair.client.subscribe("b", "t", start=1, priority=20)
            )
            await wait_all_tasks_blocked()
            one, two = requests.receive_nowait(), requests.receive_nowait()
            assert (one.sequence, two.sequence) == (1, 0)
            assert one.priority > two.priority
            await first.update(priority=30)
            await wait_all_tasks_blocked()
            assert two.priority > one.priority
            await second.update(priority=0)
            await wait_all_tasks_blocked()
            before = one.priority
            await first.update(start=1)  # now both want the other one
            await wait_all_tasks_blocked()
            assert one.priority > before
            assert not one.withdrawn
            provide(one)
            assert await see(first) == await see(second) == groups(1)[0]
            two.missing()


async def test_who_leaves_withdraws(
    origin: Origin, track: Track, autojump_clock: MockClock
) -> None:
    with track.requests() as requests:
        async with session_pair(origin) as pair:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pair.client.fetch, "b", "t", 5)
                async with pair.client.subscribe("b", "t", start=5):
                    request = await requests.receive()
                await trio.sleep(10)
                assert not request.withdrawn  # the fetch waits
                nursery.cancel_scope.cancel()
            with trio.fail_after(2):
                await request.wait_withdrawn()
            with request, pytest.raises(trio.BrokenResourceError):
                request.accept().write_frame(b"for nobody")
        assert_nothing_left(track)


async def test_what_the_application_says_is_what_subscribers_are_told(
    origin: Origin, track: Track, autojump_clock: MockClock
) -> None:
    retried: list[int] = []

    def how(request: ReplayRequest) -> None:
        if request.sequence == 1:
            request.missing()
        elif request.sequence == 3:
            request.missing(5)
        elif request.sequence == 6:
            request.fail(StreamCode.APPLICATION + 1)
        elif request.sequence == 7 and len(retried) < 3:
            retried.append(7)
            request.retry(after=60)
        elif request.sequence == 8:
            group = request.accept()
            group.write_frame(b"part")
            group.abort(StreamCode.APPLICATION + 2)
        elif request.sequence != 9:  # which is not answered at all
            provide(request)

    with track.requests() as requests:
        async with session_pair(origin) as pair, trio.open_nursery() as nursery:
            nursery.start_soon(answer, requests, how)
            publish(track)
            track.finish()
            async with pair.client.subscribe("b", "t", start=0) as subscription:
                seen = await see_all(subscription)
            assert trio.current_time() >= 180
            assert seen == [
                *groups(0),
                Gap(1, 2, 0),
                *groups(2),
                Gap(3, 5, 0),
                *groups(5),
                Gap(6, 7, 65),
                *groups(7),
                Gap(8, 9, 66),  # before anything of it was sent
                Gap(9, 10, StreamCode.CANCEL),
                *groups(10),
            ]
            for sequence, code in [(1, StreamCode.NOT_FOUND), (6, 65), (9, StreamCode.CANCEL)]:
                with pytest.raises(RequestError) as caught:
                    await pair.client.fetch("b", "t", sequence)
                assert caught.value.code == code
            nursery.cancel_scope.cancel()


async def test_an_application_that_dies_costs_history_and_no_more(
    origin: Origin, track: Track
) -> None:
    async def die(requests: ReplayRequests) -> None:
        async with requests:
            async for request in requests:
                with request:
                    if request.sequence == 4:
                        raise ConnectionError("the database has gone away")
                    provide(request)

    mortal = track.requests()
    with trio.fail_after(5):
        async with session_pair(origin) as pair:
            async with pair.client.subscribe("b", "t", start=0) as subscription:
                with pytest.RaisesGroup(ConnectionError):
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(die, mortal)
                assert [await see(subscription) for _ in range(4)] == groups(*range(4))
                publish(track)
                lost = [await see(subscription)]
                while isinstance(lost[-1], Gap) and lost[-1].end < HISTORY:
                    lost.append(await see(subscription))
                assert all(isinstance(gap, Gap) and gap.code for gap in lost)
                assert await see(subscription) == groups(10)[0]
            # Another one takes over; who is subscribed need not subscribe again.
            with track.requests() as requests:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(answer, requests)
                    group = await pair.client.fetch("b", "t", 7)
                    assert [frame.payload for frame in await group.read_all()] == [payload_of(7)]
                    nursery.cancel_scope.cancel()


async def test_an_application_that_is_slow_does_not_slow_live(origin: Origin, track: Track) -> None:
    with trio.fail_after(5), track.requests():
        async with (
            session_pair(origin) as pair,
            pair.client.subscribe("b", "t", start=0),  # nobody answers
            pair.client.subscribe("b", "t", start=HISTORY) as live,
        ):
            for sequence in range(HISTORY, HISTORY + 20):
                publish(track)
                assert await see(live) == groups(sequence)[0]


async def test_a_group_larger_than_memory_reaches_a_slow_subscriber(
    origin: Origin, track: Track
) -> None:
    largest = 0
    count, size = 1000, 10_000

    async def stream(requests: ReplayRequests) -> None:
        nonlocal largest
        with await requests.receive() as request, request.accept() as group:
            for index in range(count):
                await group.send_frame(payload_of(9, index, size))
                largest = max(largest, requests.statistics().writing_bytes)

    with trio.fail_after(20), track.requests(buffer_bytes=100_000) as requests:
        async with session_pair(origin) as pair, trio.open_nursery() as nursery:
            nursery.start_soon(stream, requests)
            async with pair.client.subscribe("b", "t", start=9) as subscription:
                group = await subscription.receive()
                await wait_all_tasks_blocked()
                received = [frame.payload async for frame in group]  # type: ignore[union-attr]  # it is a group
            assert received == [payload_of(9, index, size) for index in range(count)]
            assert largest < 120_000


@pytest.mark.parametrize("ending", ["abort", "exception", "forgotten"])
async def test_a_group_that_ends_early_is_not_taken_for_whole(
    ending: str, origin: Origin, track: Track
) -> None:
    async def begin(requests: ReplayRequests) -> None:
        request = await requests.receive()
        group: ReplayWriter = request.accept()
        await group.send_frame(b"part")
        await wait_all_tasks_blocked()
        if ending == "abort":
            group.abort(70)
        elif ending == "exception":
            with pytest.raises(KeyError), group:
                raise KeyError

    codes = {"abort": 70, "exception": StreamCode.INTERNAL, "forgotten": StreamCode.CANCEL}
    with trio.fail_after(5), track.requests() as requests:
        async with session_pair(origin) as pair, trio.open_nursery() as nursery:
            nursery.start_soon(begin, requests)
            group = await pair.client.fetch("b", "t", 5)
            assert (await group.receive()).payload == b"part"
            with pytest.raises(StreamReset) as caught:
                await group.receive()
            assert caught.value.code == codes[ending]


async def test_a_flood_waits_and_others_are_served(origin: Origin, track: Track) -> None:
    asked = []
    async with raw_subscriber(origin) as raw, session_pair(origin) as pair:
        with trio.fail_after(20), track.requests(max_unanswered=3) as requests:
            for number in range(60):
                await raw.request(FETCH, lite.Fetch("b", "t", 0, number % HISTORY))
                await raw.request(
                    SUBSCRIBE,
                    lite.Subscribe(number, "b", "t", 0, True, 10.0, number % HISTORY, None),
                )
            held = [await requests.receive() for _ in range(3)]
            with pytest.raises(trio.WouldBlock):
                requests.receive_nowait()
            assert requests.statistics().waiting == HISTORY - 3  # one for each sequence
            # What is wanted more comes next, as soon as there is room.
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pair.client.fetch, "b", "t", 9)
                await wait_all_tasks_blocked()
                held.pop().missing()
                request = await requests.receive()
                assert request.sequence == 9
                asked.append(request.sequence)
                provide(request)
            for request in held:
                request.missing()
            # When the flood leaves, nothing is left of it.
            raw.connection.close()
            await wait_all_tasks_blocked()
            statistics = requests.statistics()
            assert (statistics.waiting, statistics.unanswered, statistics.writing) == (0, 0, 0)
    assert_nothing_left(track)


async def test_an_async_function_answers_a_session(origin: Origin) -> None:
    async def look_up(sequence: int) -> list[Frame] | None:
        await trio.lowlevel.checkpoint()
        return None if sequence == 4 else [Frame(payload_of(sequence), sequence)]

    with trio.fail_after(5):
        async with from_async(look_up) as store:
            track = origin.create_broadcast("b").create_track("t", store=store, first_sequence=10)
            publish(track)
            track.finish()
            async with (
                session_pair(origin) as pair,
                pair.client.subscribe("b", "t", start=0) as subscription,
            ):
                expected = [*groups(*range(4)), Gap(4, 5, 0), *groups(*range(5, 11))]
                assert await see_all(subscription) == expected


async def test_history_that_leaves_memory_is_asked_for(
    origin: Origin, autojump_clock: MockClock
) -> None:
    """What the application keeps itself while it publishes."""
    track = origin.create_broadcast("b").create_track("t", cache_age=1)
    kept: dict[int, bytes] = {}

    def how(request: ReplayRequest) -> None:
        with request.accept() as group:
            group.write_frame(kept[request.sequence])

    async def publish_slowly() -> None:
        for sequence in range(40):
            kept[sequence] = payload_of(sequence)
            publish(track)
            await trio.sleep(0.3)
        track.finish()

    with track.requests() as requests:
        async with session_pair(origin) as pair, trio.open_nursery() as nursery:
            nursery.start_soon(answer, requests, how)
            nursery.start_soon(publish_slowly)
            await trio.sleep(6)
            async with pair.client.subscribe("b", "t", start=0) as subscription:
                assert await see_all(subscription) == groups(*range(40))
            nursery.cancel_scope.cancel()
