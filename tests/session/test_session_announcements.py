"""Announcements in every version: what comes and goes, by which way, at what cost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import session_pairs
import trio
from session_pairs import session_pair
from session_raw import ANNOUNCE, raw_subscriber, received
from trio.testing import MockClock, wait_all_tasks_blocked

from moqtrio.errors import RequestError, SessionClosed, StreamCode
from moqtrio.model import Announcement, Origin, Route
from moqtrio.session import Announcements, SessionSettings
from moqtrio.session.session import Session, open_session_over
from moqtrio.transport.connection import BidiStream, Connection
from moqtrio.transport.memory import memory_connection_pair
from moqtrio.wire import LITE_04, LITE_05, LITE_06, Version, lite
from moqtrio.wire.lite import Announce, AnnounceStatus

Seen = tuple[str, bool]


async def see(announcements: Announcements) -> Seen:
    found = await announcements.receive()
    return found.path, found.active


# Both sides are sessions


async def test_they_come_and_go(each_version: Version) -> None:
    origin = Origin()
    first = origin.create_broadcast("room/one")
    origin.create_broadcast("roomy")
    async with session_pair(origin) as pair, pair.client.announced("room") as announcements:
        assert await see(announcements) == ("room/one", True)
        assert announcements.initial == (1 if each_version.draft >= 5 else None)
        origin.create_broadcast("room")
        assert await see(announcements) == ("room", True)
        first.close()
        assert await see(announcements) == ("room/one", False)
        origin.create_broadcast("room/one")
        assert await see(announcements) == ("room/one", True)
        assert {each.path for each in announcements.active} == {"room", "room/one"}


async def test_one_that_is_replaced_ends_and_begins(each_version: Version) -> None:
    origin = Origin()
    broadcast = origin.create_broadcast("room")
    async with session_pair(origin) as pair, pair.client.announced() as announcements:
        assert await see(announcements) == ("room", True)
        broadcast.close()
        origin.create_broadcast("room")
        assert [await see(announcements) for _ in range(2)] == [("room", False), ("room", True)]


async def test_another_way_to_the_same_broadcast(each_version: Version) -> None:
    """What a relay knows of it goes on, and no way through a peer leads back to it."""
    relay, reader = Origin(), Origin()
    publisher, other = 7, 8
    broadcast = relay.create_broadcast("room", route=Route((publisher,), cost=3, cold_cost=9))
    async with (
        session_pair(relay, client_origin=reader) as pair,
        pair.client.announced() as announcements,
    ):
        found = await announcements.receive()
        draft = each_version.draft
        assert found.hops == ((publisher, relay.hop_id) if draft > 3 else (0, 0))
        assert (found.cost, found.cold_cost) == ((4, 10) if draft >= 6 else (0, 0))

        broadcast.reroute(Route((publisher, other), cost=5))
        updates = [await announcements.receive()]
        if draft < 5:  # there it is not known to be the same
            assert not updates.pop().active
            updates.append(await announcements.receive())
        assert [each.active for each in updates] == [True]
        if draft > 3:
            assert updates[0].hops == (publisher, other, relay.hop_id)
        assert updates[0].route.cost == (6 if draft >= 6 else 0)

        if draft > 3:  # draft 03 does not tell who was on the way
            broadcast.reroute(Route((publisher, reader.hop_id)))
            assert await see(announcements) == ("room", False)
            broadcast.reroute(Route((publisher,)))
            assert await see(announcements) == ("room", True)


async def test_what_came_too_far_is_not_told_of(each_version: Version) -> None:
    origin = Origin()
    origin.create_broadcast("far", route=Route(tuple(range(1, lite.MAX_HOPS + 1))))
    origin.create_broadcast("near", route=Route(tuple(range(1, lite.MAX_HOPS))))
    async with session_pair(origin) as pair, pair.client.announced() as announcements:
        found = await announcements.receive()
        assert (found.path, len(found.hops)) == ("near", lite.MAX_HOPS)
        assert announcements.initial in (1, None)


async def test_nobody_is_told_of_their_own(each_version: Version) -> None:
    origin = Origin()
    origin.create_broadcast("ours")
    async with (
        session_pair(origin, client_origin=origin) as pair,
        pair.client.announced() as announcements,
    ):
        await wait_all_tasks_blocked()
        with trio.move_on_after(1) as scope:
            await announcements.receive()
        # Draft 03 has no way to know.
        assert scope.cancelled_caught == (each_version.draft > 3)


async def test_they_vanish_with_their_session(each_version: Version) -> None:
    origin = Origin()
    for path in ("a", "b"):
        origin.create_broadcast(path)
    async with session_pair(origin) as pair, pair.client.announced() as announcements:
        assert {await see(announcements) for _ in range(2)} == {("a", True), ("b", True)}
        pair.server.close(reason="enough")
        assert {await see(announcements) for _ in range(2)} == {("a", False), ("b", False)}
        assert announcements.active == ()
        for _ in range(2):
            with pytest.raises(SessionClosed, match="enough"):
                await announcements.receive()


async def test_the_cost_of_a_link_is_what_its_sender_says() -> None:
    origin = Origin()
    origin.create_broadcast("room", route=Route((7,), cost=3))
    settings = SessionSettings(cost=40)
    async with (
        session_pair(origin, settings=settings) as pair,
        pair.client.announced() as announcements,
    ):
        assert (await announcements.receive()).cost == 43
        assert pair.client.peer_cost == 40


async def test_waiting_for_one(each_version: Version) -> None:
    origin = Origin()
    for path in ("room/one", "room/two", "elsewhere"):
        origin.create_broadcast(path)
    async with session_pair(origin) as pair, trio.open_nursery() as nursery:
        found: list[Announcement] = []

        async def wait() -> None:
            found.append(await pair.client.wait_announced("room/three", within=60))

        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        assert not found
        origin.create_broadcast("room/three")
        await wait_all_tasks_blocked()
        assert [each.path for each in found] == ["room/three"]
        with pytest.raises(RequestError, match="waited for 2 s") as caught:
            await pair.client.wait_announced("room/four", within=2)
        assert caught.value.code == StreamCode.UNROUTABLE
        assert "'room/four'" in str(caught.value)
        assert "announced at or below 'room': 'room/one', 'room/two', 'room/three'" in str(
            caught.value
        )
        assert "elsewhere" not in str(caught.value)


async def test_waiting_where_nothing_is_announced(autojump_clock: MockClock) -> None:
    async with session_pair() as pair:
        with pytest.raises(RequestError, match="announced by this peer: nothing"):
            await pair.client.wait_announced("room", within=1)


async def test_what_is_not_announced_can_be_subscribed_to(each_version: Version) -> None:
    origin = Origin()
    excluded = Route(tuple(range(1, lite.MAX_HOPS + 1)))
    track = origin.create_broadcast("far", route=excluded).create_track("t")
    track.write_frame(b"x")
    async with (
        session_pair(origin) as pair,
        pair.client.subscribe("far", "t", start=0) as subscription,
    ):
        assert await session_pairs.see(subscription) == (0, [b"x"])


# A peer whose bytes are written by hand


@attrs.frozen
class Announcing:
    """A session that follows announcements, and the peer's end of the stream."""

    version: Version
    pair: tuple[Session, Connection]
    announcements: Announcements
    stream: BidiStream

    async def send(self, data: bytes) -> None:
        await self.stream.send.send_all(data)

    async def say(self, *announces: Announce) -> None:
        for each in announces:
            await self.send(each.encode(self.version))


