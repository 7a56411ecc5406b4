"""Connections that are lost, and GOAWAY, with moq-rs at the other end."""

from __future__ import annotations

from functools import partial

import pytest
import trio

import moqtrio
from moqtrio import Backoff
from moqtrio.wire import VERSIONS, Version

from .endpoints import append_groups, assert_frames
from .processes import moq_rs_client, moq_rs_server

FRAMES, SIZE = 3, 700
ROOM = {"broadcast": "room", "track": "video"}


@pytest.mark.parametrize("order", ["sequence", "arrival"])
async def test_a_subscription_goes_on_where_it_was(order: str) -> None:
    async with moq_rs_server() as server:
        await server.do("publish", **ROOM)
        await server.do("append", **ROOM, start=0, end=50, frames=FRAMES, size=SIZE)
        tls = moqtrio.ClientTls(fingerprint=server.fingerprint)
        async with (
            moqtrio.open_session(server.url, tls=tls, reconnect=Backoff(initial=0.05)) as session,
            session.subscribe("room", "video", start=0, order=order) as subscription,  # type: ignore[arg-type]  # one of two
        ):
            at = trio.current_time()
            came = set()
            for count in range(100):
                item = await subscription.receive()
                assert not isinstance(item, moqtrio.Gap)
                await assert_frames(item, FRAMES, SIZE)
                assert item.sequence not in came
                came.add(item.sequence)
                if count == 49:
                    session._links.latest.session.close()  # type: ignore[union-attr]  # as if lost
                    await server.do("append", **ROOM, start=50, end=100, frames=FRAMES, size=SIZE)
            assert came == set(range(100))
            assert session.connections == 2
            assert subscription.epoch is None
            assert trio.current_time() - at < 5  # it says at once that it knows no epochs


@pytest.mark.parametrize("version", [each for each in VERSIONS if each.draft >= 4], ids=str)
async def test_a_client_that_is_told_to_go_leaves_at_once(version: Version) -> None:
    """It neither waits for what was begun nor goes where it is sent."""
    origin = moqtrio.Origin()
    track = origin.create_broadcast("events").create_track("all")
    sessions: list[moqtrio.Session] = []
    async with trio.open_nursery() as nursery:
        listener: moqtrio.Listener = await nursery.start(
            partial(
                moqtrio.serve,
                origin,
                "moqt://127.0.0.1:0",
                tls=moqtrio.generate_certificate(),
                versions=[version],
                on_session=sessions.append,
            )
        )
        append_groups(track, 0, 1, FRAMES, SIZE)
        async with moq_rs_client(listener.url, listener.fingerprint) as client:
            await client.do("announced", id="list")
            await client.expect("announcement", id="list", path="events")
            await client.do("subscribe", id="sub", broadcast="events", track="all", start=0)
            await client.groups("sub", 1)
            track.append_group().write_frame(b"never finished")
            await sessions[0].go_away(f"moqt://127.0.0.1:{listener.port}/x", grace=10)
            end = sessions[0].closed
            assert end is not None
            assert (end.remote, end.code) == (True, 0)
        assert len(sessions) == 1
        nursery.cancel_scope.cancel()
