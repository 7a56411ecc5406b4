"""Max latencies, which the wire has in milliseconds and without an infinity."""

from __future__ import annotations

import math

from ..model import Track

LONGEST_LATENCY = 100 * 365 * 86400.0
"""Seconds that stand for "any latency" on the wire, where 0 means that only the latest group
is worth sending. moq-rs refuses a track whose latency overflows its clock, as 2**62 - 1 ms do."""


def to_wire(seconds: float) -> float:
    """What to send for a latency that may be infinite."""
    return min(seconds, LONGEST_LATENCY)


def from_wire(seconds: float) -> float:
    """What a peer meant."""
    return math.inf if seconds >= LONGEST_LATENCY else seconds


def track_latency(track: Track) -> float:
    """How long groups of the track are to be had. moq-rs believes it: its clients skip
    groups that are older, by their timestamps, and its relays cache no longer."""
    if track.info.max_latency is not None:
        return to_wire(track.info.max_latency)
    return track.log.limits.cache_age if track.source is None else LONGEST_LATENCY
