"""How many want something, and whether it is still worth providing once nobody does."""

from __future__ import annotations

import math
from typing import Final

import trio

LINGER: Final = 1.0
"""Seconds for which something stays wanted that nobody waits for: who asks again in another
way, or reconnects, finds it under way."""


class Demand:
    """Counts those who want one thing.

    Attributes:
        count: how many they are.
        over_at: Trio time from which it is not wanted any more, unless somebody joins.
    """

    __slots__ = ("_changed", "count", "over_at")

    def __init__(self) -> None:
        self.count: int = 0
        self.over_at: float = trio.current_time() + LINGER
        self._changed: trio.Event | None = None

    @property
    def is_over(self) -> bool:
        """Whether nobody has wanted it for :data:`LINGER` seconds."""
        return trio.current_time() >= self.over_at

    def join(self) -> None:
        """One more wants it."""
        self.count += 1
        self.over_at = math.inf
        self.notify()

    def leave(self) -> None:
        """One who joined does not want it any more."""
        self.count -= 1
        if not self.count:
            self.over_at = trio.current_time() + LINGER
        self.notify()

    def notify(self) -> None:
        """Wake those who wait for a change."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    async def wait_changed(self, deadline: float = math.inf) -> None:
        """Wait for a change, or until it is over, or until Trio time ``deadline``."""
        if self._changed is None:
            self._changed = trio.Event()
        with trio.move_on_at(min(deadline, self.over_at)):
            await self._changed.wait()
