"""What of a track is still to be recorded, and what never will be."""

from __future__ import annotations

from typing import Literal

import attrs

from ..errors import StreamCode
from .group import Group
from .ranges import RangeSet

RecordingMode = Literal["live", "durable"]
"""When subscribers see what is published: at once, or only after it is durable."""

_LOST_RANGES = 1024


@attrs.frozen
class RecordingStatistics:
    """A snapshot of a track's recorder. Counters count from when it was attached.

    Attributes:
        frames, bytes: what was made durable; bytes of payload.
        commits: the transactions it took.
        behind_groups, behind_bytes: the groups that are not wholly durable, and their payload
            (all of it, recorded in part or not).
        lag: seconds since the oldest frame was written that is not durable; 0 where there is
            none.
        lost: groups that will not be recorded, or not as a whole.
        failures: attempts to record that failed, and groups the store refused for good.
        failing: whether the last attempt failed, so that it is being tried again.
        last_error: what the last failure was, if there was any.
        trouble: failures and lost groups together, those included that turned out to be
            durable after all: never less than before. See :meth:`moqtrio.Track.wait_trouble`.
    """

    frames: int
    bytes: int
    commits: int
    behind_groups: int
    behind_bytes: int
    lag: float
    lost: int
    failures: int
    failing: bool
    last_error: str | None
    trouble: int


class Backlog:
    """The groups of a recorded track that are not durable, and those that are lost.

    Attributes:
        groups: those still to be recorded, by sequence, in the order they were created.
        bytes: the payload bytes in those of them that are not lost.
        lost_count: how many were lost.
        losses: how many were ever said to be lost, those included that were found again.
    """

    def __init__(self) -> None:
        self.groups: dict[int, Group] = {}
        self.bytes: int = 0
        self.lost_count: int = 0
        self.losses: int = 0
        # Of the lost groups the store does not know yet: which, as far as there is room.
        self._lost = RangeSet(limit=_LOST_RANGES)
        self._lost_among: tuple[int, int] | None = None  # the rest is somewhere in here

    def add(self, group: Group) -> None:
        """``group`` is to be recorded. A no-op where that is known."""
        if group.sequence not in self.groups:
            self.groups[group.sequence] = group
            if not group.lost:
                self.bytes += group.size

    def remove(self, group: Group) -> None:
        """Nothing more of ``group`` is to be recorded."""
        if self.groups.pop(group.sequence, None) is not None and not group.lost:
            self.bytes -= group.size

    def lose(self, group: Group) -> None:
        """``group`` will not be recorded.

        If a part of it has been, it stays in ``groups``: the recorder still has to write
        that this part is not the whole.
        """
        self.remove(group)
        group.lost = True
        self.lost_count += 1
        self.losses += 1
        if group.recorded:
            self.add(group)
        forgotten = self._lost.add(group.sequence, group.sequence + 1)
        if forgotten is not None:
            start, end = forgotten
            if self._lost_among is not None:
                start, end = min(start, self._lost_among[0]), max(end, self._lost_among[1])
            self._lost_among = start, end

    def find(self, group: Group) -> None:
        """What was lost turns out to be durable."""
        group.lost = False
        self.lost_count -= 1
        self._lost.discard(group.sequence)

    def lost_until(self, sequence: int) -> int | None:
        """Where the run of lost groups around ``sequence`` ends; None where it is not known
        to be lost."""
        return self._lost.end_of(sequence)

    def absence(self, start: int, end: int) -> tuple[int, int]:
        """How to report sequences from ``start`` on that neither memory nor store has, up to
        ``end`` at most: the end of those to which one code applies, and the code."""
        lost_until = self.lost_until(start)
        if lost_until is not None:
            return min(end, lost_until), StreamCode.EVICTED
        following = self._lost.next_start(start)
        if following is not None:
            end = min(end, following)
        if self._lost_among is not None:
            first, last = self._lost_among
            if first <= start < last:  # It may be one of these: it must not look unpublished.
                return min(end, last), StreamCode.EVICTED
            if start < first:
                end = min(end, first)
        return end, 0

    def lost_ranges(self) -> list[tuple[int, int]]:
        """The lost groups the store is to be told of; perhaps with others in between."""
        ranges = self._lost.ranges()
        return ranges if self._lost_among is None else [self._lost_among, *ranges]

    def forget_lost(self, ranges: list[tuple[int, int]]) -> None:
        """The store knows of these now (as :meth:`lost_ranges` returned them)."""
        for start, end in ranges:
            if (start, end) == self._lost_among:
                self._lost_among = None
            else:
                self._lost.discard_range(start, end)
