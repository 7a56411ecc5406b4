"""A frame: the smallest unit a track carries."""

from __future__ import annotations

from typing import Final

import attrs

TIMESTAMP_END: Final = 2**61
"""Timestamps are below this, in microseconds: what can be sent together with its distance
from any other (RFC 9000 section 16: 62 bits)."""


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
