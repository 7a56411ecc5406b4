"""From the time of day to a sequence, for one track."""

from __future__ import annotations

import trio

from .log import TrackLog
from .source import TimeIndex

_TURN = 256  # groups looked at before others may run
_ROUNDING = 0.001  # seconds; far more than conversions between two clocks lose


class Timeline:
    """Finds where to start reading a track to get all that was published since some time.

    Times are seconds since the Unix epoch: of the store's clock for a recorded track, else
    of the clock that stamps the track's frames. Neither ever runs backwards.
    """

    def __init__(self, log: TrackLog, index: TimeIndex | None) -> None:
        self.index: TimeIndex | None = index
        self._log = log
        self._turn = trio.Lock()

    def now(self) -> float:
        """The time now."""
        return self._log.clock.now_us() / 1e6 if self.index is None else self.index.now()

    async def find(self, when: float) -> int:
        """The sequence to start at; see :meth:`moqtrio.Track.find_time`."""
        async with self._turn:  # however many ask, they cost what one asking does
            # In this order: what leaves memory meanwhile is in the store by then, and what
            # is published meanwhile is not below the edge.
            edge = self._log.edge
            found = [edge]
            in_memory = await self._find_in_memory(trio.current_time() - (self.now() - when))
            if in_memory is not None:
                found.append(in_memory)
            if self.index is not None:
                recorded = await self.index.find_time(when)
                if recorded is not None:
                    found.append(recorded)
            return min(found)

    async def _find_in_memory(self, since: float) -> int | None:
        """The first group in memory that has changed since, or may change yet."""
        log = self._log
        since -= _ROUNDING
        looked_at = 0
        sequence = log.first_from(0)
        while sequence is not None:
            group = log.get(sequence)
            if group is not None and (group.end is None or group.changed_at >= since):
                return sequence
            looked_at += 1
            if looked_at % _TURN == 0:
                await trio.lowlevel.checkpoint()
            sequence = log.first_from(sequence + 1)
        return None
