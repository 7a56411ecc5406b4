"""A subscribe stream that ends on one side while the other still has something to say."""

from __future__ import annotations

import trio
from session_pairs import groups, publish, see_all, session_pair
from trio.testing import MockClock, wait_all_tasks_blocked

from moqtrio.errors import StreamCode
from moqtrio.model import Origin
from moqtrio.session import Gap
from moqtrio.session.control import ControlStream
from moqtrio.session.session import open_session_over
from moqtrio.transport.connection import Connection
from moqtrio.transport.memory import memory_connection_pair
from moqtrio.wire import LITE_06, Version, lite


async def test_an_update_after_the_end_changes_nothing(each_version: Version) -> None:
    """The publisher has stopped listening, which is no failure of the subscription."""
    origin = Origin()
    track = origin.create_broadcast("b").create_track("t")
    publish(track, 3)
    track.finish()
    async with (
        session_pair(origin) as pair,
        pair.client.subscribe("b", "t", start=0) as subscription,
    ):
        await wait_all_tasks_blocked()
        await subscription.update(priority=5)
        assert await see_all(subscription) == groups(0, 1, 2)
        await subscription.update(end=2)


async def test_the_end_may_come_together_with_the_start() -> None:
    """Draft 06 asks for the age when it has begun; a publisher that is done by then has said all
    there is."""
    client, server = memory_connection_pair()

    async def answer() -> None:
        control = await accept(server, lite.BidiStreamType.TRACK, lite.Track)
        await control.send_all(lite.TrackInfo(127, True, 0.0, 1_000_000))
        control.finish()
        control = await accept(server, lite.BidiStreamType.SUBSCRIBE, lite.Subscribe)
        await control.send_all(lite.SubscribeStart(0))
        await control.send_all(lite.SubscribeDrop(0, 2, StreamCode.EVICTED))
        await control.send_all(lite.SubscribeEnd(2))
        control.finish()

    async with open_session_over(client, LITE_06) as session, trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        async with session.subscribe("b", "t", start=0, max_latency=2.0) as subscription:
            assert await see_all(subscription) == [Gap(0, 2, StreamCode.EVICTED)]


async def test_leaving_while_the_latest_is_asked_for(autojump_clock: MockClock) -> None:
    """Draft 06 asks twice: who has left by then does not ask again."""
    client, server = memory_connection_pair()

    async def answer() -> None:
        control = await accept(server, lite.BidiStreamType.TRACK, lite.Track)
        await control.send_all(lite.TrackInfo(127, True, 0.0, 1_000_000))
        control.finish()

    async with open_session_over(client, LITE_06) as session, trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        async with session.subscribe("b", "t") as subscription:
            control = await accept(server, lite.BidiStreamType.SUBSCRIBE, lite.Subscribe)
            await subscription.aclose()
            await wait_all_tasks_blocked()
            assert await control.receive.receive_some() == b"", "it is given up at once"
            with trio.move_on_after(60):
                await server.accept_bidi()
                raise AssertionError("it was asked for after this side had left")
            assert not session._subscriptions


async def accept(
    connection: Connection, kind: lite.BidiStreamType, message: type[lite.Message]
) -> ControlStream:
    control = ControlStream(await connection.accept_bidi(), LITE_06)
    assert await control.read_varint() == kind
    await control.require(message)
    return control
