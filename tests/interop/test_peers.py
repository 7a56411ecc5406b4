"""moq-rs against itself: that what the other tests ask of it can be had."""

from __future__ import annotations

from .processes import assert_groups, moq_rs_client, moq_rs_server

FRAMES, SIZE = 3, 500


async def test_moq_rs_replays_to_itself_from_its_cache() -> None:
    async with moq_rs_server() as server:
        await server.do("publish", broadcast="room", track="video")
        await server.do(
            "append", broadcast="room", track="video", start=0, end=5, frames=FRAMES, size=SIZE
        )
        async with moq_rs_client(server.url, server.fingerprint) as client:
            await client.do("announced", id="list")
            await client.expect("announcement", id="list", path="room", active=True)
            await client.do("subscribe", id="sub", broadcast="room", track="video", start=0)
            old = await client.groups("sub", 5)
            await server.do(
                "append", broadcast="room", track="video", start=5, end=7, frames=FRAMES, size=SIZE
            )
            live = await client.groups("sub", 2)
            assert_groups(old + live, 0, 7, FRAMES, SIZE)
            await server.do("finish", broadcast="room", track="video")
            await client.expect("end", id="sub")
            await server.do("close", broadcast="room")
            await client.expect("announcement", id="list", path="room", active=False)


async def test_moq_rs_relays_between_its_clients() -> None:
    async with (
        moq_rs_server() as server,
        moq_rs_client(server.url, server.fingerprint) as publisher,
        moq_rs_client(server.url, server.fingerprint) as reader,
    ):
        await publisher.do("publish", broadcast="room", track="video")
        await publisher.do(
            "append", broadcast="room", track="video", start=0, end=5, frames=FRAMES, size=SIZE
        )
        await reader.do("announced", id="list")
        await reader.expect("announcement", id="list", path="room", active=True)
        await reader.do("subscribe", id="sub", broadcast="room", track="video", start=0)
        assert_groups(await reader.groups("sub", 5), 0, 5, FRAMES, SIZE)
        await reader.do("fetch", id="fetch", broadcast="room", track="video", sequence=2)
        assert_groups(await reader.groups("fetch", 1), 2, 3, FRAMES, SIZE)


async def test_moq_rs_names_what_is_unknown() -> None:
    async with moq_rs_server() as server:
        await server.do("publish", broadcast="room", track="video")
        async with moq_rs_client(server.url, server.fingerprint) as client:
            await client.do("announced", id="list")
            await client.expect("announcement", id="list", path="room")
            await client.do("subscribe", id="track", broadcast="room", track="none", start=0)
            await client.expect("error", id="track", kind="not_found", scope="stream")
            await client.do("subscribe", id="broadcast", broadcast="none", track="video")
            await client.expect("error", id="broadcast", kind="unroutable", scope="stream")
