"""Max latencies, which the wire has in milliseconds and without an infinity."""

from __future__ import annotations

import math

LONGEST_LATENCY = 100 * 365 * 86400.0
"""Seconds that stand for "any latency" on the wire, where 0 means that only the latest group
is worth sending. moq-rs refuses a track whose latency overflows its clock, as 2**62 - 1 ms do."""


def to_wire(seconds: float) -> float:
    """What to send for a latency that may be infinite."""
    return min(seconds, LONGEST_LATENCY)


def from_wire(seconds: float) -> float:
    """What a peer meant."""
    return math.inf if seconds >= LONGEST_LATENCY else seconds
