"""GOAWAY, both ways: sessions that end in good order, and clients that go where they are sent."""

from __future__ import annotations

import logging

import pytest
import trio
from reconnect_tools import HOME, Reader, World, payload, publish
from session_pairs import session_pair
from trio.testing import MockClock, wait_all_tasks_blocked

from moqtrio import Gap, Origin, Track
from moqtrio.errors import ConnectError, RequestError, SessionClosed, StreamCode
from moqtrio.session.goaway import LONGEST_URI, check_redirect
from moqtrio.wire import LITE_03

AWAY = "moqt://home:5555/elsewhere"


def track_of(origin: Origin, **options: float) -> Track:
    return origin.create_broadcast("b").create_track("t", **options)  # type: ignore[arg-type]  # numbers by name


# Saying it


async def test_a_session_ends_when_what_was_begun_has_arrived(autojump_clock: MockClock) -> None:
    origin = Origin()
    track = track_of(origin)
    async with (
        session_pair(origin) as pair,
        pair.client.subscribe("b", "t") as subscription,
        trio.open_nursery() as nursery,
    ):
        writer = track.append_group()
        writer.write_frame(b"first")
        group = await subscription.receive()
        assert not isinstance(group, Gap)
        nursery.start_soon(pair.server.go_away)
        assert (await pair.client.wait_going_away()).uri == ""
        assert pair.client.going_away is not None
        # What is new is refused, and what is newer not begun.
        for ask in (
            lambda: pair.client.find_time("b", "t", 0),
            lambda: pair.client.fetch("b", "t", 0),
        ):
            with pytest.raises(RequestError) as caught:
                await ask()
            assert caught.value.code == StreamCode.GOING_AWAY
        publish(track)
        await trio.sleep(1)
        writer.write_frame(b"last")
        writer.finish()
        assert [frame.payload for frame in await group.read_all()] == [b"first", b"last"]
        at = trio.current_time()
        with pytest.raises(SessionClosed, match="going away"):
            await subscription.receive()
        assert trio.current_time() - at < 0.1


async def test_there_is_an_end_to_the_grace(autojump_clock: MockClock) -> None:
    origin = Origin()
    track = track_of(origin)
    async with session_pair(origin) as pair, pair.client.subscribe("b", "t") as subscription:
        track.append_group().write_frame(b"never finished")
        await subscription.receive()
        at = trio.current_time()
        await pair.server.go_away(grace=3)
        assert trio.current_time() - at == 3
        assert (await pair.client.wait_closed()).reason == "going away"


async def test_with_a_place_to_go_the_peer_has_the_whole_grace(autojump_clock: MockClock) -> None:
    async with session_pair(Origin()) as pair, trio.open_nursery() as nursery:
        nursery.start_soon(pair.server.go_away, AWAY)
        assert (await pair.client.wait_going_away()).uri == AWAY
        await trio.sleep(4)
        assert pair.client.closed is None
        pair.client.close()
        await pair.server.wait_closed()
        assert trio.current_time() < 4.5


async def test_versions_without_it_are_closed_all_the_same(autojump_clock: MockClock) -> None:
    world = World({HOME: Origin()}, version=LITE_03)
    async with world.session() as session:
        await world.sessions[0].go_away(AWAY)
        assert world.clients[0].going_away is None
        assert await session.wait_connected(after=1) == 2


async def test_waiting_for_it_ends_with_the_session() -> None:
    async with session_pair(Origin()) as pair:
        pair.server.close(0, "over")
        with pytest.raises(SessionClosed, match="over"):
            await pair.client.wait_going_away()


# Where to go

CURRENT = "moqt://relay.example:4443/root"


