"""The clock that stamps frames.

Timestamps are wall-clock microseconds, because people and other programs ask for history
by the time of day, but they must never run backwards when the system's clock is set. So
the wall clock is read once and Trio's monotonic (and, in tests, virtual) clock moves it on.
"""

from __future__ import annotations

import time

import trio


class MediaClock:
    """Microseconds since the Unix epoch, moved on by Trio's clock.

    Args:
        origin_us: the time at the first reading; by default the system's wall clock then.
    """

    __slots__ = ("_offset_us", "_origin_us")

    def __init__(self, origin_us: int | None = None) -> None:
        self._origin_us = origin_us
        self._offset_us: int | None = None

    def now_us(self) -> int:
        """The time now. Never less than an earlier reading; needs a running Trio."""
        return self.at(trio.current_time())

    def at(self, trio_time: float) -> int:
        """The time at an instant of Trio's clock."""
        elapsed_us = int(trio_time * 1_000_000)
        if self._offset_us is None:
            origin_us = time.time_ns() // 1_000 if self._origin_us is None else self._origin_us
            self._offset_us = origin_us - elapsed_us
        return self._offset_us + elapsed_us
