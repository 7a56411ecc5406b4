"""What the parts of the store tell each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from ...model.frame import Frame

OPEN = -1
"""The ending of a group that has none. 0: finished; above: 1 + the code it was aborted with."""


FileIdentity = tuple[int, int]
"""The numbers of a file's device and inode."""


@attrs.define(slots=True)
class Totals:
    """Frames counted: how many, their payload bytes, and the span of their timestamps.

    ``first_us`` and ``last_us`` are the smallest and the largest, None without frames.
    """

    frames: int = 0
    bytes: int = 0
    first_us: int | None = None
    last_us: int | None = None

    def count(self, frames: Sequence[Frame]) -> None:
        """Take in ``frames``."""
        if not frames:
            return
        times = [frame.timestamp_us for frame in frames]
        size = sum([len(frame.payload) for frame in frames])
        self.add(Totals(len(frames), size, min(times), max(times)))

    def add(self, other: Totals) -> None:
        """Take in what ``other`` has counted."""
        self.frames += other.frames
        self.bytes += other.bytes
        if other.first_us is not None and other.last_us is not None:
            if self.first_us is None or other.first_us < self.first_us:
                self.first_us = other.first_us
            if self.last_us is None or other.last_us > self.last_us:
                self.last_us = other.last_us


@attrs.define(slots=True)
class Content:
    """What one slice holds of one track.

    Attributes:
        first, last: the smallest and the largest sequence among the groups that begin in
            the slice; None where none does.
        groups: how many begin in it.
        totals: everything recorded in it, of groups that begin in it or go on in it.
    """

    first: int | None = None
    last: int | None = None
    groups: int = 0
    totals: Totals = attrs.Factory(Totals)

    def add(self, other: Content) -> None:
        """Take in what ``other`` holds."""
        if other.first is not None and other.last is not None:
            self.first = other.first if self.first is None else min(self.first, other.first)
            self.last = other.last if self.last is None else max(self.last, other.last)
        self.groups += other.groups
        self.totals.add(other.totals)

    def covers(self, sequence: int) -> bool:
        """Whether ``sequence`` may begin here."""
        return (
            self.first is not None
            and self.last is not None
            and (self.first <= sequence <= self.last)
        )

    def add_heads(self, first: int, last: int, groups: int) -> None:
        """Count groups that begin here."""
        self.add(Content(first, last, groups))


@attrs.frozen
class Part:
    """What one slice holds of one group that has rows of its own.

    Attributes:
        slice: the slice's number.
        first_frame: the index within the group of the first frame in this slice; 0 where
            the group begins here.
        totals: of the frames in this slice.
        ending: :data:`OPEN`, or how the group ended.
    """

    slice: int
    first_frame: int
    totals: Totals
    ending: int

    @property
    def end_frame(self) -> int:
        """One more than the index of the last frame in this slice."""
        return self.first_frame + self.totals.frames


@attrs.frozen
class OpenGroup:
    """A group that is being recorded.

    Attributes:
        head: the number of the slice it begins in.
        part: what the slice it was last written to holds of it.
    """

    head: int
    part: Part

    @property
    def frames(self) -> int:
        """How many of its frames are durable."""
        return self.part.end_frame


@attrs.frozen
class SliceFile:
    """Where a slice is.

    Attributes:
        immutable: whether the file will never change again.
        contents: what is in it, by track; None while it is being written.
        identity: which file it is that has been written there; None if any will do.
    """

    number: int
    path: Path
    immutable: bool
    contents: Mapping[int, Content] | None = attrs.field(default=None, eq=False)
    identity: FileIdentity | None = None
