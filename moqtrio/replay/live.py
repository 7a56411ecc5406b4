"""Reads a group that is in memory, in the same pieces as one that is stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..errors import ReplayError, StreamCode
from ..model.frame import Frame
from ..model.group import FINISHED, Aborted, Group
from ..model.source import END, End, Ready


class Parked:
    """Nothing to do until the track's log changes (see :data:`PARKED`)."""

    def __repr__(self) -> str:
        return "PARKED"


PARKED: Final = Parked()


class LiveReader:
    """A :class:`~moqtrio.replay.GroupReader` over a group in the log.

    Holding it pins the group: what was in memory when the reader was made stays readable.
    Where there is nothing yet it answers :data:`PARKED`, because whoever follows a live
    group watches the log anyway, and must not pay for a task to wait.
    """

    __slots__ = ("_group", "_index")

    def __init__(self, group: Group) -> None:
        self._group = group
        self._index = 0

    @property
    def sequence(self) -> int:
        """The group's sequence."""
        return self._group.sequence

    @property
    def only_frame(self) -> Frame | None:
        """The frame of a complete group that has but one, where all of it may be seen."""
        group = self._group
        if group.held_back or group.end is not FINISHED or len(group.frames) != 1:
            return None
        return group.frames[0]

    def poll_frames(self, max_bytes: int) -> Ready[Sequence[Frame]] | Parked | End:
        """The next frames; see :meth:`moqtrio.replay.GroupReader.poll_frames`."""
        group = self._group
        start = self._index
        count = group.recorded if group.held_back else len(group.frames)
        if start < count:
            stop = count if group.size <= max_bytes else self._stop(count, max_bytes)
            self._index = stop
            return Ready(group.frames[start:stop])
        if group.held_back and not group.durable:
            return self._not_durable()
        if group.end is None:
            return PARKED
        if isinstance(group.end, Aborted):
            raise ReplayError(
                f"group {group.sequence} was aborted", code=group.end.code, retryable=False
            )
        return END

    def _not_durable(self) -> Parked:
        if self._group.lost:
            raise ReplayError(
                f"group {self.sequence} was lost before it was recorded",
                code=StreamCode.EVICTED,
                retryable=False,
            )
        return PARKED

    def _stop(self, count: int, max_bytes: int) -> int:
        frames = self._group.frames
        stop = self._index
        size = 0
        while stop < count and size < max_bytes:
            size += len(frames[stop].payload)
            stop += 1
        return stop

    def close(self) -> None:
        """Nothing to let go of but the reference."""