@asynccontextmanager
async def announcing(version: Version, hop_id: int, origin: Origin) -> AsyncIterator[Announcing]:
    client, server = memory_connection_pair()

    async def answer(task_status: trio.TaskStatus[BidiStream]) -> None:
        stream = await server.accept_bidi()
        await stream.receive.receive_some()
        if lite.AnnounceOk.exists_in(version):
            await stream.send.send_all(lite.AnnounceOk(hop_id, 0).encode(version))
        task_status.started(stream)

    streams: list[BidiStream] = []
    async with (
        open_session_over(client, version, publish=origin) as session,
        trio.open_nursery() as nursery,
    ):

        async def accept() -> None:
            streams.append(await nursery.start(answer))

        nursery.start_soon(accept)
        async with session.announced("room") as announcements:
            await wait_all_tasks_blocked()
            yield Announcing(version, (session, server), announcements, streams[0])
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("status", [AnnounceStatus.ACTIVE, AnnounceStatus.RESTART])
async def test_a_repeated_announcement_replaces(status: AnnounceStatus) -> None:
    """Draft 05: who publishes it tells whether it is the same broadcast."""
    async with announcing(LITE_05, 9, Origin()) as peer:
        await peer.say(Announce(AnnounceStatus.ACTIVE, "a", (7,)))
        assert await see(peer.announcements) == ("room/a", True)
        await peer.say(Announce(status, "a", (7, 8)))
        assert (await peer.announcements.receive()).hops == (7, 8, 9)
        await peer.say(Announce(status, "a", (6,)))
        assert await see(peer.announcements) == ("room/a", False)
        assert await see(peer.announcements) == ("room/a", True)


