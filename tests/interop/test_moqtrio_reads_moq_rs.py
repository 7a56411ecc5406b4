"""A moqtrio client of a moq-rs server."""

from __future__ import annotations

import pytest

import moqtrio

from .endpoints import assert_frames, assert_next_groups, session_with
from .processes import moq_rs_server

FRAMES, SIZE = 3, 700
ROOM = {"broadcast": "room", "track": "video"}


async def test_history_runs_into_live_and_ends() -> None:
    async with moq_rs_server() as server:
        await server.do("publish", **ROOM)
        await server.do("append", **ROOM, start=0, end=300, frames=FRAMES, size=SIZE)
        async with session_with(server) as session:
            async with session.subscribe("room", "video", start=0) as subscription:
                await assert_next_groups(subscription, 0, 300, FRAMES, SIZE)
                await server.do("append", **ROOM, start=300, end=320, frames=FRAMES, size=SIZE)
                await assert_next_groups(subscription, 300, 320, FRAMES, SIZE)
                await server.do("finish", **ROOM)
                rest = [item async for item in subscription]
            assert rest == []


async def test_every_group_comes_in_arrival_order() -> None:
    async with moq_rs_server() as server:
        await server.do("publish", **ROOM)
        await server.do("append", **ROOM, start=0, end=100, frames=FRAMES, size=SIZE)
        await server.do("finish", **ROOM)
        async with (
            session_with(server) as session,
            session.subscribe("room", "video", start=0, order="arrival") as subscription,
        ):
            sequences = []
            async for item in subscription:
                assert not isinstance(item, moqtrio.Gap)
                await assert_frames(item, FRAMES, SIZE)
                sequences.append(item.sequence)
            assert sorted(sequences) == list(range(100))


async def test_large_groups_pass_flow_control() -> None:
    frames, size = 40, 100_000
    async with moq_rs_server() as server:
        await server.do("publish", **ROOM)
        await server.do("append", **ROOM, start=0, end=4, frames=frames, size=size)
        async with (
            session_with(server) as session,
            session.subscribe("room", "video", start=0) as subscription,
        ):
            await assert_next_groups(subscription, 0, 4, frames, size)


async def test_a_range_of_history_and_nothing_else() -> None:
    async with moq_rs_server() as server:
        await server.do("publish", **ROOM)
        await server.do("append", **ROOM, start=0, end=20, frames=FRAMES, size=SIZE)
        async with (
            session_with(server) as session,
            session.subscribe("room", "video", start=5, end=9) as subscription,
        ):
            await assert_next_groups(subscription, 5, 9, FRAMES, SIZE)
            assert [item async for item in subscription] == []


async def test_no_start_is_the_latest_group() -> None:
    async with moq_rs_server() as server:
        await server.do("publish", **ROOM)
        await server.do("append", **ROOM, start=0, end=20, frames=FRAMES, size=SIZE)
        async with (
            session_with(server) as session,
            session.subscribe("room", "video") as subscription,
        ):
            await assert_next_groups(subscription, 19, 20, FRAMES, SIZE)
            await server.do("append", **ROOM, start=20, end=22, frames=FRAMES, size=SIZE)
            await assert_next_groups(subscription, 20, 22, FRAMES, SIZE)


async def test_a_hole_is_a_gap() -> None:
    """moq-rs says nothing of a hole, so it is known by what came after it."""
    async with moq_rs_server() as server:
        await server.do("publish", **ROOM)
        await server.do("append", **ROOM, start=0, end=2, frames=FRAMES, size=SIZE)
        await server.do("append", **ROOM, start=5, end=7, frames=FRAMES, size=SIZE)
        async with (
            session_with(server) as session,
            session.subscribe("room", "video", start=0, gap_timeout=0.2) as subscription,
        ):
            await assert_next_groups(subscription, 0, 2, FRAMES, SIZE)
            gap = await subscription.receive()
            assert isinstance(gap, moqtrio.Gap)
            assert (gap.start, gap.end) == (2, 5)
            await assert_next_groups(subscription, 5, 7, FRAMES, SIZE)


async def test_fetch() -> None:
    async with moq_rs_server() as server:
        await server.do("publish", **ROOM)
        await server.do("append", **ROOM, start=0, end=9, frames=FRAMES, size=SIZE)
        async with session_with(server) as session:
            group = await session.fetch("room", "video", 4)
            assert group.sequence == 4
            await assert_frames(group, FRAMES, SIZE)
            with pytest.raises(moqtrio.RequestError) as raised:
                await session.fetch("room", "video", 99)
            assert raised.value.code == moqtrio.StreamCode.NOT_FOUND


async def test_announcements_come_and_go() -> None:
    async with moq_rs_server() as server:
        await server.do("publish", **ROOM)
        async with session_with(server) as session, session.announced() as announcements:
            first = await announcements.receive()
            assert (first.path, first.active) == ("room", True)
            await server.do("publish", broadcast="hall/two", track="video")
            second = await announcements.receive()
            assert (second.path, second.active) == ("hall/two", True)
            await server.do("close", broadcast="room")
            ended = await announcements.receive()
            assert (ended.path, ended.active) == ("room", False)
            async with session.announced("hall") as in_hall:
                found = await in_hall.receive()
                assert (found.path, found.active) == ("hall/two", True)


async def test_unknown_names_are_refused_and_the_session_goes_on() -> None:
    async with moq_rs_server() as server:
        await server.do("publish", **ROOM)
        await server.do("append", **ROOM, start=0, end=1, frames=FRAMES, size=SIZE)
        async with session_with(server) as session:
            with pytest.raises(moqtrio.RequestError) as raised:
                async with session.subscribe("room", "none", start=0) as subscription:
                    await subscription.receive()
            assert raised.value.code == moqtrio.StreamCode.NOT_FOUND
            with pytest.raises(moqtrio.RequestError) as raised:
                async with session.subscribe("none", "video", start=0) as subscription:
                    await subscription.receive()
            assert raised.value.code == moqtrio.StreamCode.UNROUTABLE
            async with session.subscribe("room", "video", start=0) as subscription:
                await assert_next_groups(subscription, 0, 1, FRAMES, SIZE)
