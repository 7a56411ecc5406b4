"""Which groups a subscriber no longer wants, because newer ones have come since.

draft-lcurley-moq-lite, "Expiration": once a newer group exists, a group is expired when its
age, relative to the latest group, exceeds the subscriber's max latency, by its first
timestamp or by when it was queued here, whichever is more. Since moq-lite-06, as it is
shipped, the timestamp alone counts.
"""

from __future__ import annotations

import math

from ..model.log import TrackLog


class Expiry:
    """A subscriber's max latency, applied to one track.

    Args:
        log: the track's groups in memory.
        max_latency: seconds a group may lag behind the latest; infinity for any.
        by_clock: whether it also counts when a group was queued.

    Attributes:
        max_latency: as given.
        is_limited: whether any group can expire.
        exempt_end: groups below this are history the subscriber asked for, and never expire.
    """

    max_latency: float
    is_limited: bool

    def __init__(
        self, log: TrackLog, max_latency: float = math.inf, *, by_clock: bool = True
    ) -> None:
        self._log = log
        self._by_clock = by_clock
        self.exempt_end: int = 0
        self.set_max_latency(max_latency)

    def set_max_latency(self, seconds: float) -> None:
        """Change the subscriber's wish; infinity for any."""
        self.max_latency = seconds
        self.is_limited = seconds != math.inf

    def is_expired(self, sequence: int, first_us: int | None = None) -> bool:
        """Whether a group is too old to be sent.

        ``first_us`` is its first timestamp, where it is known and the group may have left
        memory.
        """
        if not self.is_limited or sequence < self.exempt_end:
            return False
        log = self._log
        latest = log.latest
        if latest is None or latest <= sequence:
            return False
        newest = log.get(latest)
        group = log.get(sequence)
        assert newest is not None
        if group is not None:
            if self._by_clock and newest.created_at - group.created_at > self.max_latency:
                return True
            if group.frames:
                first_us = group.frames[0].timestamp_us
        if first_us is None:
            return False
        reference = log.latest_first_us
        return reference is not None and reference - first_us > self.max_latency * 1_000_000

    def expired_until(self, sequence: int) -> int:
        """Where the run of expired groups ends that begins with ``sequence``.

        That is ``sequence`` itself where it is not expired, or where only its content could
        tell. What is older than everything in memory is taken to be as old as the oldest.
        """
        if not self.is_limited or sequence < self.exempt_end:
            return sequence
        end = sequence
        while (following := self._log.first_from(end)) is not None:
            if not self.is_expired(following):
                break
            end = following + 1
        return end
