"""Goes on reading from the store a group that was begun in memory."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ReplayError, StreamCode
from ..model.frame import Frame
from ..model.source import End, GroupReader, Missing, Pending, Ready, ReplaySource


class ReopenedReader:
    """A :class:`~moqtrio.replay.GroupReader` that begins in the middle of a stored group.

    It asks for the group only when it is polled, so that one nobody takes costs nothing.

    Args:
        source: the store.
        sequence: the group.
        taken: how many of its frames have been read already.
        priority: how much it is wanted.
    """

    __slots__ = ("_priority", "_reader", "_skip", "_source", "sequence")

    def __init__(
        self, source: ReplaySource, sequence: int, taken: int, *, priority: int = 0
    ) -> None:
        self.sequence: int = sequence
        self._source = source
        self._skip = taken
        self._priority = priority
        self._reader: GroupReader | None = None

    def poll_frames(self, max_bytes: int) -> Ready[Sequence[Frame]] | Pending | End:
        """The next frames; see :class:`~moqtrio.replay.GroupReader`."""
        if self._reader is None:
            found = self._source.poll_group(self.sequence, priority=self._priority)
            if isinstance(found, Pending):
                return found
            if isinstance(found, Missing):
                raise ReplayError(
                    f"group {self.sequence} was evicted while it waited to be sent",
                    code=StreamCode.EVICTED,
                    retryable=False,
                )
            self._reader = found.value
        while True:
            answer = self._reader.poll_frames(max_bytes)
            if not isinstance(answer, Ready) or not self._skip:
                return answer
            frames = answer.value
            skipped = min(self._skip, len(frames))
            self._skip -= skipped
            if skipped < len(frames):
                return Ready(frames[skipped:])

    def close(self) -> None:
        """Let go of everything held. Idempotent."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None
