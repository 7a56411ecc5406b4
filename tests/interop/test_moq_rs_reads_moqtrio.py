"""A moq-rs client of a moqtrio server."""

from __future__ import annotations

import sys
from pathlib import Path

import moqtrio

from .endpoints import append_groups, moqtrio_server
from .payloads import digest
from .processes import Program, assert_groups, moq_rs_client, running

FRAMES, SIZE = 3, 700


async def test_history_from_disk_runs_into_live(tmp_path: Path) -> None:
    # 400 groups, 100 ms apart: by their timestamps, 40 seconds of history.
    origin = moqtrio.Origin()
    async with moqtrio.SqliteStore.open(tmp_path / "store", retention=3600.0) as store:
        track = origin.create_broadcast("events").create_track(
            "all", store=store, cache_age=0.0, cache_bytes=0
        )
        append_groups(track, 0, 400, FRAMES, SIZE)
        await track.wait_durable()
        assert track.statistics().oldest == 399, "memory still has what should come from disk"
        async with (
            moqtrio_server(origin) as listener,
            moq_rs_client(listener.url, listener.fingerprint) as client,
        ):
            await client.do("announced", id="list")
            await client.expect("announcement", id="list", path="events", active=True)
            await client.do("subscribe", id="sub", broadcast="events", track="all", start=0)
            assert_groups(await client.groups("sub", 400), 0, 400, FRAMES, SIZE)
            append_groups(track, 400, 420, FRAMES, SIZE)
            assert_groups(await client.groups("sub", 20), 400, 420, FRAMES, SIZE)
            track.finish()
            await client.expect("end", id="sub")


async def test_large_groups_pass_flow_control(tmp_path: Path) -> None:
    frames, size = 40, 100_000
    origin = moqtrio.Origin()
    async with moqtrio.SqliteStore.open(tmp_path / "store", retention=3600.0) as store:
        track = origin.create_broadcast("events").create_track(
            "all", store=store, cache_age=0.0, cache_bytes=0
        )
        append_groups(track, 0, 4, frames, size)
        await track.wait_durable()
        async with (
            moqtrio_server(origin) as listener,
            moq_rs_client(listener.url, listener.fingerprint) as client,
        ):
            await client.do("announced", id="list")
            await client.expect("announcement", id="list", path="events")
            await client.do("subscribe", id="sub", broadcast="events", track="all", start=0)
            assert_groups(await client.groups("sub", 4), 0, 4, frames, size)


async def test_a_range_of_history_and_nothing_else(tmp_path: Path) -> None:
    origin = moqtrio.Origin()
    async with moqtrio.SqliteStore.open(tmp_path / "store", retention=3600.0) as store:
        track = origin.create_broadcast("events").create_track(
            "all", store=store, cache_age=0.0, cache_bytes=0
        )
        append_groups(track, 0, 20, FRAMES, SIZE)
        track.finish()
        await track.wait_durable()
        async with (
            moqtrio_server(origin) as listener,
            moq_rs_client(listener.url, listener.fingerprint) as client,
        ):
            await client.do("announced", id="list")
            await client.expect("announcement", id="list", path="events")
            await client.do("subscribe", id="sub", broadcast="events", track="all", start=5, end=9)
            assert_groups(await client.groups("sub", 4), 5, 9, FRAMES, SIZE)
            # moq-rs does not end a subscription at the end it asked for: see that nothing
            # follows by what comes after it on the same session.
            await client.do("fetch", id="later", broadcast="events", track="all", sequence=12)
            await client.expect("end", id="later")
            assert not client.unclaimed("group", id="sub")


async def test_holes_are_passed_over() -> None:
    origin = moqtrio.Origin()
    track = origin.create_broadcast("events").create_track("all", cache_age=3600.0)
    append_groups(track, 2, 4, FRAMES, SIZE)
    append_groups(track, 10, 12, FRAMES, SIZE)
    async with (
        moqtrio_server(origin) as listener,
        moq_rs_client(listener.url, listener.fingerprint) as client,
    ):
        await client.do("announced", id="list")
        await client.expect("announcement", id="list", path="events")
        await client.do("subscribe", id="sub", broadcast="events", track="all", start=0)
        groups = await client.groups("sub", 4)
        assert_groups(groups[:2], 2, 4, FRAMES, SIZE)
        assert_groups(groups[2:], 10, 12, FRAMES, SIZE)
        track.finish()
        await client.expect("end", id="sub")


async def test_no_start_is_the_latest_group() -> None:
    origin = moqtrio.Origin()
    track = origin.create_broadcast("events").create_track("all", cache_age=3600.0)
    append_groups(track, 0, 20, FRAMES, SIZE)
    async with (
        moqtrio_server(origin) as listener,
        moq_rs_client(listener.url, listener.fingerprint) as client,
    ):
        await client.do("announced", id="list")
        await client.expect("announcement", id="list", path="events")
        # An age of zero is moq-rs's way to ask for no more than the latest group.
        await client.do("subscribe", id="sub", broadcast="events", track="all", max_age=0.0)
        assert_groups(await client.groups("sub", 1), 19, 20, FRAMES, SIZE)
        append_groups(track, 20, 21, FRAMES, SIZE)
        assert_groups(await client.groups("sub", 1), 20, 21, FRAMES, SIZE)


