"""Cancelling anywhere leaves nothing behind; exceptions come out as they are."""

from __future__ import annotations

import gc
import logging
from collections.abc import Awaitable, Callable

import pytest
import trio
from session_pairs import (
    Pair,
    assert_nothing_left,
    groups,
    publish,
    see,
    see_all,
    session_pair,
    stored_track,
)
from trio.testing import MockClock, wait_all_tasks_blocked

from moqtrio.errors import RequestError, SessionClosed, SessionCode, StreamCode
from moqtrio.model import Announcement, Origin, TrackInfo
from moqtrio.replay import LiveReader
from moqtrio.session import Gap, Session, Subscription
from moqtrio.session.group_sender import GroupSender
from moqtrio.session.group_stream import StreamGroupConsumer
from moqtrio.session.session import open_session_over
from moqtrio.transport.connection import Connection, ReceiveStream, SendStream
from moqtrio.transport.memory import memory_connection_pair
from moqtrio.transport.settings import TransportSettings
from moqtrio.wire import LITE_05

# Requests and their answers


async def test_track_info_and_what_there_is_not() -> None:
    origin = Origin()
    info = TrackInfo(priority=9, ordered=False, max_latency=1.5, timescale=90_000)
    origin.create_broadcast("b").create_track("t", info=info)
    async with session_pair(origin) as pair:
        assert await pair.client.track_info("b", "t") == info
        for action in (pair.client.track_info, pair.server.track_info):
            with pytest.raises(RequestError, match=r"nope/t.*\(code 54\)") as caught:
                await action("nope", "t")
            assert caught.value.code == StreamCode.UNROUTABLE
        with pytest.raises(RequestError, match="b/nope") as caught:
            async with pair.client.subscribe("b", "nope"):
                pass
        assert caught.value.code == StreamCode.NOT_FOUND
        with pytest.raises(RequestError):
            await pair.client.fetch("b", "nope", 0)
        await wait_all_tasks_blocked()
        assert pair.client_connection.statistics().streams_open == 0


async def test_fetch_from_store_from_memory_and_while_it_is_written() -> None:
    origin = Origin()
    track, _ = await stored_track(origin, range(3), frames=3, size=50_000)
    publish(track)
    going = track.append_group()
    going.write_frame(b"first")
    async with session_pair(origin) as pair:
        for sequence, frames, size in ((1, 3, 50_000), (3, 1, 0)):
            group = await pair.client.fetch("b", "t", sequence)
            payloads = [frame.payload for frame in await group.read_all()]
            assert [(group.sequence, payloads)] == groups(sequence, frames=frames, size=size)
        with pytest.raises(RequestError, match="group 9 of b/t") as caught:
            await pair.client.fetch("b", "t", 9)
        assert caught.value.code == StreamCode.NOT_FOUND
        group = await pair.client.fetch("b", "t", going.sequence)
        assert (await group.receive()).payload == b"first"
        going.write_frame(b"second")
        assert (await group.receive()).payload == b"second"
        going.abort(80)
        with pytest.raises(trio.BrokenResourceError, match="application error 16"):
            await group.receive()
        await wait_all_tasks_blocked()
        assert_nothing_left(track, pair.client_connection, pair.server_connection)


async def test_an_empty_group_can_be_fetched() -> None:
    origin = Origin()
    track = origin.create_broadcast("b").create_track("t")
    track.append_group().finish()
    async with session_pair(origin) as pair:
        assert await (await pair.client.fetch("b", "t", 0)).read_all() == []


async def test_announcements_come_and_go_both_ways() -> None:
    origins = Origin(), Origin()
    origins[0].create_broadcast("room/a")
    origins[0].create_broadcast("other")
    origins[1].create_broadcast("up")
    async with session_pair(origins[0], client_origin=origins[1]) as pair:
        async with (
            pair.client.announced("room") as down,
            pair.server.announced() as up,
        ):
            hops = (origins[0].hop_id,)
            assert down.initial == 1
            # A link costs 1, and so does what comes over it.
            assert await down.receive() == Announcement("room/a", True, hops, 1, 1)
            assert [a.path for a in down.active] == ["room/a"]
            hops = (origins[1].hop_id,)
            assert await up.receive() == Announcement("up", True, hops, 1, 1)
            broadcast = origins[0].create_broadcast("room/b/c")
            origins[0].create_broadcast("roomy")
            assert (await down.receive()).path == "room/b/c"
            broadcast.close()
            ended = await down.receive()
            assert (ended.path, ended.active) == ("room/b/c", False)
        await wait_all_tasks_blocked()
        assert [len(origin._watchers) for origin in origins] == [0, 0]
        assert pair.client_connection.statistics().streams_open == 0


# The end of a session


