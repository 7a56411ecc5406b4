"""What ``subscribe`` and ``fetch`` share: groups become output."""

from __future__ import annotations

import base64
import sys
from collections.abc import Sequence

import trio

import moqtrio

from .failures import Failure, describe_code
from .options import GeneralOptions
from .output import Output
from .sizes import format_size
from .stores import count

# The peer answers within a round trip; this is many.
_ANNOUNCE_WAIT = 1.0
_ANNOUNCE_SHOWN = 8
NOT_THERE = (moqtrio.StreamCode.NOT_FOUND, moqtrio.StreamCode.UNROUTABLE)
"""The codes of a broadcast or track that the peer does not have."""


AnySession = moqtrio.Session | moqtrio.ReconnectingSession
"""Both ask alike."""


class GroupPrinter:
    """Prints groups as payloads, one a line, or as JSON.

    Args:
        output: where to.
        general: ``--json`` or not.
        frames: with ``--json``, also print every frame.

    Attributes:
        next_sequence: one more than the last group or gap that was printed.
        groups, bytes: how much was printed.
    """

    def __init__(self, output: Output, general: GeneralOptions, *, frames: bool) -> None:
        self._output = output
        self._json = general.json
        self._frames = frames
        self.next_sequence: int | None = None
        self.groups: int = 0
        self.bytes: int = 0

    def describe(self) -> str:
        """How much was printed, for people."""
        return f"{count(self.groups, 'group')}, {format_size(self.bytes)}"

    async def print_group(self, group: moqtrio.GroupConsumer) -> None:
        """Print a group as it arrives. Raises StreamReset where it was cut short."""
        count = size = 0
        while batch := await group.receive_batch():
            payload_bytes = sum(len(frame.payload) for frame in batch)
            self.bytes += payload_bytes
            await self.print_frames(group.sequence, count, batch)
            count += len(batch)
            size += payload_bytes
        await self.print_group_end(group.sequence, count, size)

    async def print_group_end(self, sequence: int, frames: int, size: int) -> None:
        """Print that a group is complete; ``size`` is in bytes of payload."""
        self.groups += 1
        self.next_sequence = sequence + 1
        if self._json:
            await self._output.write_json(
                {"type": "group", "sequence": sequence, "frames": frames, "bytes": size}
            )

    async def print_frames(
        self, sequence: int, first: int, frames: Sequence[moqtrio.Frame]
    ) -> None:
        """Print frames of a group, of which ``first`` is the index of the first."""
        if not self._json:
            await self._output.write(b"".join([frame.payload + b"\n" for frame in frames]))
        elif self._frames:
            for index, frame in enumerate(frames, first):
                await self._output.write_json(
                    {
                        "type": "frame",
                        "group": sequence,
                        "index": index,
                        "timestamp_us": frame.timestamp_us,
                        "payload": base64.b64encode(frame.payload).decode(),
                    }
                )

    async def print_gap(self, start: int, end: int, code: int) -> None:
        """Print that the groups ``[start, end)`` are missing, and why."""
        self.next_sequence = end
        if self._json:
            await self._output.write_json({"type": "gap", "start": start, "end": end, "code": code})
            return
        which = f"group {start} is" if end == start + 1 else f"groups {start} to {end - 1} are"
        print(f"moqtrio: {which} missing: {describe_code(code)}", file=sys.stderr)

    async def print_end(self, sequence: int | None) -> None:
        """Print that the track ended below ``sequence``."""
        if self._json:
            await self._output.write_json({"type": "end", "sequence": sequence})


async def explain_refusal(
    session: AnySession, broadcast: str, error: moqtrio.RequestError
) -> Failure:
    """What the peer does offer, for someone who asked for what it does not."""
    message = str(error)
    if error.code not in NOT_THERE:
        return Failure(message)
    paths: list[str] = []
    with trio.move_on_after(_ANNOUNCE_WAIT):
        async with session.announced("") as announcements:
            shown = _ANNOUNCE_SHOWN + 1
            initial = shown if announcements.initial is None else announcements.initial
            for _ in range(min(initial, shown)):
                paths.append((await announcements.receive()).path)
    if not paths:
        return Failure(message, "the peer announces no broadcasts at all")
    if broadcast in paths:
        return Failure(message, f"the broadcast {broadcast} is there, so look at the track's name")
    more = ", ..." if len(paths) > _ANNOUNCE_SHOWN else ""
    return Failure(message, "announced there: " + ", ".join(paths[:_ANNOUNCE_SHOWN]) + more)