async def test_fetch(tmp_path: Path) -> None:
    origin = moqtrio.Origin()
    async with moqtrio.SqliteStore.open(tmp_path / "store", retention=3600.0) as store:
        track = origin.create_broadcast("events").create_track(
            "all", store=store, cache_age=0.0, cache_bytes=0
        )
        append_groups(track, 0, 8, FRAMES, SIZE)
        await track.wait_durable()
        async with (
            moqtrio_server(origin) as listener,
            moq_rs_client(listener.url, listener.fingerprint) as client,
        ):
            await client.do("announced", id="list")
            await client.expect("announcement", id="list", path="events")
            for sequence in (3, 7):  # on disk alone, and in memory
                await client.do(
                    "fetch", id="fetch", broadcast="events", track="all", sequence=sequence
                )
                groups = await client.groups("fetch", 1)
                assert_groups(groups, sequence, sequence + 1, FRAMES, SIZE)
                await client.expect("end", id="fetch")
            await client.do("fetch", id="none", broadcast="events", track="all", sequence=99)
            await client.expect("error", id="none", scope="stream", kind="not_found")


async def test_announcements_come_and_go() -> None:
    origin = moqtrio.Origin()
    first = origin.create_broadcast("room/one")
    origin.create_broadcast("elsewhere")
    async with (
        moqtrio_server(origin) as listener,
        moq_rs_client(listener.url, listener.fingerprint) as client,
    ):
        await client.do("announced", id="all")
        paths = {(await client.expect("announcement", id="all"))["path"] for _ in range(2)}
        assert paths == {"room/one", "elsewhere"}
        await client.do("announced", id="room", prefix="room")
        await client.expect("announcement", id="room", active=True)
        second = origin.create_broadcast("room/two")
        await client.expect("announcement", id="all", path="room/two", active=True)
        first.close()
        await client.expect("announcement", id="all", path="room/one", active=False)
        second.close()
        await client.expect("announcement", id="all", path="room/two", active=False)


async def test_unknown_names_are_refused_and_the_session_goes_on() -> None:
    origin = moqtrio.Origin()
    track = origin.create_broadcast("events").create_track("all")
    append_groups(track, 0, 1, FRAMES, SIZE)
    async with (
        moqtrio_server(origin) as listener,
        moq_rs_client(listener.url, listener.fingerprint) as client,
    ):
        await client.do("announced", id="list")
        await client.expect("announcement", id="list", path="events")
        await client.do("subscribe", id="track", broadcast="events", track="none", start=0)
        await client.expect("error", id="track", scope="stream", kind="not_found")
        await client.do("fetch", id="fetch", broadcast="events", track="none", sequence=0)
        await client.expect("error", id="fetch", scope="stream", kind="not_found")
        await client.do("subscribe", id="path", broadcast="none", track="all", start=0)
        await client.expect("error", id="path", scope="stream", kind="unroutable")
        await client.do("subscribe", id="sub", broadcast="events", track="all", start=0)
        assert_groups(await client.groups("sub", 1), 0, 1, FRAMES, SIZE)


async def test_an_aborted_track_ends_with_its_code() -> None:
    origin = moqtrio.Origin()
    track = origin.create_broadcast("events").create_track("all")
    append_groups(track, 0, 1, FRAMES, SIZE)
    async with (
        moqtrio_server(origin) as listener,
        moq_rs_client(listener.url, listener.fingerprint) as client,
    ):
        await client.do("announced", id="list")
        await client.expect("announcement", id="list", path="events")
        await client.do("subscribe", id="sub", broadcast="events", track="all", start=0)
        await client.groups("sub", 1)
        track.abort(64 + 7)
        await client.expect("error", id="sub", scope="stream", code=71)


async def test_the_command_line_serves_a_late_joiner(tmp_path: Path) -> None:
    """`moqtrio serve`, its standard input recorded, forgotten, and read by moq-rs."""
    command = [
        *(sys.executable, "-m", "moqtrio", "serve", "moqt://127.0.0.1:0", "--json"),
        *("--broadcast", "events", "--track", "lines", "--group-frames", "10"),
        *("--store", str(tmp_path / "store"), "--cache-age", "0.1s"),
        *("--tls-generate", "localhost"),
    ]
    texts = [f"line {number}" for number in range(2_000)]
    async with running(Program, command) as server:
        listening = await server.expect("listening")
        await server.send_line("\n".join(texts))
        # Memory forgets when something is written: a little more, until group 0 is gone.
        while (await server.expect("statistics"))["oldest"] in (None, 0):
            more = [f"line {number}" for number in range(len(texts), len(texts) + 10)]
            await server.send_line("\n".join(more))
            texts += more
        async with moq_rs_client(listening["url"], listening["fingerprint"]) as client:
            await client.do("announced", id="list")
            await client.expect("announcement", id="list", path="events", active=True)
            await client.do("subscribe", id="sub", broadcast="events", track="lines", start=0)
            groups = await client.groups("sub", len(texts) // 10)
            texts += ["live"] * 15
            await server.send_line("\n".join(texts[-15:]))
            await server.close_input()
            groups += await client.groups("sub", 2)
            await client.expect("end", id="sub")
        assert await server.interrupt() == 130
    groups.sort(key=lambda group: int(group["sequence"]))
    came = [frame[2] for group in groups for frame in group["frames"]]
    assert came == [digest(text.encode()) for text in texts]