@pytest.mark.parametrize("version", [LITE_04, LITE_05], ids=str)
async def test_a_loop_is_not_followed(version: Version) -> None:
    origin = Origin()
    async with announcing(version, 9, origin) as peer:
        loop = (7, origin.hop_id, 9)
        await peer.say(Announce(AnnounceStatus.ACTIVE, "a", loop))
        await peer.say(Announce(AnnounceStatus.ACTIVE, "b", (7,)))
        assert await see(peer.announcements) == ("room/b", True)
        await peer.say(Announce(AnnounceStatus.ENDED, "a"), Announce(AnnounceStatus.ENDED, "b"))
        assert await see(peer.announcements) == ("room/b", False)
        await peer.say(Announce(AnnounceStatus.ACTIVE, "b", (7,)))
        assert await see(peer.announcements) == ("room/b", True)
        if version.draft >= 5:
            await peer.say(Announce(AnnounceStatus.RESTART, "b", loop))
            assert await see(peer.announcements) == ("room/b", False)
            await peer.say(Announce(AnnounceStatus.RESTART, "b", (7,)))
            assert await see(peer.announcements) == ("room/b", True)


async def test_a_loop_uses_up_a_number(autojump_clock: MockClock) -> None:
    """Draft 06: both sides count what is announced, whether it is wanted or not."""
    origin = Origin()
    async with announcing(LITE_06, 9, origin) as peer:
        encoder = lite.AnnounceEncoder(LITE_06, 9)
        active = AnnounceStatus.ACTIVE
        await peer.send(encoder.encode(Announce(active, "loop", (7, origin.hop_id))))
        await peer.send(encoder.encode(Announce(active, "b", (7,), cost=2**62 - 1)))
        found = await peer.announcements.receive()
        assert (found.path, found.cost) == ("room/b", 2**62 - 1), "costs do not wrap"
        await peer.send(encoder.encode(Announce(AnnounceStatus.ENDED, "loop")))
        await peer.send(encoder.encode(Announce(AnnounceStatus.ENDED, "b")))
        assert await see(peer.announcements) == ("room/b", False)


async def test_a_reset_ends_all_of_them() -> None:
    async with announcing(LITE_05, 9, Origin()) as peer:
        await peer.say(Announce(AnnounceStatus.ACTIVE, "a"))
        assert await see(peer.announcements) == ("room/a", True)
        peer.stream.send.reset(StreamCode.GOING_AWAY)
        assert await see(peer.announcements) == ("room/a", False)
        with pytest.raises(RequestError, match="ended its announcements"):
            await peer.announcements.receive()


async def test_what_is_known_of_tracks_is_forgotten_with_their_broadcast(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    origin = Origin()
    broadcast = origin.create_broadcast("b")
    broadcast.create_track("t")
    async with session_pair(origin) as pair, pair.client.announced() as announcements:
        await announcements.receive()
        requests = 0
        open_bidi = pair.client_connection.open_bidi

        async def count() -> BidiStream:
            nonlocal requests
            requests += 1
            return await open_bidi()

        monkeypatch.setattr(pair.client_connection, "open_bidi", count)
        for _ in range(3):
            assert (await pair.client.track_info("b", "t")).timescale == 1_000_000
        assert requests == 1
        broadcast.close()
        await announcements.receive()
        with pytest.raises(RequestError):
            await pair.client.track_info("b", "t")


@pytest.mark.parametrize("version", [LITE_04, LITE_05, LITE_06], ids=str)
async def test_a_peer_is_not_sent_what_came_through_it(version: Version) -> None:
    """It would drop it, but it need not even come."""
    origin = Origin()
    origin.create_broadcast("through", route=Route((7, 8)))
    origin.create_broadcast("past", route=Route((8,)))
    async with raw_subscriber(origin, version=version) as raw:
        if version is LITE_06:
            setup = await raw.connection.open_uni()
            hello = bytes([lite.UniStreamType.SETUP]) + lite.Setup(origin=8).encode(version)
            await setup.send_all(hello)
            setup.finish()
            await wait_all_tasks_blocked()
        request = lite.AnnounceRequest("", 7).encode(version)
        data = received(await raw.request(ANNOUNCE, request))
        assert b"through" not in data
        assert (b"past" in data) == (version is not LITE_06)
