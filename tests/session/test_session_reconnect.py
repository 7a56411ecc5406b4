"""Subscriptions and requests over connections that are lost."""

from __future__ import annotations

import logging

import pytest
import trio
from reconnect_tools import HOME, QUICK, Reader, World, payload, publish
from trio.testing import MockClock, wait_all_tasks_blocked

from moqtrio import Backoff, Gap, GroupProducer, Origin, ResumingSubscription, Track, TrackInfo
from moqtrio.errors import (
    ConnectError,
    EpochChanged,
    RequestError,
    SessionClosed,
    SessionCode,
    StreamCode,
    StreamReset,
)
from moqtrio.model import GroupConsumer
from moqtrio.session import Session
from moqtrio.wire import VERSIONS, Version


def track_of(origin: Origin, **options: float) -> Track:
    return origin.create_broadcast("b").create_track("t", **options)  # type: ignore[arg-type]  # numbers by name


@pytest.mark.parametrize("order", ["sequence", "arrival"])
async def test_a_subscription_goes_on_at_the_next_group(
    autojump_clock: MockClock, order: str
) -> None:
    origin = Origin()
    track = track_of(origin, cache_age=1000.0)
    world, reader = World({HOME: origin}), Reader()
    async with (
        world.session() as session,
        session.subscribe("b", "t", start=0, order=order) as subscription,  # type: ignore[arg-type]  # one of two
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(reader.read, subscription)
        publish(track, 3, frames=2)
        await wait_all_tasks_blocked()
        await world.cut()
        assert not session.connected
        publish(track, 4, frames=2)
        assert await session.wait_connected(after=session.connections) == 2
        publish(track, 2, frames=2)
        track.finish()
    assert reader.ended
    assert reader.groups == {s: [payload(s, 0), payload(s, 1)] for s in range(9)}
    assert (reader.gaps, subscription.start, subscription.final) == ([], 0, 9)
    # What had come was not asked for again: the second server sent the last six.
    assert world.clients[1].statistics().bytes_received < 6 * 100 + 400


@pytest.mark.parametrize("version", VERSIONS, ids=str)
@pytest.mark.parametrize("order", ["sequence", "arrival"])
@pytest.mark.parametrize("read", [0, 1, 5])
async def test_a_group_that_is_cut_off_goes_on_where_it_was(
    autojump_clock: MockClock, order: str, read: int, version: Version
) -> None:
    origin = Origin()
    track = track_of(origin)
    world = World({HOME: origin}, version=version)
    async with (
        world.session() as session,
        session.subscribe("b", "t", order=order) as subscription,  # type: ignore[arg-type]  # one of two
    ):
        writer = track.append_group()
        for index in range(5):
            writer.write_frame(payload(0, index))
        group = await subscription.receive()
        assert not isinstance(group, Gap)
        frames = [await group.receive() for _ in range(read)]
        await world.cut()
        for index in range(5, 10):
            writer.write_frame(payload(0, index))
        frames += [await group.receive() for _ in range(7 - read)]
        await world.cut()
        writer.write_frame(payload(0, 10))
        writer.finish()
        frames += await group.read_all()
        assert [frame.payload for frame in frames] == [payload(0, index) for index in range(11)]
        with pytest.raises(trio.EndOfChannel):
            await group.receive()
        publish(track)
        following = await subscription.receive()
        assert not isinstance(following, Gap)
        assert following.sequence == 1


async def test_groups_that_are_gone_are_a_gap(autojump_clock: MockClock) -> None:
    origin = Origin()
    track = track_of(origin, cache_age=1.0)
    world, reader = World({HOME: origin}), Reader()
    async with (
        world.session() as session,
        session.subscribe("b", "t", start=0) as subscription,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(reader.read_one_by_one, subscription)
        publish(track, 2)
        await wait_all_tasks_blocked()
        del world.servers[HOME]
        await world.cut()
        publish(track, 5)
        await trio.sleep(10)
        publish(track)  # only this one is in memory when the server is there again
        track.log.evict()
        world.servers[HOME] = origin
        await session.wait_connected(after=1)
        await wait_all_tasks_blocked()
        publish(track)
        track.finish()
    assert reader.order == [0, 1, 7, 8]
    assert reader.gaps == [Gap(2, 7, 0)]


@pytest.mark.parametrize("version", VERSIONS, ids=str)
async def test_a_cut_group_that_is_gone_ends_with_its_error(
    autojump_clock: MockClock, version: Version
) -> None:
    origin = Origin()
    track = track_of(origin, cache_age=1.0)
    world, reader = World({HOME: origin}, version=version), Reader()
    async with (
        world.session() as session,
        session.subscribe("b", "t") as subscription,
        trio.open_nursery() as nursery,
    ):
        writer = track.append_group()
        writer.write_frame(payload(0))
        nursery.start_soon(reader.read, subscription)
        await wait_all_tasks_blocked()
        del world.servers[HOME]
        await world.cut()
        writer.finish()
        await trio.sleep(5)
        publish(track)
        track.log.evict()
        world.servers[HOME] = origin
        track.finish()
    assert reader.groups == {0: [payload(0)], 1: [payload(1)]}
    assert reader.reset == {0: StreamCode.NOT_FOUND}
    assert (reader.complete, reader.gaps) == ({1}, [])


async def test_a_group_its_publisher_aborts_is_not_asked_for_again(
    autojump_clock: MockClock,
) -> None:
    origin = Origin()
    track = track_of(origin)
    world = World({HOME: origin})
    async with world.session() as session, session.subscribe("b", "t") as subscription:
        writer = track.append_group()
        writer.write_frame(b"x")
        group = await subscription.receive()
        assert not isinstance(group, Gap)
        writer.abort(80)
        for _ in range(2):
            with pytest.raises(StreamReset) as caught:
                await group.read_all()
            assert caught.value.code == 80
        assert len(world.dials) == 1


# Epochs


async def restart(world: World, *, run: str, groups: int) -> Track:
    """A server that remembers nothing takes the place of the one that was there."""
    origin = Origin()
    track = track_of(origin)
    publish(track, groups, run=run)
    world.servers[HOME] = origin
    await world.cut()
    return track


async def test_a_changed_epoch_is_reported_and_not_spliced(autojump_clock: MockClock) -> None:
    origin = Origin()
    track = track_of(origin)
    world = World({HOME: origin})
    async with world.session() as session:
        async with session.subscribe("b", "t") as subscription:
            await wait_all_tasks_blocked()  # the latest group is one of those to come
            publish(track, 2)
            writer = track.append_group()
            writer.write_frame(b"half")
            group = None
            for _ in range(2):
                group = await subscription.receive()
            assert group is not None
            assert not isinstance(group, Gap)
            assert (await group.receive()).payload == payload(1)
            await wait_all_tasks_blocked()
            assert subscription.epoch == track.epoch
            other = await restart(world, run="other", groups=9)
            item = await subscription.receive()  # it had arrived
            assert not isinstance(item, Gap)
            for _ in range(2):
                with pytest.raises(EpochChanged, match="another track") as caught:
                    await subscription.receive()
            assert (caught.value.previous, caught.value.current) == (track.epoch, other.epoch)
            with pytest.raises(EpochChanged):
                await item.read_all()
        # Whoever asks again follows the new one.
        async with session.subscribe("b", "t", start=0) as subscription:
            first = await subscription.receive()
            assert not isinstance(first, Gap)
            assert (await first.receive()).payload == payload(0, run="other")


async def test_nothing_is_spliced_where_nothing_has_come(autojump_clock: MockClock) -> None:
    origin = Origin()
    track_of(origin)
    world = World({HOME: origin})
    async with world.session() as session, session.subscribe("b", "t") as subscription:
        await wait_all_tasks_blocked()
        other = await restart(world, run="other", groups=1)
        group = await subscription.receive()
        assert not isinstance(group, Gap)
        assert (await group.receive()).payload == payload(0, run="other")
        assert subscription.epoch == other.epoch


@pytest.mark.parametrize(
    ("groups", "run", "changed"),
    [
        (2, "other", "its latest group is 1, and 2 had come"),
        (3, "other", "group 2 begins otherwise"),
        (9, "other", "group 2 begins otherwise"),
        (3, "", None),
        (9, "", None),
    ],
)
async def test_a_publisher_that_tells_no_epoch_is_judged_by_what_it_has(
    autojump_clock: MockClock, groups: int, run: str, changed: str | None
) -> None:
    clock_us = 10**15

    def untold() -> Track:
        origin = Origin()
        broadcast = origin.create_broadcast("b")
        broadcast.create_track("t.epoch")  # an application's own, which answers for nothing
        world.servers[HOME] = origin
        return broadcast.create_track("t", cache_age=1000.0)

    def publish_at(track: Track, count: int, run: str) -> None:
        for sequence in range(count):
            track.write_frame(payload(sequence, run=run), clock_us + sequence)

    world = World()
    track = untold()
    publish_at(track, 3, "")
    async with (
        world.session() as session,
        session.subscribe("b", "t", start=0) as subscription,
    ):
        for sequence in range(3):
            group = await subscription.receive()
            assert not isinstance(group, Gap)
            assert (await group.receive()).payload == payload(sequence)
        assert subscription.epoch is None
        track = untold()
        publish_at(track, groups, run)
        await world.cut()
        if changed is not None:
            with pytest.raises(EpochChanged, match=changed):
                await subscription.receive()
            return
        publish_at(track, 1, "")
        following = await subscription.receive()
        assert not isinstance(following, Gap)
        assert following.sequence == 3


async def test_no_group_comes_before_its_epoch_is_known(autojump_clock: MockClock) -> None:
    """Else nothing could tell it from those of the next connection."""
    silent = Origin()
    broadcast = silent.create_broadcast("b")
    publish(broadcast.create_track("t"))
    questions = broadcast.create_track("t.epoch", first_sequence=2**62 - 1).requests()
    world = World({HOME: silent})
    async with questions, world.session() as session:
        async with session.subscribe("b", "t") as subscription:
            with trio.move_on_after(4) as scope:
                await subscription.receive()
            assert scope.cancelled_caught
            other = await restart(world, run="other", groups=1)
            group = await subscription.receive()
            assert not isinstance(group, Gap)
            assert (await group.receive()).payload == payload(0, run="other")
            assert subscription.epoch == other.epoch
        # Who does not answer at all is not waited for in vain.
        world.servers[HOME] = silent
        await world.cut()
        await session.wait_connected(after=session.connections)
        async with session.subscribe("b", "t") as subscription:
            at = trio.current_time()
            await subscription.receive()
            assert trio.current_time() - at == 5
            assert subscription.epoch is None


async def test_an_epoch_that_was_told_once_is_remembered(autojump_clock: MockClock) -> None:
    """A server between two others does not tell; the third one is another than the first."""

    def server(*, tells: bool) -> Track:
        origin = Origin()
        broadcast = origin.create_broadcast("b")
        if not tells:
            broadcast.create_track("t.epoch")
        track = broadcast.create_track("t", cache_age=1000.0)
        track.write_frame(b"same", 1)
        world.servers[HOME] = origin
        return track

    world = World()
    first = server(tells=True)
    async with world.session() as session, session.subscribe("b", "t") as subscription:
        group = await subscription.receive()
        assert not isinstance(group, Gap)
        await group.receive()
        server(tells=False).write_frame(b"next", 2)
        await world.cut()
        group = await subscription.receive()
        assert not isinstance(group, Gap)
        assert (await group.receive()).payload == b"next"
        third = server(tells=True)
        third.write_frame(b"next", 2)
        await world.cut()
        with pytest.raises(EpochChanged) as caught:
            await subscription.receive()
        assert (caught.value.previous, caught.value.current) == (first.epoch, third.epoch)


async def test_what_overtook_before_the_loss_does_not_come_again(
    autojump_clock: MockClock,
) -> None:
    origin = Origin()
    track = track_of(origin, cache_age=1000.0)
    world, reader = World({HOME: origin}), Reader()
    async with (
        world.session() as session,
        session.subscribe("b", "t", start=0, order="arrival") as subscription,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(reader.read, subscription)
        publish(track, 2)
        await wait_all_tasks_blocked()
        assert subscription._ledger.take(4)  # as if it had come before 2 and 3
        await world.cut()
        publish(track, 4)
        track.finish()
    assert sorted(reader.groups) == [0, 1, 2, 3, 5]
    assert reader.gaps == []


# Wishes


async def sequences(subscription: ResumingSubscription) -> list[int]:
    """Of groups, without a gap, up to the end."""
    found = []
    async for item in subscription:
        assert not isinstance(item, Gap)
        found.append(item.sequence)
    return found


async def test_wishes_outlive_the_connection(autojump_clock: MockClock) -> None:
    origin = Origin()
    track = track_of(origin, cache_age=1000.0)
    world = World({HOME: origin})
    publish(track, 10)
    async with (
        world.session() as session,
        session.subscribe("b", "t", start=0, end=2) as subscription,
    ):
        assert await sequences(subscription) == [0, 1]
        await world.cut()
        await subscription.update(end=6)  # while there is no connection
        assert await sequences(subscription) == [2, 3, 4, 5]
        await subscription.update(start=8, end=9, priority=200)
        await world.cut()
        assert await sequences(subscription) == [8]
        with pytest.raises(ValueError, match="end"):
            await subscription.update(end=3)
        with pytest.raises(ValueError, match="256"):
            await subscription.update(priority=256)
        await subscription.update(end=10)
        assert await sequences(subscription) == [9]
    assert len(world.dials) == 3


async def test_impossible_wishes_are_refused(autojump_clock: MockClock) -> None:
    origin = Origin()
    track_of(origin)
    async with World({HOME: origin}).session() as session:
        with pytest.raises(ValueError, match="end"):
            async with session.subscribe("b", "t", start=5, end=3):
                pass
        with pytest.raises(RequestError) as caught:
            async with session.subscribe("b", "nothing"):
                pass
        assert caught.value.code == StreamCode.NOT_FOUND


async def test_a_range_that_has_come_is_over_without_a_connection(
    autojump_clock: MockClock,
) -> None:
    origin = Origin()
    publish(track_of(origin, cache_age=1000.0), 5)
    world = World({HOME: origin})
    async with world.session() as session, session.subscribe("b", "t", start=0, end=2) as items:
        for sequence in range(2):
            group = await items.receive()
            assert isinstance(group, GroupConsumer)
            assert (group.sequence, len(await group.read_all())) == (sequence, 1)
        await world.cut()
        with pytest.raises(trio.EndOfChannel):
            await items.receive()
        await items.update(end=3)  # for which there has to be another
        group = await items.receive()
        assert isinstance(group, GroupConsumer)
        assert group.sequence == 2


@pytest.mark.parametrize("version", VERSIONS, ids=str)
async def test_what_was_never_there_is_no_evidence(
    autojump_clock: MockClock, version: Version
) -> None:
    """Nothing below the start has come, nor what an update has skipped."""
    origin = Origin()
    track = track_of(origin, cache_age=1000.0)
    publish(track, 2)
    world, reader = World({HOME: origin}, version=version), Reader()
    async with (
        world.session() as session,
        session.subscribe("b", "t", start=10) as subscription,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(reader.read, subscription)
        await trio.sleep(1)
        await subscription.update(start=12)
        await world.cut()
        await session.wait_connected(after=1)
        await trio.sleep(1)
        publish(track, 13)
        await trio.sleep(10)
        track.finish()
    assert (sorted(reader.groups), reader.gaps) == ([12, 13, 14], [])


@pytest.mark.parametrize("connected", [False, True])
@pytest.mark.parametrize("start", [None, 0])
async def test_an_end_below_what_has_come(
    autojump_clock: MockClock, connected: bool, start: int | None
) -> None:
    """It is the end, whether there is a connection or not."""
    origin = Origin()
    publish(track_of(origin, cache_age=1000.0), 5)
    world, reader = World({HOME: origin}), Reader()
    async with (
        world.session() as session,
        session.subscribe("b", "t", start=start) as subscription,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(reader.read, subscription)
        await wait_all_tasks_blocked()
        await world.cut()
        if connected:
            await session.wait_connected(after=1)
            await trio.sleep(1)
        await subscription.update(end=2)
    assert reader.ended
    assert (sorted(reader.groups), reader.gaps) == ([4] if start is None else [0, 1, 2, 3, 4], [])


async def test_a_wish_that_changes_while_it_is_asked_for(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in force although the new connection was asked for what was wished before."""
    origin = Origin()
    track = track_of(origin, cache_age=1000.0)
    world = World({HOME: origin})
    track_info, asked, gate = Session.track_info, trio.Event(), trio.Event()

    async def answer_late(self: Session, broadcast: str, name: str) -> TrackInfo:
        if name == "t":
            asked.set()
            await gate.wait()
        return await track_info(self, broadcast, name)

    reader = Reader()
    async with (
        world.session() as session,
        session.subscribe("b", "t", start=0) as items,
        trio.open_nursery() as nursery,
    ):
        publish(track)
        nursery.start_soon(reader.read, items)
        await wait_all_tasks_blocked()
        monkeypatch.setattr(Session, "track_info", answer_late)
        await world.cut()
        await asked.wait()
        await items.update(end=3)
        gate.set()
        await wait_all_tasks_blocked()
        (asked_for,) = world.clients[-1]._subscriptions.values()
        assert asked_for._request.end == 3, "the publisher has been told"
        publish(track, 5)
    assert (sorted(reader.order), reader.gaps, reader.ended) == ([0, 1, 2], [], True)


async def test_a_track_that_ends_while_away(autojump_clock: MockClock) -> None:
    origin = Origin()
    track = track_of(origin, cache_age=1000.0)
    world, reader = World({HOME: origin}), Reader()
    async with (
        world.session() as session,
        session.subscribe("b", "t", start=0) as subscription,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(reader.read_one_by_one, subscription)
        publish(track, 2)
        await wait_all_tasks_blocked()
        await world.cut()
        publish(track, 2)
        track.finish()
    assert (reader.order, reader.ended, reader.gaps) == ([0, 1, 2, 3], True, [])


async def test_the_last_group_of_a_track_goes_on_after_its_end(autojump_clock: MockClock) -> None:
    origin = Origin()
    track = track_of(origin)
    world = World({HOME: origin})
    async with world.session() as session, session.subscribe("b", "t") as subscription:
        writer = track.append_group()
        writer.write_frame(b"one")
        group = await subscription.receive()
        assert not isinstance(group, Gap)
        assert (await group.receive()).payload == b"one"
        track.finish()
        with pytest.raises(trio.EndOfChannel):
            await subscription.receive()
        await world.cut()
        writer.write_frame(b"two")
        writer.finish()
        assert [frame.payload for frame in await group.read_all()] == [b"two"]


async def test_what_is_not_there_yet_is_waited_for(autojump_clock: MockClock) -> None:
    """A server is back before its publishers are."""
    first, second = Origin(), Origin()
    track = track_of(first, cache_age=1000.0)
    world = World({HOME: first})
    async with world.session() as session, session.subscribe("b", "t", start=0) as subscription:
        publish(track)
        await subscription.receive()
        await wait_all_tasks_blocked()
        world.servers[HOME] = second
        await world.cut()
        await trio.sleep(20)
        assert session.connected
        # The track itself, as a relay has it.
        broadcast = second.create_broadcast("b")
        broadcast._tracks["t"] = track
        publish(track)
        group = await subscription.receive()
        assert not isinstance(group, Gap)
        assert group.sequence == 1


async def test_what_comes_later_may_be_another(autojump_clock: MockClock) -> None:
    first, second = Origin(), Origin()
    track = track_of(first)
    world = World({HOME: first})
    async with world.session() as session, session.subscribe("b", "t") as subscription:
        publish(track)
        await subscription.receive()
        world.servers[HOME] = second
        await world.cut()
        await trio.sleep(20)
        other = track_of(second)
        publish(other, 5)
        with pytest.raises(EpochChanged) as caught:
            await subscription.receive()
        assert (caught.value.previous, caught.value.current) == (track.epoch, other.epoch)


async def test_what_does_not_come_back_is_told(autojump_clock: MockClock) -> None:
    first = Origin()
    publish(track_of(first))
    world = World({HOME: first})
    async with world.session() as session, session.subscribe("b", "t") as subscription:
        await subscription.receive()
        world.servers[HOME] = Origin()
        await world.cut()
        with pytest.raises(RequestError) as caught:
            await subscription.receive()
        assert caught.value.code == StreamCode.UNROUTABLE
        assert 55 < trio.current_time() < 65
        assert session.connected


# Other requests


async def test_requests_in_progress_are_asked_again(autojump_clock: MockClock) -> None:
    origin = Origin()
    track = track_of(origin)
    publish(track, 2, frames=3)
    world = World({HOME: origin})
    async with world.session() as session:
        known = await session.track_info("b", "t")
        del world.servers[HOME]
        await world.cut()
        infos: list[TrackInfo] = []
        payloads: list[bytes] = []
        times: list[int] = []

        async def info() -> None:
            infos.append(await session.track_info("b", "t"))

        async def fetch() -> None:
            group = await session.fetch("b", "t", 1)
            payloads.extend(frame.payload for frame in await group.read_all())

        async def find() -> None:
            times.append(await session.find_time("b", "t", 0.0))

        async with trio.open_nursery() as nursery:
            for ask in (info, fetch, find):
                nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            world.servers[HOME] = origin
        assert infos == [known]
        assert payloads == [payload(1, index) for index in range(3)]
        assert times == [0]


async def test_a_fetched_group_goes_on(autojump_clock: MockClock) -> None:
    origin = Origin()
    track = track_of(origin)
    writer = track.append_group()
    writer.write_frame(b"0")
    world = World({HOME: origin})
    async with world.session() as session:
        group = await session.fetch("b", "t", 0)
        assert (await group.receive()).payload == b"0"
        await world.cut()
        writer.write_frame(b"1")
        assert (await group.receive()).payload == b"1"
        await restart(world, run="other", groups=1)
        with pytest.raises(EpochChanged, match="group 0 begins otherwise"):
            await group.receive()


async def test_announcements_end_and_come_again(autojump_clock: MockClock) -> None:
    first, second = Origin(), Origin()
    for path in ("room/a", "room/b"):
        first.create_broadcast(path)
    second.create_broadcast("room/b")
    world = World({HOME: first})
    async with world.session() as session, session.announced("room") as announced:
        assert announced.initial == 2
        assert {(await announced.receive()).path for _ in range(2)} == {"room/a", "room/b"}
        assert len(announced.active) == 2
        world.servers[HOME] = second
        await world.cut()
        changes = [await announced.receive() for _ in range(3)]
        assert sorted((c.path, c.active) for c in changes[:2]) == [
            ("room/a", False),
            ("room/b", False),
        ]
        assert (changes[2].path, changes[2].active) == ("room/b", True)
        second.create_broadcast("room/c")
        assert (await announced.receive()).path == "room/c"
        assert [each.path for each in announced.active] == ["room/b", "room/c"]


async def test_publishing_goes_on(autojump_clock: MockClock) -> None:
    mine = Origin()
    track = track_of(mine)
    world = World({HOME: Origin()}, publish=mine)
    async with world.session() as session:
        for connection in range(2):
            server = world.sessions[connection]
            async with server.subscribe("b", "t", start=connection) as subscription:
                publish(track)
                item = await subscription.receive()
                assert not isinstance(item, Gap)
                assert item.sequence == connection
            await world.cut()
            await session.wait_connected(after=session.connections)


# Connections


async def test_the_first_failure_is_raised(autojump_clock: MockClock) -> None:
    world = World()
    with pytest.raises(ConnectError, match="nobody listens"):
        async with world.session():
            pass
    assert len(world.dials) == 1


async def test_delays_grow_and_the_budget_ends(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    origin = Origin()
    track_of(origin)
    world = World({HOME: origin})
    caplog.set_level(logging.WARNING)
    async with world.session() as session, session.subscribe("b", "t") as subscription:
        await trio.sleep(100)
        del world.servers[HOME]
        await world.cut()
        for wait in (subscription.receive, lambda: session.track_info("b", "t")):
            with pytest.raises(SessionClosed, match=r"connection was lost.*nobody listens"):
                await wait()
        end = await session.wait_closed()
        assert isinstance(end.__cause__, ConnectError)
    delays = [0, 1, 3, 7, 15, 23, 31, 39, 47, 55]
    assert [at - 100 for at, _ in world.dials[1:]] == delays[1:]
    assert trio.current_time() == 155
    lines = [record.message for record in caplog.records]
    assert len(lines) == 2
    assert "trying again" in lines[0]
    assert "not connected again" in lines[1]


async def test_a_stable_connection_begins_the_delays_anew(autojump_clock: MockClock) -> None:
    world = World({HOME: Origin()})
    async with world.session() as session:
        for lifetime, delay in ((0.5, 1), (0.5, 2), (0.5, 4), (0.5, 8), (9, 1), (0.5, 2)):
            await trio.sleep(lifetime)
            lost_at, connections = trio.current_time(), session.connections
            await world.cut()
            await session.wait_connected(after=connections)
            assert trio.current_time() - lost_at == delay


async def test_attempts_are_counted(autojump_clock: MockClock) -> None:
    world = World({HOME: Origin()})
    backoff = Backoff(initial=1, attempts=3, seconds=10**6)
    async with world.session(backoff) as session:
        del world.servers[HOME]
        await world.cut()
        await session.wait_closed()
    assert len(world.dials) == 4


@pytest.mark.parametrize("fatal", ["refused", "certificate"])
async def test_what_cannot_get_better_is_not_tried_again(
    autojump_clock: MockClock, fatal: str
) -> None:
    world = World({HOME: Origin()})
    async with world.session() as session:
        if fatal == "certificate":
            world.servers[HOME] = ConnectError("not its certificate", retryable=False)
        await world.cut(SessionCode.UNAUTHORIZED if fatal == "refused" else 0)
        end = await session.wait_closed()
        if fatal == "refused":
            assert (end.code, len(world.dials)) == (SessionCode.UNAUTHORIZED, 1)
        else:
            assert "not its certificate" in str(end)
            assert len(world.dials) == 2


async def test_flapping(autojump_clock: MockClock) -> None:
    origin = Origin()
    track = track_of(origin, cache_age=10_000.0)
    world, readers = World({HOME: origin}), [Reader() for _ in range(3)]

    async def follow(reader: Reader, order: str, one_by_one: bool) -> None:
        async with session.subscribe("b", "t", start=0, order=order) as subscription:  # type: ignore[arg-type]  # one of two
            await (reader.read_one_by_one if one_by_one else reader.read)(subscription)

    async with world.session() as session, trio.open_nursery() as nursery:
        nursery.start_soon(follow, readers[0], "sequence", False)
        nursery.start_soon(follow, readers[1], "sequence", True)
        nursery.start_soon(follow, readers[2], "arrival", False)
        await wait_all_tasks_blocked()
        for _ in range(20):
            publish(track, 2)
            with track.append_group() as writer:
                for index in range(3):
                    writer.write_frame(payload(writer.sequence, index))
                    await trio.sleep(0.01)
                await world.cut()
                for index in range(3, 6):
                    writer.write_frame(payload(writer.sequence, index))
                await session.wait_connected(after=session.connections)
        track.finish()
    expected = {
        s: [payload(s, index) for index in range(6 if s % 3 == 2 else 1)] for s in range(60)
    }
    for reader in readers:
        assert reader.groups == expected
        assert (len(reader.complete), reader.gaps, reader.reset) == (60, [], {})
    assert session.connections == 21


async def test_closing_is_for_good_and_nothing_is_left(autojump_clock: MockClock) -> None:
    origin = Origin()
    track_of(origin)
    before = trio.lowlevel.current_statistics().tasks_living
    for when in ("connected", "lost"):
        world = World({HOME: origin})
        async with world.session() as session:
            async with session.subscribe("b", "t") as subscription, session.announced():
                if when == "lost":
                    del world.servers[HOME]
                    await world.cut()
                session.close(7, "enough")
                with pytest.raises(SessionClosed, match="enough"):
                    await subscription.receive()
            assert (await session.wait_closed()).code == 7
            with pytest.raises(SessionClosed, match="enough"):
                await session.fetch("b", "t", 0)
        assert len(world.dials) == 1
    with trio.move_on_after(5):
        async with World({HOME: origin}).session() as session, session.subscribe("b", "t"):
            await trio.sleep_forever()
    await wait_all_tasks_blocked()
    assert trio.lowlevel.current_statistics().tasks_living == before


async def test_whoever_reads_is_cancelled_and_finds_nothing_closed(
    autojump_clock: MockClock,
) -> None:
    origin = Origin()
    track = track_of(origin)

    async def read(scope: trio.CancelScope) -> None:
        with scope:
            async with (
                World({HOME: origin}).session() as session,
                session.subscribe("b", "t") as subscription,
                trio.open_nursery() as nursery,
            ):
                async for item in subscription:
                    assert not isinstance(item, Gap)
                    nursery.start_soon(item.read_all)

    async def write(writer: GroupProducer) -> None:
        while True:
            writer.write_frame(b"y")
            await trio.lowlevel.checkpoint()

    for _ in range(10):
        with track.append_group() as writer:
            async with trio.open_nursery() as writing:
                async with trio.open_nursery() as nursery:
                    scope = trio.CancelScope()
                    writer.write_frame(b"x")
                    nursery.start_soon(read, scope)
                    await wait_all_tasks_blocked()
                    writing.start_soon(write, writer)
                    for _ in range(20):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
                writing.cancel_scope.cancel()


async def test_errors_of_the_block_come_out_as_they_are(autojump_clock: MockClock) -> None:
    origin = Origin()
    track_of(origin)

    async def fail() -> None:
        async with (
            World({HOME: origin}).session(QUICK) as session,
            session.subscribe("b", "t"),
            session.announced(),
        ):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await fail()
