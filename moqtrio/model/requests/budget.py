"""The memory of all groups together that an application writes because they were asked for."""

from __future__ import annotations

from typing import Final, Protocol

import trio

PATIENCE: Final = 5.0
"""Seconds for which slow readers may keep others waiting."""
_RECLAIM_EVERY = 1.0


class Ended(Protocol):
    """A group that was written, and is still read."""

    @property
    def idle(self) -> float:
        """Seconds for which nobody has taken anything."""
        ...

    def drop_readers(self) -> None:
        """Those who read it have to ask for it again."""
        ...


class Budget:
    """Counts what a track's groups take that are written or read.

    Beyond the limit a group has no more than it cannot do without, one frame, and readers
    that take nothing are not waited for.

    Args:
        limit: so many bytes.

    Attributes:
        limit: as given.
        bytes: so many are used.
    """

    def __init__(self, limit: int) -> None:
        self.limit: int = limit
        self.bytes: int = 0
        self._ended: dict[Ended, None] = {}
        self._reclaimed_at = -float("inf")

    def is_used_up(self) -> bool:
        """Whether there is no more. Lets go of what readers have forgotten."""
        if self.bytes >= self.limit:
            self._reclaim()
        return self.bytes >= self.limit

    def ended(self, group: Ended) -> None:
        """A group was written; what was counted for it is in use until :meth:`left`."""
        self._ended[group] = None

    def left(self, group: Ended) -> None:
        """Nobody reads it any more."""
        del self._ended[group]

    def _reclaim(self) -> None:
        now = trio.current_time()
        if now < self._reclaimed_at + _RECLAIM_EVERY:
            return
        self._reclaimed_at = now
        for group in [each for each in self._ended if each.idle >= PATIENCE]:
            group.drop_readers()