async def test_the_reason_of_a_close_reaches_everybody_who_waits() -> None:
    origin = Origin()
    track = origin.create_broadcast("b").create_track("t")
    track.append_group()
    reasons: list[SessionClosed] = []

    async def wait(action: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(SessionClosed) as caught:
            await action()
        reasons.append(caught.value)

    async with session_pair(origin) as pair:
        async with (
            pair.client.subscribe("b", "t") as subscription,
            pair.client.announced("nothing") as announced,
            trio.open_nursery() as nursery,
        ):
            item = await subscription.receive()
            assert not isinstance(item, Gap)
            for action in (subscription.receive, announced.receive, item.receive):
                nursery.start_soon(wait, action)
            await wait_all_tasks_blocked()
            pair.server.close(SessionCode.UNAUTHORIZED, "your time is up")
        for use in (
            lambda: pair.client.track_info("b", "t"),
            lambda: pair.client.fetch("b", "t", 0),
        ):
            await wait(use)
        for reason in reasons:
            assert (reason.code, reason.reason, reason.remote) == (2, "your time is up", True)
        assert len(reasons) == 5
        assert (await pair.server.wait_closed()).remote is False
        assert (await pair.client.wait_closed()).remote is True
    assert_nothing_left(track)


async def test_leaving_the_block_tells_subscribers_that_the_session_is_over() -> None:
    """And not that the track has ended, nor that the publisher refused."""
    origin = Origin()
    track = origin.create_broadcast("b").create_track("t")
    publish(track)
    client, server = memory_connection_pair()
    leave = trio.Event()

    async def follow(subscription: Subscription) -> None:
        assert await see(subscription) == groups(0)[0]
        for _ in range(2):
            with pytest.raises(SessionClosed):
                await subscription.receive()

    async with trio.open_nursery() as nursery, open_session_over(client, LITE_05) as session:
        nursery.start_soon(serve_until, leave, server, origin)
        async with session.subscribe("b", "t") as subscription, trio.open_nursery() as followers:
            followers.start_soon(follow, subscription)
            await wait_all_tasks_blocked()
            leave.set()


async def serve_until(leave: trio.Event, server: Connection, origin: Origin) -> None:
    async with open_session_over(server, LITE_05, publish=origin):
        await leave.wait()


class OwnError(Exception):
    pass


async def raise_inside(inside: str, client: Connection, error: Exception) -> None:
    async with open_session_over(client, LITE_05) as session:
        if inside == "subscription":
            async with session.subscribe("b", "t"):
                raise error
        if inside == "announced":
            async with session.announced():
                raise error
        raise error


@pytest.mark.parametrize("inside", ["session", "subscription", "announced"])
async def test_an_exception_comes_out_bare(inside: str) -> None:
    origin = Origin()
    publish(origin.create_broadcast("b").create_track("t"))
    client, server = memory_connection_pair()
    raised = OwnError()
    async with open_session_over(server, LITE_05, publish=origin):
        with pytest.raises(OwnError) as caught:
            await raise_inside(inside, client, raised)
    assert caught.value is raised
    assert caught.value.__context__ is None
    assert client.closed is not None


async def test_an_exception_comes_out_bare_though_the_session_ends_with_it() -> None:
    client, server = memory_connection_pair()
    async with open_session_over(server, LITE_05):
        server.close(0, "gone")
        with pytest.raises(SessionClosed, match="gone"):
            await raise_inside("announced", client, OwnError())
        with pytest.raises(OwnError):
            await raise_inside("session", client, OwnError())


async def test_cancelling_the_block_cancels_only_the_block() -> None:
    client, server = memory_connection_pair()
    async with open_session_over(server, LITE_05):
        with trio.CancelScope() as scope:
            async with open_session_over(client, LITE_05) as session:
                scope.cancel()
                await session.track_info("b", "t")
        assert scope.cancelled_caught
        assert client.closed is not None


@pytest.mark.parametrize("is_grouped", [False, True])
async def test_the_end_of_a_cancelled_session_is_no_error(is_grouped: bool) -> None:
    """Its own tasks close it when they are cancelled, and a reader in the block may be the one
    to see that first."""

    async def read(session: Session) -> None:
        session.close()
        raise SessionClosed("", remote=False)

    async def use(session: Session) -> None:
        if not is_grouped:
            await read(session)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, session)
            nursery.start_soon(trio.sleep_forever)

    for is_cancelled in (True, False):
        client, _ = memory_connection_pair()
        with trio.CancelScope() as scope:
            try:
                async with open_session_over(client, LITE_05) as session:
                    if is_cancelled:
                        scope.cancel()
                    await use(session)
            except (SessionClosed, ExceptionGroup):
                assert not is_cancelled
        assert scope.cancelled_caught == is_cancelled


