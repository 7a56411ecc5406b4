"""Groups held back behind one that is not taken are pinned no longer than that one."""

from __future__ import annotations

import gc

import pytest
import trio
from session_pairs import groups, publish, see, session_pair
from trio.testing import MockClock, wait_all_tasks_blocked

from moqtrio.model import Group, Origin, Track
from moqtrio.replay import Recorder
from moqtrio.replay.memory import MemoryTrack
from moqtrio.transport.settings import TransportSettings

# So little that a group's first piece, behind another group, is as far ahead as may be.
SMALL = TransportSettings(stream_window=32 * 1024, connection_window=128 * 1024)


def living_groups() -> set[int]:
    gc.collect()
    return {each.sequence for each in gc.get_objects() if isinstance(each, Group)}


@pytest.mark.parametrize("cache_age", [0.0, 20.0])
async def test_a_group_held_back_is_kept_for_a_while_only(
    autojump_clock: MockClock, cache_age: float
) -> None:
    """Also where it leaves the log when it should have been let go of long ago, and nothing
    is published any more that could wake anybody."""
    origin = Origin()
    target = MemoryTrack()
    async with trio.open_nursery() as nursery:

        class Store:
            def attach(self, track: Track) -> MemoryTrack:
                nursery.start_soon(Recorder(track.log, target).run)
                return target

        track = origin.create_broadcast("b").create_track("t", store=Store(), cache_age=cache_age)
        async with (
            session_pair(origin, transport=SMALL) as pair,
            pair.client.subscribe("b", "t", start=0) as subscription,
        ):
            await wait_all_tasks_blocked()
            for _ in range(3):
                publish(track, frames=6, size=100_000)
                await trio.sleep(0.1)
            publish(track)
            await track.wait_durable()
            assert {0, 1} <= living_groups(), "they are being sent"
            await trio.sleep(10 + cache_age)
            assert living_groups() == {3}, "the latest never leaves"
            seen = [await see(subscription) for _ in range(4)]
            assert seen == [*groups(0, 1, 2, frames=6, size=100_000), *groups(3)]
        nursery.cancel_scope.cancel()
