"""A late subscriber gets history from objects, from the disk and from memory, and then live."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from e2e_tools import BROADCAST, TRACK, Follower, Shape, publish_group, serving, until
from object_tools import Endpoint, cold_slices, drop_hot, tiered

import moqtrio
from moqtrio import Track

SHAPE = Shape(6, 3000)


async def publish(track: Track, count: int) -> None:
    """Publish groups, and wait until they are on the disk."""
    for _ in range(0, count, 10):
        for _ in range(10):
            publish_group(track, SHAPE)
        await track.wait_durable()


@pytest.mark.parametrize("restart", [False, True], ids=["in one run", "over a restart"])
async def test_objects_then_disk_then_memory_then_live(
    tmp_path: Path, endpoint: Endpoint, restart: bool
) -> None:
    cold = endpoint.store()
    hot = tmp_path / "hot"
    if restart:
        origin = moqtrio.Origin()
        async with tiered(hot, cold) as store:
            track = origin.create_broadcast(BROADCAST).create_track(TRACK, store=store)
            await publish(track, 100)
    origin = moqtrio.Origin()
    async with tiered(hot, cold) as store, serving(origin) as server:
        track = origin.create_broadcast(BROADCAST).create_track(TRACK, store=store, cache_age=0.0)
        await publish(track, 0 if restart else 100)
        await store.archive()
        await drop_hot(store)
        store._hot.shelf._limits = _limits_for_good(store)
        assert store.statistics().hot.slices == 0
        assert cold_slices(store) > 5
        await publish(track, 50)
        track.log.evict()
        assert track.statistics().groups == 1
        follower = Follower()
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(follower.connect_and_follow, server)
                for _ in range(50):
                    publish_group(track, SHAPE)
                    await trio.sleep(0.002)
                track.finish()
        follower.check_whole(SHAPE, 0, 200)
        assert store.statistics().cold.loads > 0
        assert store.statistics().hot.loads > 0
        assert store.statistics().cold.readers == store.statistics().hot.readers == 0


async def test_another_process_serves_the_history(tmp_path: Path, endpoint: Endpoint) -> None:
    cold = endpoint.store()
    origin = moqtrio.Origin()
    async with tiered(tmp_path / "hot", cold) as store:
        track = origin.create_broadcast(BROADCAST).create_track(TRACK, store=store)
        await publish(track, 60)
        await store.archive()
        elsewhere = moqtrio.Origin()
        async with moqtrio.ObjectStore.open(cold) as objects, serving(elsewhere) as server:
            copy = elsewhere.create_broadcast(BROADCAST).create_track(TRACK, store=objects)
            publish_group(copy, SHAPE)
            copy.finish()
            follower = Follower()
            with trio.fail_after(20):
                await follower.connect_and_follow(server)
            follower.check_whole(SHAPE, 0, 61)


def _limits_for_good(store: Any) -> Any:
    """What is on the disk stays there again."""
    import attrs

    return attrs.evolve(store._hot.shelf._limits, retention=3600.0)


async def test_live_does_not_feel_a_silent_endpoint(tmp_path: Path, endpoint: Endpoint) -> None:
    """While some wait for objects that do not come, others follow the edge undisturbed; and
    in the end those, too, get everything or are told what they do not get."""
    async with tiered(tmp_path / "hot", endpoint.store(seconds=1)) as store:
        origin = moqtrio.Origin()
        async with serving(origin) as server:
            track = origin.create_broadcast(BROADCAST).create_track(
                TRACK, store=store, cache_age=0.0
            )
            await publish(track, 100)
            await store.archive()
            await drop_hot(store)
            endpoint.set_mode("silent")
            late = [Follower() for _ in range(4)]
            live = Follower()
            delays: list[float] = []
            with trio.fail_after(60):
                async with trio.open_nursery() as nursery:
                    for follower in late:
                        nursery.start_soon(follower.connect_and_follow, server)
                    nursery.start_soon(
                        lambda: live.connect_and_follow(server, start=track.log.next_sequence - 1)
                    )
                    await until(lambda: live.groups)
                    await until(lambda: store.statistics().cold.loads_in_flight)
                    for _ in range(60):
                        sequence = publish_group(track, SHAPE)
                        began = trio.current_time()
                        await until(lambda sequence=sequence: sequence in live.complete)
                        delays.append(trio.current_time() - began)
                    assert max(delays) < 0.5, "the endpoint has a second for each request"
                    endpoint.set_mode("open")
                    track.finish()
            live.check_whole(SHAPE, 99, 160)
            for follower in late:
                assert follower.error is None
                assert follower.ended
                assert follower.accounted() == list(range(160))
                assert all(gap.code for gap in follower.gaps), "nothing there is said to be absent"
                assert not follower.reset
                follower.check_frames(SHAPE)