@pytest.mark.parametrize(
    ("uri", "target"),
    [
        ("moqt://relay.example:5555", "moqt://relay.example:5555"),
        ("moql://RELAY.example:5555/a?b=c", "moql://relay.example:5555/a?b=c"),
        ("moqt://relay.example", "moqt://relay.example:443"),
    ],
)
def test_places_to_go(uri: str, target: str) -> None:
    assert check_redirect(CURRENT, uri) == target


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("/other", "has no scheme"),
        ("relay.example:4443", "has no scheme"),
        ("//relay.example:4443", "has no scheme"),
        ("ftp://relay.example", "not a URL this can connect to"),
        ("file:///etc/passwd", "not a URL this can connect to"),
        ("https://relay.example:4443", "of another kind"),
        ("http://relay.example:4443", "gives up the encryption"),
        ("ws://relay.example:4443", "gives up the encryption"),
        ("moqt://evil.example:4443", "not allowed"),
        ("moqt://relay.example.evil.example:4443", "not allowed"),
        ("moqt://relay.example@evil.example:4443", "user name"),
        ("moqt://user:password@relay.example:4443", "user name"),
        ("moqt://relay.example:0", "no port"),
        ("moqt://relay.example:99999", "not a URL"),
        ("moqt://relay.example:x", "not a URL"),
        ("moqt://", "no host"),
        ("moqt://[::1", "not a URL"),
        ("moqt://relay.example:4443/\n", "characters"),
        ("moqt://relay.example:4443/\x1b[31m", "characters"),
        (" moqt://relay.example:4443", "characters"),
        ("moqt://relay.example:4443/" + "a" * LONGEST_URI, "at most 4096"),
        ("", "has no scheme"),
    ],
)
def test_places_not_to_go(uri: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check_redirect(CURRENT, uri)


def test_where_to_go_may_be_decided_by_the_application() -> None:
    seen = []

    def accept(url: str, target: str) -> bool:
        seen.append((url, target))
        return target.startswith("moqt://friend")

    assert check_redirect(CURRENT, "moqt://friend:1", accept) == "moqt://friend:1"
    with pytest.raises(ValueError, match="accept_redirect"):
        check_redirect(CURRENT, "moqt://evil:1", accept)
    assert seen == [(CURRENT, "moqt://friend:1"), (CURRENT, "moqt://evil:1")]


# Going there


@pytest.mark.parametrize("order", ["sequence", "arrival"])
async def test_a_client_goes_where_it_is_sent(autojump_clock: MockClock, order: str) -> None:
    """During live and replay, with a group that is read over the old connection to its end."""
    origin = Origin()
    track = track_of(origin, cache_age=1000.0)
    publish(track, 500)
    world = World({HOME: origin, AWAY: origin})
    live, replay = Reader(), Reader()
    async with world.session() as session, trio.open_nursery() as nursery:

        async def follow(reader: Reader, start: int | None, one_by_one: bool) -> None:
            async with session.subscribe("b", "t", start=start, order=order) as subscription:  # type: ignore[arg-type]  # one of two
                await (reader.read_one_by_one if one_by_one else reader.read)(subscription)

        nursery.start_soon(follow, live, None, False)
        await wait_all_tasks_blocked()
        writer = track.append_group()
        for index in range(5):
            writer.write_frame(payload(500, index))
        await wait_all_tasks_blocked()
        nursery.start_soon(follow, replay, 0, True)
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        old = world.sessions[0]
        nursery.start_soon(old.go_away, AWAY)
        assert await session.wait_connected(after=1) == 2
        assert session.connected
        assert old.closed is None
        publish(track, 5)
        await wait_all_tasks_blocked()
        assert 505 in live.complete  # over the new one, while the old one still carries 500
        assert old.closed is None
        for index in range(5, 8):
            writer.write_frame(payload(500, index))
        writer.finish()
        await old.wait_closed()
        assert trio.current_time() < 3
        track.finish()
    assert [url for _, url in world.dials] == [HOME, AWAY]
    expected = {s: [payload(s)] for s in range(506)}
    expected[500] = [payload(500, index) for index in range(8)]
    assert replay.groups == expected
    assert live.groups == {s: expected[s] for s in range(499, 506)}
    for reader in (live, replay):
        assert (reader.gaps, reader.reset, reader.ended) == ([], {}, True)


async def test_a_group_that_takes_too_long_moves_too(autojump_clock: MockClock) -> None:
    origin = Origin()
    track = track_of(origin)
    world, reader = World({HOME: origin, AWAY: origin}), Reader()
    async with world.session() as session, trio.open_nursery() as nursery:

        async def follow() -> None:
            async with session.subscribe("b", "t") as subscription:
                await reader.read(subscription)

        nursery.start_soon(follow)
        await wait_all_tasks_blocked()
        writer = track.append_group()
        for index in range(30):
            writer.write_frame(payload(0, index))
            await trio.sleep(1)
            if index == 3:
                nursery.start_soon(world.sessions[0].go_away, AWAY)
        assert world.sessions[0].closed is not None
        writer.finish()
        track.finish()
    assert reader.groups == {0: [payload(0, index) for index in range(30)]}
    assert reader.complete == {0}


async def test_announcements_move_too(autojump_clock: MockClock) -> None:
    here, there = Origin(), Origin()
    here.create_broadcast("a")
    there.create_broadcast("b")
    world = World({HOME: here, AWAY: there})
    async with (
        world.session() as session,
        session.announced() as announced,
        trio.open_nursery() as nursery,
    ):
        assert (await announced.receive()).path == "a"
        nursery.start_soon(world.sessions[0].go_away, AWAY)
        changes = [await announced.receive() for _ in range(2)]
        assert [(each.path, each.active) for each in changes] == [("a", False), ("b", True)]


@pytest.mark.parametrize("uri", ["", "moqt://evil:4443", "not a URL \0"])
async def test_without_a_place_to_go_it_comes_back(
    autojump_clock: MockClock, uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    origin = Origin()
    publish(track_of(origin))
    world = World({HOME: origin, "moqt://evil:4443": origin})
    async with world.session() as session, session.subscribe("b", "t", start=0):
        await world.sessions[0].go_away(uri)
        assert await session.wait_connected(after=1) == 2
    assert [url for _, url in world.dials] == [HOME, HOME]
    refused = [record.message for record in caplog.records if "refused" in record.message]
    assert len(refused) == bool(uri)


async def test_where_it_is_sent_nobody_is(autojump_clock: MockClock) -> None:
    origin = Origin()
    world = World({HOME: origin, AWAY: ConnectError("nobody")})
    async with world.session() as session:
        await world.sessions[0].go_away(AWAY)
        assert await session.wait_connected(after=1) == 2
    assert [url for _, url in world.dials] == [HOME, AWAY, HOME]


async def test_being_sent_to_and_fro_is_paced(autojump_clock: MockClock) -> None:
    origin = Origin()
    world = World({HOME: origin, AWAY: origin})
    async with world.session() as session, trio.open_nursery() as nursery:
        for hop in range(6):
            nursery.start_soon(world.sessions[-1].go_away, (AWAY, f"{HOME}/{hop}")[hop % 2])
            world.servers[f"{HOME}/{hop}"] = origin
            await session.wait_connected(after=hop + 1)
        # Delays of 1, 2, 4, 8, 8 and 8 seconds; those above the grace were cut short.
        assert trio.current_time() > 15


async def test_a_second_goaway_is_refused() -> None:
    async with session_pair(Origin()) as pair:
        departure = pair.server.departure
        for uri in ("moqt://first", "moqt://second"):
            await departure._tell(uri)
            await wait_all_tasks_blocked()
        assert pair.client.going_away is not None
        assert pair.client.going_away.uri == "moqt://first"
        assert pair.client.closed is None
