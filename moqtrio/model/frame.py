"""A frame: the smallest unit a track carries."""

from __future__ import annotations

import attrs


@attrs.define(slots=True, eq=True)
class Frame:
    """One payload and the instant it belongs to.

    Attributes:
        payload: the application's bytes, delivered exactly as they were written.
        timestamp_us: microseconds; by default since the Unix epoch, as the publisher's
            track clock has it. Not necessarily rising from frame to frame.

    Treat it as immutable; it is not frozen only because frozen classes are built three
    times slower, and one is built for every frame received.
    """

    payload: bytes
    timestamp_us: int
