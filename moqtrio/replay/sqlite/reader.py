"""Reads one recorded group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...errors import ReplayError, StreamCode
from ...model.frame import Frame
from ...model.source import END, End, Pending, Ready
from .chunks import FrameRun
from .extents import PackedAt, Piece
from .records import OPEN

if TYPE_CHECKING:
    from .lookup import SlicedTrack


class SlicedGroupReader:
    """A :class:`~moqtrio.replay.GroupReader`. Between polls it holds on to one chunk at most,
    and to nothing once it has handed out the last frame of it."""

    __slots__ = (
        "_closed",
        "_ending",
        "_head",
        "_position",
        "_run",
        "_run_start",
        "_track",
        "sequence",
    )

    def __init__(self, track: SlicedTrack[Any], sequence: int, found: Piece | PackedAt) -> None:
        self.sequence: int = sequence
        self._track = track
        self._head = found.head
        self._position = 0
        self._run: FrameRun | None = None
        self._run_start = 0
        self._ending = OPEN
        self._closed = False
        track.reading.readers += 1
        if isinstance(found, PackedAt):
            self._ending = found.pack.end(found.index)
            run = found.pack.run(found.index)
            self._run = run if run.count else None

    def poll_frames(self, max_bytes: int) -> Ready[Sequence[Frame]] | Pending | End:
        """The next frames; see :class:`~moqtrio.replay.GroupReader`."""
        if self._run is None:
            answer = self._next_run()
            if answer is not None:
                return answer
        frames = self._take(max_bytes)
        size = sum([len(frame.payload) for frame in frames])
        # Small runs, of a group that grew slowly, are handed out together.
        while size < max_bytes and self._ending == OPEN and self._has_more():
            more = self._take(max_bytes - size)
            size += sum([len(frame.payload) for frame in more])
            frames += more
        return Ready(frames)

    def skip(self, frames: int) -> None:
        """Go on after so many frames; only before the first poll."""
        self._position = frames
        if self._run is not None and frames >= self._run.count:
            self._run = None

    def close(self) -> None:
        """Let go of the chunk. Idempotent."""
        if not self._closed:
            self._closed = True
            self._track.reading.readers -= 1
            self._run = None

    def _take(self, max_bytes: int) -> list[Frame]:
        run = self._run
        assert run is not None
        frames = run.take(self._position - self._run_start, max_bytes)
        self._position += len(frames)
        if self._position >= self._run_start + run.count:
            self._run = None
        return frames

    def _has_more(self) -> bool:
        """Whether there are further frames at hand."""
        if self._run is not None:
            return True
        try:
            return self._next_run() is None
        except ReplayError:
            return False  # The next poll meets it again, and raises it then.

    def _next_run(self) -> Pending | End | None:
        """Go on to the run with the next frame; or say why that is not possible."""
        if self._ending == OPEN:
            self._track.check_readable(self.sequence, self._head)
            found = self._track.find_frames(self.sequence, self._position)
            if isinstance(found, Pending):
                return found
            if not isinstance(found, int):
                self._run, self._run_start = found
                return None
            self._ending = found
        if self._ending == 0:
            return END
        code = self._ending - 1
        raise ReplayError(f"group {self.sequence} was aborted", code=code, retryable=False)


def evicted(sequence: int) -> ReplayError:
    """The error for who reads a group that retention has just removed."""
    return ReplayError(
        f"group {sequence} was evicted from the store while it was read",
        code=StreamCode.EVICTED,
        retryable=False,
    )
