"""A group an application writes because somebody asked for it, and those who read it meanwhile.

The group is kept whole while it is small, so that whoever asks for it soon after shares it.
What is larger than the buffer flows through: what every reader has taken is let go, and the
writer waits for the slowest of them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import attrs
import trio

from ...errors import ReplayError, StreamCode
from ..frame import TIMESTAMP_END, Frame
from ..log import TrackLog
from ..source import END, End, Missing, Pending, Ready
from .budget import PATIENCE, Budget
from .demand import Demand

logger: logging.Logger = logging.getLogger("moqtrio.requests")

FRAME_OVERHEAD: Final = 128
"""What a frame takes in memory besides its payload, roughly."""


@attrs.frozen
class Whole:
    """How a group ended that was written to its end."""


class GroupBuffer:
    """What was written of one group and is still to be read.

    Args:
        log: its track's, for the clock and the largest frame.
        sequence: the group's.
        max_bytes: memory to take before the writer has to wait. One frame may exceed it.
        budget: what it shares with others. The frames count as long as it is written, or
            anybody reads it.
        on_change: called when it has ended, and when its beginning is let go.

    Attributes:
        demand: those who read it.
        end: how it ended, or None while it is written.
        size: the memory its frames take, in bytes.
    """

    def __init__(
        self,
        log: TrackLog,
        sequence: int,
        *,
        max_bytes: int,
        budget: Budget,
        on_change: Callable[[GroupBuffer], None],
    ) -> None:
        self.sequence: int = sequence
        self.demand: Demand = Demand()
        self.end: Whole | ReplayError | None = None
        self.size: int = 0
        self._log = log
        self._max_bytes = max_bytes
        self._budget = budget
        self._on_change = on_change
        self._frames: list[Frame] = []
        self._base = 0  # the index in the group of the first frame that is kept
        self._positions: dict[object, int] = {}  # by reader: the index of its next frame
        self._patience = PATIENCE
        self._taken_at = trio.current_time()
        self._grown: trio.Event | None = None

    # Writing

    def write(self, payload: bytes, timestamp_us: int | None) -> None:
        """Append a frame.

        Raises WouldBlock where there is no room for it, BrokenResourceError where nobody
        wants it, ValueError where it cannot be sent.
        """
        self._check_wanted()
        if self._is_full():
            raise trio.WouldBlock
        largest = self._log.limits.max_frame_bytes
        if len(payload) > largest:
            raise ValueError(
                f"a frame of {len(payload)} bytes is larger than this track allows "
                f"(max_frame_bytes={largest})"
            )
        if timestamp_us is None:
            timestamp_us = self._log.clock.now_us()
        elif not 0 <= timestamp_us < TIMESTAMP_END:
            raise ValueError(f"expected a timestamp in [0, 2**61) microseconds, got {timestamp_us}")
        self._frames.append(Frame(payload, timestamp_us))
        self.size += len(payload) + FRAME_OVERHEAD
        self._budget.bytes += len(payload) + FRAME_OVERHEAD
        self._wake_readers()

    async def wait_room(self) -> None:
        """Wait until there is room for a frame. Raises BrokenResourceError as :meth:`write`."""
        await trio.lowlevel.checkpoint()
        self._check_wanted()
        while self._is_full():
            started = trio.current_time()
            positions = self._positions.values()
            is_held_up = bool(positions) and (
                self._end_frame in positions or self._budget.is_used_up()
            )
            deadline = started + self._patience if is_held_up else math.inf
            await self.demand.wait_changed(deadline)
            self._check_wanted()
            if trio.current_time() >= deadline:
                self._leave_behind()
            elif is_held_up:
                self._patience -= trio.current_time() - started

    def finish(self) -> None:
        """There is no more to it. Without effect once it has ended."""
        self._end(Whole())

    def fail(self, error: ReplayError) -> None:
        """What was written is not all of it, and no more will come. Without effect once it
        has ended."""
        self._end(error)

    def is_given_up(self) -> bool:
        """Whether nobody wants the rest of it; the writer is told so from then on."""
        if self.end is None and self.demand.is_over:
            self.fail(ReplayError(f"group {self.sequence} was given up while nobody read it"))
        return isinstance(self.end, ReplayError)

    def _end(self, end: Whole | ReplayError) -> None:
        if self.end is None:
            self.end = end
            if self._positions:
                self._budget.ended(self)
            else:
                self._budget.bytes -= self.size
            self._wake_readers()
            self.demand.notify()
            self._on_change(self)

    def _check_wanted(self) -> None:
        if self.is_given_up() or self.end is not None:
            raise trio.BrokenResourceError(f"nobody wants group {self.sequence} any more")

    def _is_full(self) -> bool:
        if self._exceeds():
            self._let_go()
        return self._exceeds()

    def _exceeds(self) -> bool:
        if self.size >= self._max_bytes:
            return True
        return self.size > 0 and self._budget.is_used_up()

    def _let_go(self) -> None:
        """Forget the frames that every reader has taken."""
        base = min(self._positions.values(), default=self._base)
        taken = base - self._base
        if taken:
            freed = sum([len(f.payload) + FRAME_OVERHEAD for f in self._frames[:taken]])
            self.size -= freed
            self._budget.bytes -= freed
            del self._frames[:taken]
            self._base = base
            self._on_change(self)

    def _leave_behind(self) -> None:
        """Go on without those who have not taken what others wait to get beyond."""
        self._patience = 0.0
        for reader, position in tuple(self._positions.items()):
            if position == self._base:
                logger.info("group %d goes on without a reader that is slow", self.sequence)
                self.remove(reader)
        self._wake_readers()

    # Reading

    @property
    def idle(self) -> float:
        """Seconds for which nobody has taken anything."""
        return trio.current_time() - self._taken_at

    def drop_readers(self) -> None:
        """Those who read it have to ask for it again."""
        for reader in tuple(self._positions):
            self.remove(reader)

    @property
    def _end_frame(self) -> int:
        return self._base + len(self._frames)

    def includes(self, reader: object) -> bool:
        """Whether a reader was neither removed nor left behind."""
        return reader in self._positions

    def add(self, reader: object) -> None:
        """One more reader, from the first frame on. Nothing must have been let go."""
        if self.end is not None and not self._positions:
            self._budget.bytes += self.size
            self._budget.ended(self)
        self._positions[reader] = 0
        self.demand.join()

    def remove(self, reader: object) -> None:
        """A reader has gone. Idempotent."""
        if self._positions.pop(reader, None) is not None:
            if self.end is not None and not self._positions:
                self._budget.bytes -= self.size
                self._budget.left(self)
            self.demand.leave()

    def take(self, reader: object, max_bytes: int) -> Sequence[Frame]:
        """The next frames for a reader, at least one if there is one for it."""
        position = self._positions.get(reader, self._end_frame)
        start = stop = position - self._base
        size = 0
        while stop < len(self._frames):
            size += len(self._frames[stop].payload)
            if size > max_bytes and stop > start:
                break
            stop += 1
        if stop > start:
            self._positions[reader] = self._base + stop
            self._taken_at = trio.current_time()
            self.demand.notify()
        return self._frames[start:stop]

    async def wait_for(self, reader: object) -> None:
        """Wait until there is news for a reader that has taken everything."""
        if self.end is not None or self._positions.get(reader) != self._end_frame:
            await trio.lowlevel.checkpoint()
            return
        if self._grown is None:
            self._grown = trio.Event()
        await self._grown.wait()

    def _wake_readers(self) -> None:
        if self._grown is not None:
            self._grown.set()
            self._grown = None


class BufferReader:
    """A :class:`~moqtrio.replay.GroupReader` of a group that an application writes.

    Where the writer fails in a way that is worth another try, or goes on without it, it
    asks for the group once more, and goes on after what it has handed out.

    Args:
        buffer: where the group is.
        ask: asks for the group once more.
    """

    __slots__ = ("_ask", "_buffer", "_skip", "_taken", "sequence")

    def __init__(
        self, buffer: GroupBuffer, ask: Callable[[], GroupBuffer | Pending | Missing]
    ) -> None:
        self.sequence: int = buffer.sequence
        self._ask = ask
        self._taken = 0  # frames handed out
        self._skip = 0  # frames of this buffer that were handed out from another one
        self._buffer: GroupBuffer | None = buffer
        buffer.add(self)

    def poll_frames(self, max_bytes: int) -> Ready[Sequence[Frame]] | Pending | End:
        """The next frames; see :class:`~moqtrio.replay.GroupReader`."""
        buffer = self._buffer
        if buffer is None:
            found = self._ask()
            if isinstance(found, Pending):
                return found
            if isinstance(found, Missing):
                raise self._cut_short("is not there any more", StreamCode.EVICTED)
            buffer = self._buffer = found
            buffer.add(self)
            self._skip = self._taken
        while frames := buffer.take(self, max_bytes):
            fresh = frames[self._skip :]
            self._skip -= len(frames) - len(fresh)
            if fresh:
                self._taken += len(fresh)
                return Ready(fresh)
        if not buffer.includes(self):  # it was too slow for the others
            self._buffer = None
            return self.poll_frames(max_bytes)
        if buffer.end is None:
            return Pending(partial(buffer.wait_for, self))
        if isinstance(buffer.end, ReplayError):
            if buffer.end.retryable:
                self.close()
            raise buffer.end.again()
        if self._skip:
            raise self._cut_short("has become shorter", StreamCode.INTERNAL)
        return END

    def close(self) -> None:
        """Leave the group to the others. Idempotent."""
        if self._buffer is not None:
            self._buffer.remove(self)
            self._buffer = None

    def _cut_short(self, how: str, code: int) -> ReplayError:
        return ReplayError(
            f"group {self.sequence} {how}, after {self._taken} of its frames were sent",
            code=code,
            retryable=False,
        )
