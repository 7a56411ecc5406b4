"""Through a moq-rs server whose clients share one origin: a relay."""

from __future__ import annotations

from pathlib import Path

import moqtrio

from .endpoints import append_groups, assert_next_groups, session_with
from .processes import assert_groups, moq_rs_client, moq_rs_server

FRAMES, SIZE = 3, 700


async def test_moqtrio_publishes_and_moq_rs_reads(tmp_path: Path) -> None:
    origin = moqtrio.Origin()
    async with moqtrio.SqliteStore.open(tmp_path / "store", retention=3600.0) as store:
        broadcast = origin.create_broadcast("events")
        track = broadcast.create_track("all", store=store, cache_age=0.0, cache_bytes=0)
        append_groups(track, 0, 100, FRAMES, SIZE)
        await track.wait_durable()
        assert track.statistics().oldest == 99, "memory still has what should come from disk"
        async with (
            moq_rs_server() as relay,
            session_with(relay, publish=origin),
            moq_rs_client(relay.url, relay.fingerprint) as reader,
        ):
            await reader.do("announced", id="list")
            await reader.expect("announcement", id="list", path="events", active=True)
            # From 1, since moq-rs speaks moq-lite-06 with its own relay, where 0 is no
            # start at all, and the relay then asks us for the latest group.
            await reader.do("subscribe", id="sub", broadcast="events", track="all", start=1)
            assert_groups(await reader.groups("sub", 99), 1, 100, FRAMES, SIZE)
            append_groups(track, 100, 110, FRAMES, SIZE)
            assert_groups(await reader.groups("sub", 10), 100, 110, FRAMES, SIZE)
            await reader.do("fetch", id="fetch", broadcast="events", track="all", sequence=0)
            assert_groups(await reader.groups("fetch", 1), 0, 1, FRAMES, SIZE)
            track.finish()
            await reader.expect("end", id="sub")
            broadcast.close()
            await reader.expect("announcement", id="list", path="events", active=False)


async def test_moq_rs_publishes_and_moqtrio_reads() -> None:
    room = {"broadcast": "room", "track": "video"}
    async with (
        moq_rs_server() as relay,
        moq_rs_client(relay.url, relay.fingerprint) as publisher,
        session_with(relay) as session,
        session.announced() as announcements,
    ):
        await publisher.do("publish", **room)
        await publisher.do("append", **room, start=0, end=100, frames=FRAMES, size=SIZE)
        announced = await announcements.receive()
        assert (announced.path, announced.active) == ("room", True)
        async with session.subscribe("room", "video", start=0) as subscription:
            await assert_next_groups(subscription, 0, 100, FRAMES, SIZE)
            await publisher.do("append", **room, start=100, end=105, frames=FRAMES, size=SIZE)
            await assert_next_groups(subscription, 100, 105, FRAMES, SIZE)
            await publisher.do("finish", **room)
            assert [item async for item in subscription] == []
        await publisher.do("close", broadcast="room")
        announced = await announcements.receive()
        assert (announced.path, announced.active) == ("room", False)


async def test_moqtrio_on_both_sides() -> None:
    origin = moqtrio.Origin()
    track = origin.create_broadcast("events").create_track("all", cache_age=3600.0)
    append_groups(track, 0, 50, FRAMES, SIZE)
    async with (
        moq_rs_server() as relay,
        session_with(relay, publish=origin),
        session_with(relay) as reader,
        reader.announced() as announcements,
    ):
        assert (await announcements.receive()).path == "events"
        async with reader.subscribe("events", "all", start=0) as subscription:
            await assert_next_groups(subscription, 0, 50, FRAMES, SIZE)
            append_groups(track, 50, 60, FRAMES, SIZE)
            await assert_next_groups(subscription, 50, 60, FRAMES, SIZE)
            track.finish()
            assert [item async for item in subscription] == []


async def test_a_publisher_that_leaves_takes_its_broadcast_along() -> None:
    origin = moqtrio.Origin()
    origin.create_broadcast("events").create_track("all")
    async with (
        moq_rs_server() as relay,
        moq_rs_client(relay.url, relay.fingerprint) as reader,
    ):
        await reader.do("announced", id="list")
        async with session_with(relay, publish=origin):
            await reader.expect("announcement", id="list", path="events", active=True)
        await reader.expect("announcement", id="list", path="events", active=False)


async def test_a_publisher_is_not_told_of_itself() -> None:
    origin = moqtrio.Origin()
    origin.create_broadcast("events").create_track("all")
    async with (
        moq_rs_server() as relay,
        session_with(relay, publish=origin) as publisher,
        session_with(relay) as reader,
        reader.announced() as at_reader,
    ):
        assert (await at_reader.receive()).path == "events"
        async with publisher.announced() as at_publisher:
            await relay.do("publish", broadcast="room", track="video")
            assert (await at_reader.receive()).path == "room"
            assert (await at_publisher.receive()).path == "room"
