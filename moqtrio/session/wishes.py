"""What a subscriber's wishes mean to its publisher, where that depends on the version."""

from __future__ import annotations

import math

from ..model import TrackInfo
from ..wire import Version
from ..wire.lite import SubscribeUpdate
from .frame_slice import FrameSlice
from .latency import from_wire


def is_ordered(wishes: SubscribeUpdate, info: TrackInfo, version: Version) -> bool:
    """Whether older groups go first. Draft 06 leaves that to the publisher."""
    return info.ordered if version.draft >= 6 else wishes.ordered


def start_window(wishes: SubscribeUpdate, version: Version) -> float:
    """How many seconds before the latest group the first one may be. Before draft 06 a start
    was all there was to say of that."""
    return from_wire(wishes.max_latency) if version.draft >= 6 else math.inf


def ages_by_clock(version: Version) -> bool:
    """Whether a group is also as old as the time since it was queued. Draft 06, as it is
    shipped, goes by timestamps alone."""
    return version.draft < 6


def frames_of(wishes: SubscribeUpdate, sequence: int) -> FrameSlice | None:
    """Which frames of a group are wanted; None for all. What is said of frames applies to the
    very group that is named as the start, and to the last one before the end."""
    if not wishes.frame_start and wishes.frame_end is None:
        return None
    start = wishes.frame_start if sequence == wishes.start else 0
    is_last = wishes.end is not None and sequence == wishes.end - 1
    end = wishes.frame_end if is_last else None
    return FrameSlice(start, end) if start or end is not None else None
