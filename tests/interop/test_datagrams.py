"""Datagrams and PROBE between moqtrio and moq-rs, both ways."""

from __future__ import annotations

import trio

import moqtrio

from .endpoints import moqtrio_server, session_with
from .processes import moq_rs_client, moq_rs_server


async def test_moq_rs_receives_our_datagrams() -> None:
    origin = moqtrio.Origin()
    track = origin.create_broadcast("events").create_track("all", datagrams=True)
    track.write_frame(b"first")
    async with (
        moqtrio_server(origin) as listener,
        moq_rs_client(listener.url, listener.fingerprint) as client,
    ):
        await client.do("announced", id="list")
        await client.expect("announcement", id="list", path="events", active=True)
        await client.do("receive_datagrams", id="sub", broadcast="events", track="all")
        await client.expect("subscribed", id="sub")
        await trio.sleep(0.5)  # nothing tells us that it has reached the live edge
        for sequence, size in ((1, 5), (2, 1100)):
            track.write_frame(bytes(size), 7_000_000)
            await client.expect("datagram", id="sub", fields=[sequence, 7_000_000, size])


async def test_we_receive_datagrams_of_moq_rs() -> None:
    room = {"broadcast": "room", "track": "video"}
    async with moq_rs_server() as server:
        await server.do("publish", **room)
        await server.do("append", **room, start=0, end=1, frames=1, size=100)
        async with (
            session_with(server) as session,
            session.subscribe("room", "video", order="arrival", start=0) as subscription,
        ):
            with trio.fail_after(10):
                first = await subscription.receive()
                assert not isinstance(first, moqtrio.Gap)
                await first.read_all()
                before = session.statistics().datagrams_received
                await server.do("datagrams", **room, count=2, size=900)
                for sequence in (1, 2):
                    group = await subscription.receive()
                    assert not isinstance(group, moqtrio.Gap)
                    (frame,) = await group.read_all()
                    assert group.sequence == sequence
                    assert (frame.payload, frame.timestamp_us) == (bytes(900), 5_000)
                assert session.statistics().datagrams_received > before


async def test_moq_rs_reports_how_fast_the_connection_is() -> None:
    async with moq_rs_server() as server, session_with(server) as session:
        async with session.probe() as reports:
            with trio.fail_after(10):
                report = await reports.receive()
        assert report.bitrate is not None or report.round_trip_time is not None
