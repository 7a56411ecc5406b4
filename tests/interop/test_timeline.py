"""A track's timeline is asked with the FETCH that every implementation has."""

from __future__ import annotations

import json
from pathlib import Path

import moqtrio

from .endpoints import append_groups, moqtrio_server, session_with
from .payloads import digest
from .processes import Message, moq_rs_client, moq_rs_server

FRAMES, SIZE = 3, 700
DAY = 86400.0


def assert_answer(group: Message, sequence: int) -> None:
    """The group is the one frame that names this sequence, and the time it was made at."""
    ((timestamp_us, size, found),) = group["frames"]
    payload = json.dumps({"sequence": sequence, "now": timestamp_us / 1e6}).encode()
    assert (size, found) == (len(payload), digest(payload))


async def test_moq_rs_asks_a_timeline(tmp_path: Path) -> None:
    origin = moqtrio.Origin()
    async with moqtrio.SqliteStore.open(tmp_path / "store") as store:
        track = origin.create_broadcast("events").create_track(
            "all", store=store, cache_age=0.0, cache_bytes=0
        )
        append_groups(track, 0, 8, FRAMES, SIZE)
        await track.wait_durable()
        assert track.timeline is not None
        now = int(track.timeline.now())
        async with (
            moqtrio_server(origin) as listener,
            moq_rs_client(listener.url, listener.fingerprint) as client,
        ):
            await client.do("announced", id="list")
            await client.expect("announcement", id="list", path="events")
            timeline = {"broadcast": "events", "track": "all.timeline"}
            for second, sequence in ((now - int(DAY), 0), (now + int(DAY), 8)):
                await client.do("fetch", id="fetch", **timeline, sequence=second)
                (group,) = await client.groups("fetch", 1)
                assert group["sequence"] == second
                assert_answer(group, sequence)
                await client.expect("end", id="fetch")
            await client.do("subscribe", id="sub", **timeline)
            await client.expect("error", id="sub", scope="stream", kind="not_found")


async def test_a_relay_that_knows_nothing_of_it_passes_it_on() -> None:
    origin = moqtrio.Origin()
    track = origin.create_broadcast("events").create_track("all", cache_age=DAY)
    append_groups(track, 0, 8, FRAMES, SIZE)
    async with (
        moq_rs_server() as relay,
        session_with(relay, publish=origin),
        session_with(relay) as reader,
        reader.announced() as announcements,
    ):
        assert (await announcements.receive()).path == "events"
        assert track.timeline is not None
        now = track.timeline.now()
        assert await reader.find_time("events", "all", now - DAY) == 0
        assert await reader.find_time("events", "all", now + DAY) == 8
        async with reader.subscribe("events", "all", start_time=now - DAY) as subscription:
            item = await subscription.receive()
            assert item.sequence == 0  # type: ignore[union-attr]  # a group
