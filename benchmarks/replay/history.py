"""What a store is filled with before anybody asks for it."""

from __future__ import annotations

import time
from functools import cached_property

import attrs
import trio
from trio.testing import MockClock

import moqtrio

from ..firehose import FRAMES_PER_GROUP, Firehose

BROADCAST, TRACK = "bench", "track"
GROUP_BYTES = 4800 * FRAMES_PER_GROUP
HOURS_72 = 72 * 3600.0
_AHEAD_OF_STORE = 16 * 2**20


@attrs.frozen(slots=False)
class History:
    """Groups of the firehose, after ``small`` groups of one small frame each.

    Attributes:
        small: how many small groups come first, spread over 72 hours.
        slices: how many files those are in; a store makes 2160 of such a time by itself.
        groups: how many groups of 64 messages follow.
    """

    small: int = 0
    groups: int = 0
    slices: int = 2160

    @cached_property
    def _firehose(self) -> Firehose:
        return Firehose()

    @property
    def end(self) -> int:
        """One more than the last group's sequence."""
        return self.small + self.groups

    def frames(self, sequence: int) -> list[bytes]:
        """What is in a group. The live ones after :attr:`end` go on with the firehose."""
        if sequence < self.small:
            return [b"group %043d" % sequence]
        return self._firehose.group(sequence - self.small)

    def check(self, sequence: int, frames: list[moqtrio.Frame]) -> None:
        """Raise AssertionError where a group is not what was recorded."""
        if [frame.payload for frame in frames] != self.frames(sequence):
            raise AssertionError(f"group {sequence} is not what was recorded")


def record(directory: str, history: History) -> None:
    """Fill a new store. Its clock begins 72 hours ago, and ends now."""
    # Time passes as it does, and jumps from slice to slice of the small groups.
    trio.run(_record, directory, history, clock=MockClock(rate=1.0))


async def _record(directory: str, history: History) -> None:
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, MockClock)
    slice_seconds = HOURS_72 / history.slices
    per_slice = max(history.small // history.slices, 1)
    began = time.time() - HOURS_72
    async with moqtrio.SqliteStore.open(
        directory, slice_seconds=slice_seconds, wall_clock=lambda: began
    ) as store:
        broadcast = moqtrio.Origin().create_broadcast(BROADCAST)
        track = broadcast.create_track(TRACK, store=store, cache_age=0.0, cache_bytes=0)
        for sequence in range(history.end):
            with track.append_group() as group:
                for payload in history.frames(sequence):
                    group.write_frame(payload)
            if sequence < history.small and (sequence + 1) % per_slice == 0:
                await track.wait_durable()
                clock.jump(slice_seconds)
            await track.wait_durable(_AHEAD_OF_STORE)
        track.finish()
        await track.wait_durable()
