"""What was recorded against what was received, byte for byte."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import attrs
import trio

from .processes import Command


def add_frame(digest: Any, timestamp_us: int, payload: bytes) -> None:
    """Add one frame to a digest, so that no other sequence of frames gives the same."""
    digest.update(b"%d %d " % (timestamp_us, len(payload)))
    digest.update(payload)


def digest_frames(frames: Iterable[tuple[int, bytes]]) -> str:
    """The digest of a group: of its frames' timestamps and payloads."""
    digest = hashlib.sha256()
    for timestamp_us, payload in frames:
        add_frame(digest, timestamp_us, payload)
    return digest.hexdigest()


@attrs.define
class Arrival:
    """One group as it was received.

    Attributes:
        digest: over its frames, see :func:`digest_frames`.
        bytes: of payload.
        at: Trio time when it was complete.
    """

    digest: str
    bytes: int
    at: float


@attrs.define
class Received:
    """Everything one subscriber printed.

    Attributes:
        groups: the complete groups by sequence.
        gaps: how many groups it was told are missing.
        end: the track's end as it was told, or None while it was not.
        began: Trio time of the first line.
    """

    groups: dict[int, Arrival] = attrs.Factory(dict)
    gaps: int = 0
    end: int | None = None
    began: float | None = None

    async def read(self, command: Command) -> None:
        """Take in what ``moqtrio subscribe --json --frames`` prints, until it ends."""
        digests: dict[int, Any] = {}
        while (message := await command.receive_message()) is not None:
            if self.began is None:
                self.began = trio.current_time()
            match message:
                case {"type": "frame", "group": sequence, "payload": payload}:
                    digest = digests.setdefault(sequence, hashlib.sha256())
                    add_frame(digest, message["timestamp_us"], base64.b64decode(payload))
                case {"type": "group", "sequence": sequence, "bytes": size}:
                    digest = digests.pop(sequence, None) or hashlib.sha256()
                    arrival = Arrival(digest.hexdigest(), size, trio.current_time())
                    self.groups[sequence] = arrival
                case {"type": "gap", "start": start, "end": end}:
                    self.gaps += end - start
                case {"type": "end", "sequence": end}:
                    self.end = end


def count_mismatches(recorded: Mapping[int, str], received: Received, end: int) -> int:
    """How many of the groups below ``end`` were not received exactly as recorded."""
    return sum(
        sequence not in recorded
        or sequence not in received.groups
        or received.groups[sequence].digest != recorded[sequence]
        for sequence in range(end)
    ) + sum(sequence >= end for sequence in received.groups)
