"""Many late joiners at once share what is read, and none of them delays live."""

from __future__ import annotations

from pathlib import Path

import trio
from e2e_tools import (
    BROADCAST,
    TRACK,
    Follower,
    Shape,
    publish_group,
    publish_history,
    serving,
    until,
)

import moqtrio
from moqtrio import SqliteStore

JOINERS = 20
GROUPS = 200
LIVE = 40
SHAPE = Shape(5, 2000)


async def test_twenty_joiners(tmp_path: Path) -> None:
    origin = moqtrio.Origin()
    async with SqliteStore.open(tmp_path / "store") as store, serving(origin) as server:
        track = origin.create_broadcast(BROADCAST).create_track(TRACK, store=store, cache_age=0.0)
        await publish_history(track, SHAPE, GROUPS)
        alone = Follower()
        await alone.connect_and_follow(server, end=GROUPS)
        alone.check_whole(SHAPE, 0, GROUPS)
        assert store.statistics().loads > 0

    # Once more, with nothing in the cache.
    origin = moqtrio.Origin()
    async with SqliteStore.open(tmp_path / "store") as store, serving(origin) as server:
        track = origin.create_broadcast(BROADCAST).create_track(TRACK, store=store, cache_age=0.0)
        assert track.log.next_sequence == GROUPS
        live = Follower()
        followers = [Follower() for _ in range(JOINERS)]
        with trio.fail_after(40):
            async with trio.open_nursery() as nursery:
                publish_group(track, SHAPE)
                nursery.start_soon(follow_live, live, server)
                await until(lambda: live.complete)
                for follower in followers:
                    nursery.start_soon(follower.connect_and_follow, server)
                behind = 0
                for _ in range(LIVE):
                    sequence = publish_group(track, SHAPE)
                    await until(lambda last=sequence: last in live.complete)
                    behind += any(len(follower.complete) < sequence for follower in followers)
                track.finish()
        assert behind, "live went on while history was replayed"
        end = GROUPS + 1 + LIVE
        live.check_whole(SHAPE, GROUPS, end)
        for follower in followers:
            follower.check_whole(SHAPE, 0, end)
            assert follower.ended
        statistics = store.statistics()
        size = GROUPS * SHAPE.frames * SHAPE.size
        assert statistics.loaded_bytes < 3 * size, "shared, not once for each"
        assert statistics.loads < GROUPS
        await until(lambda: store.statistics().readers == 0)
        await until(lambda: len(track.log.watchers) == 0)


async def follow_live(live: Follower, server: object) -> None:
    await live.connect_and_follow(server, start=None)  # type: ignore[arg-type] # e2e_tools.Server