# Cancelling


async def use_everything(pair: Pair) -> None:
    """One of each request, with groups from the store and live, read in every way."""
    await pair.client.track_info("b", "t")
    async with pair.client.announced() as announced:
        await announced.receive()
        async with pair.client.subscribe("b", "t", start=0) as subscription:
            for _ in range(3):
                await see(subscription)
            item = await subscription.receive()
            assert not isinstance(item, Gap)
            await item.receive()
            for stored_or_not in (1, 6):
                group = await pair.client.fetch("b", "t", stored_or_not)
                await group.read_all()
            await subscription.update(start=6, end=9)
            await see(subscription)
            await item.aclose()
            await subscription.receive()  # parked: nothing comes until the end


async def cancel_after(steps: int, work: Callable[[], Awaitable[None]]) -> bool:
    """Run ``work`` and cancel it at its ``steps``-th scheduling point. False: it was over."""
    finished = True

    async def run() -> None:
        nonlocal finished
        with scope:
            await work()
        finished = not scope.cancelled_caught

    class Counter(trio.abc.Instrument):
        def __init__(self) -> None:
            self.left = steps

        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            if task is watched[0]:
                self.left -= 1
                if self.left == 0:
                    scope.cancel()

    scope = trio.CancelScope()
    watched: list[trio.lowlevel.Task | None] = [None]

    async def start() -> None:
        watched[0] = trio.lowlevel.current_task()
        await run()

    counter = Counter()
    trio.lowlevel.add_instrument(counter)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(start)
            await wait_all_tasks_blocked()
            scope.cancel()
    finally:
        trio.lowlevel.remove_instrument(counter)
    return counter.left <= 0 and not finished


@pytest.mark.parametrize(
    "transport",
    [TransportSettings(), TransportSettings(stream_window=30, connection_window=60)],
    ids=["wide", "narrow"],
)
async def test_cancelling_at_every_step_leaves_nothing(
    transport: TransportSettings, caplog: pytest.LogCaptureFixture
) -> None:
    origin = Origin()
    track, _ = await stored_track(origin, range(5), frames=2, size=20)
    publish(track, 3, frames=2, size=20)
    with track.append_group() as group:
        group.write_frame(b"more")
    async with session_pair(origin, transport=transport) as pair:
        await wait_all_tasks_blocked()
        tasks = trio.lowlevel.current_statistics().tasks_living
        steps = 0
        again = True
        while again:
            steps += 1
            pair.client.forget_track("b", "t")
            again = await cancel_after(steps, lambda: use_everything(pair))
            await wait_all_tasks_blocked()
            assert trio.lowlevel.current_statistics().tasks_living == tasks, f"after {steps}"
            assert len(origin._watchers) == 0
            assert pair.client._subscriptions == {}
            assert_nothing_left(track, pair.client_connection, pair.server_connection)
        assert steps > 12, "it was cancelled in many places"
        # Every window is whole again: the same as in the beginning can be done.
        async with pair.client.subscribe("b", "t", start=0, end=9) as subscription:
            assert len(await see_all(subscription)) == 9
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def living(kind: type[object]) -> int:
    gc.collect()
    return sum(isinstance(thing, kind) for thing in gc.get_objects())


async def test_streams_and_subscriptions_are_garbage_when_they_are_over() -> None:
    origin = Origin()
    track = origin.create_broadcast("b").create_track("t")
    kinds = (StreamGroupConsumer, Subscription, SendStream, ReceiveStream, GroupSender, LiveReader)
    async with session_pair(origin) as pair:
        await pair.client.track_info("b", "t")  # accepting holds on to the last of its streams
        await wait_all_tasks_blocked()
        before = [living(kind) for kind in kinds]
        async with pair.client.subscribe("b", "t", start=0, end=200) as subscription:
            publish(track, 205)
            assert len(await see_all(subscription)) == 200
            assert living(StreamGroupConsumer) < 100, "the session lets go of groups that were read"
        del subscription
        await wait_all_tasks_blocked()
        assert [living(kind) for kind in kinds] == before


async def test_what_is_refused_under_load_is_not_lost(autojump_clock: MockClock) -> None:
    """More subscriptions than streams may be open: they wait, and all of them are served."""
    origin = Origin()
    track = origin.create_broadcast("b").create_track("t")
    publish(track, 3)
    track.finish()
    done: list[int] = []
    async with session_pair(origin, transport=TransportSettings(max_streams_bidi=3)) as pair:

        async def follow(number: int) -> None:
            async with pair.client.subscribe("b", "t", start=0) as subscription:
                assert await see_all(subscription) == groups(0, 1, 2)
            done.append(number)

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for number in range(20):
                    nursery.start_soon(follow, number)
        assert sorted(done) == list(range(20))
