"""Both sides of one connection publish, subscribe, fetch and announce at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from e2e_tools import (
    BROADCAST,
    CLIENT_TLS,
    TRACK,
    Follower,
    Shape,
    frames_of,
    publish_group,
    publish_history,
    serving,
    until,
)

import moqtrio
from moqtrio import Announcement, SqliteStore, StreamCode

SHAPE = Shape(4, 3000)
HISTORY = 120


async def test_at_once(tmp_path: Path) -> None:
    """History into live both ways over one connection."""
    here, there = moqtrio.Origin(), moqtrio.Origin()
    async with (
        SqliteStore.open(tmp_path / "here") as store_here,
        SqliteStore.open(tmp_path / "there") as store_there,
        serving(there) as server,
    ):
        tracks = []
        for origin, name, store in ((here, "client", store_here), (there, "server", store_there)):
            track = origin.create_broadcast(name).create_track(TRACK, store=store, cache_age=0.0)
            await publish_history(track, SHAPE, HISTORY)
            tracks.append(track)
        async with server.connect(publish=here) as session:
            await until(lambda: server.sessions)
            from_server, from_client = Follower(), Follower()
            with trio.fail_after(30):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(follow, from_server, session, "server")
                    nursery.start_soon(follow, from_client, server.sessions[0], "client")
                    await until(lambda: from_server.complete and from_client.complete)
                    for _ in range(30):
                        for track in tracks:
                            publish_group(track, SHAPE)
                        await trio.lowlevel.checkpoint()
                    for track in tracks:
                        track.finish()
            for follower in (from_server, from_client):
                follower.check_whole(SHAPE, 0, HISTORY + 30)
                assert follower.ended


async def follow(follower: Follower, session: moqtrio.Session, broadcast: str) -> None:
    await follower.follow(session, broadcast=broadcast)


async def test_fetch_of_old_and_live_groups(tmp_path: Path) -> None:
    """From the store, from memory, from a group that is being written; several at once."""
    origin = moqtrio.Origin()
    async with SqliteStore.open(tmp_path / "store") as store, serving(origin) as server:
        track = origin.create_broadcast(BROADCAST).create_track(TRACK, store=store, cache_age=0.0)
        await publish_history(track, SHAPE, HISTORY)
        async with server.connect() as session:
            fetched: dict[int, list[moqtrio.Frame]] = {}

            async def fetch(sequence: int) -> None:
                group = await session.fetch(BROADCAST, TRACK, sequence)
                assert group.sequence == sequence
                fetched[sequence] = await group.read_all()

            with trio.fail_after(20):
                async with trio.open_nursery() as nursery:
                    for sequence in range(0, HISTORY, 7):
                        nursery.start_soon(fetch, sequence)
                    with track.append_group() as group:
                        frames = frames_of(group.sequence, SHAPE)
                        group.write_frame(frames[0].payload, frames[0].timestamp_us)
                        live = await session.fetch(BROADCAST, TRACK, group.sequence)
                        for frame in frames[1:]:
                            assert await live.receive() == frames.pop(0)
                            group.write_frame(frame.payload, frame.timestamp_us)
                    assert await live.read_all() == frames
            assert sorted(fetched) == list(range(0, HISTORY, 7))
            for sequence, frames in fetched.items():
                assert frames == frames_of(sequence, SHAPE)
            for broadcast, name, sequence, code in (
                (BROADCAST, TRACK, HISTORY + 50, StreamCode.NOT_FOUND),
                (BROADCAST, "none", 0, StreamCode.NOT_FOUND),
                ("none", TRACK, 0, StreamCode.UNROUTABLE),
            ):
                with pytest.raises(moqtrio.RequestError) as raised:
                    await session.fetch(broadcast, name, sequence)
                assert raised.value.code == code


async def test_announcements_appear_and_end() -> None:
    """Both ways, below a prefix, those there already first."""
    here, there = moqtrio.Origin(), moqtrio.Origin()
    there.create_broadcast("room/before")
    there.create_broadcast("elsewhere")
    async with (
        serving(there) as server,
        moqtrio.open_session(server.listener.url, tls=CLIENT_TLS, publish=here) as session,
        session.announced("room") as announced,
    ):
        await until(lambda: server.sessions)
        async with server.sessions[0].announced() as announced_there:
            with trio.fail_after(10):
                assert announced.initial == 1
                assert described(await announced.receive()) == ("room/before", True)
                assert announced_there.initial == 0
                first = there.create_broadcast("room/first")
                here.create_broadcast("mine")
                assert described(await announced.receive()) == ("room/first", True)
                assert described(await announced_there.receive()) == ("mine", True)
                first.close()
                assert described(await announced.receive()) == ("room/first", False)
                here.broadcasts["mine"].close()
                assert described(await announced_there.receive()) == ("mine", False)
                there.create_broadcast("room/first")
                assert described(await announced.receive()) == ("room/first", True)
                assert {each.path for each in announced.active} == {"room/before", "room/first"}


def described(announcement: Announcement) -> tuple[str, bool]:
    return announcement.path, announcement.active


async def test_a_broadcast_that_closes_ends_its_subscriptions() -> None:
    """With an error: its tracks were not finished."""
    origin = moqtrio.Origin()
    async with serving(origin) as server:
        broadcast = origin.create_broadcast(BROADCAST)
        track = broadcast.create_track(TRACK)
        publish_group(track, SHAPE)
        follower = Follower()
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(follower.connect_and_follow, server)
                await until(lambda: follower.complete)
                broadcast.close()
        assert not follower.ended
        assert isinstance(follower.error, moqtrio.RequestError)
        assert follower.error.code == StreamCode.CANCEL
        assert len(track.log.watchers) == 0
