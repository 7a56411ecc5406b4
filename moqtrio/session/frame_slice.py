"""Some of a group's frames, where not all of them are wanted (since draft 06)."""

from __future__ import annotations

from collections.abc import Sequence

from ..model import Frame
from ..replay import END, End, Parked, Pending, Ready
from ..replay.resolver import Reader


class FrameSlice:
    """Takes the frames ``[start, end)`` of a group from whatever reads the group.

    Args:
        start: the first frame wanted.
        end: the first frame not wanted any more; None for all that follow.
    """

    __slots__ = ("_at", "_end", "start")

    def __init__(self, start: int, end: int | None) -> None:
        self.start: int = start
        self._end = end
        self._at = 0

    def seek(self, at: int) -> None:
        """The frame that the reader reads next is that one."""
        self._at = at

    def poll(
        self, reader: Reader, max_bytes: int
    ) -> Ready[Sequence[Frame]] | Pending | Parked | End:
        """The next frames; see :class:`~moqtrio.replay.GroupReader`."""
        while self._end is None or self._at < self._end:
            answer = reader.poll_frames(max_bytes)
            if not isinstance(answer, Ready):
                return answer
            first = self._at
            self._at += len(answer.value)
            stop = None if self._end is None else self._end - first
            frames = answer.value[max(self.start - first, 0) : stop]
            if frames:
                return Ready(frames)
        return END
