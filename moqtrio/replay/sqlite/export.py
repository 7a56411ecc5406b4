"""Writing out what a store has of a track, group by group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import attrs

from ...errors import ReplayError, StreamCode
from ...model.frame import Frame
from ...model.source import Missing, Pending, Ready
from .reader import SlicedGroupReader
from .readonly import ReadOnlyStore, ReadOnlyTrack

_PIECE_BYTES = 256 * 1024
_ATTEMPTS = 3  # where the disk fails


class ExportSink(Protocol):
    """Where what is exported goes, in order."""

    async def write_frames(self, sequence: int, first_frame: int, frames: Sequence[Frame]) -> None:
        """Frames of one group."""
        ...

    async def end_group(self, sequence: int, frames: int, size: int) -> None:
        """The group is complete; ``size`` is in bytes of payload."""
        ...

    async def write_gap(self, start: int, end: int, code: int, reason: str) -> None:
        """Groups in ``[start, end)`` are missing, or were cut short. Code 0 says that the
        store does not have them, any other that it cannot deliver them."""
        ...


@attrs.frozen
class ExportReport:
    """What was exported.

    Attributes:
        start, end: the range that is accounted for, half-open.
        groups, frames, bytes: how much is complete; bytes of payload.
        missing: how many groups are gaps.
        unfinished: the group that it ends before because that has no end yet; None where it
            ends with the last group there is, or the last that was asked for.
    """

    start: int
    end: int
    groups: int
    frames: int
    bytes: int
    missing: int
    unfinished: int | None


async def export_track(
    store: ReadOnlyStore,
    track: ReadOnlyTrack,
    sink: ExportSink,
    *,
    start: int | None = None,
    end: int | None = None,
) -> ExportReport:
    """Hand everything recorded of a track to ``sink``, with bounded memory.

    Every sequence of the range is accounted for, once: as a group, or in a gap. Groups that
    cannot be read become gaps; what retention removes meanwhile does, too.

    Args:
        start: the first sequence; None for the oldest there is.
        end: the first sequence that is not wanted any more. None for all there is, up to the
            first of the last groups that have no end yet.

    Raises:
        ReplayError: the store is gone altogether. What the sink raises passes.
    """
    bounds = track.bounds()
    if start is None:
        start = bounds.oldest or 0
    unfinished = None
    if end is None:
        end = max(track.spans.end, start)
        while end > start and end - 1 in track.unfinished:
            end = unfinished = end - 1
    export = _Export(store, track, sink, start, end)
    await export.run()
    return ExportReport(
        start, end, export.groups, export.frames, export.bytes, export.missing, unfinished
    )


@attrs.define(eq=False)
class _Gap:
    start: int
    end: int
    code: int
    reason: str


@attrs.define(eq=False)
class _Export:
    """One export: where it is, and what it has written."""

    store: ReadOnlyStore
    track: ReadOnlyTrack
    sink: ExportSink
    sequence: int
    end: int
    groups: int = 0
    frames: int = 0
    bytes: int = 0
    missing: int = 0
    _gap: _Gap | None = None

    async def run(self) -> None:
        while self.sequence < self.end:
            try:
                found = await self._poll()
            except ReplayError as error:
                await self._add_gap(self.sequence + 1, error)
                continue
            if isinstance(found, SlicedGroupReader):
                await self._write_gap()
                await self._write_group(found)
            else:
                await self._add_gap(self.end if found is None else min(found, self.end))
        await self._write_gap()

    async def _poll(self) -> SlicedGroupReader | int | None:
        """The group, or the next there is. Raises ReplayError where it cannot be had."""
        for attempt in range(_ATTEMPTS):
            try:
                while isinstance(answer := self.track.poll_group(self.sequence), Pending):
                    await answer.wait()
            except ReplayError:
                # What has expired meanwhile is no damage, and missing when next asked for.
                await self.store.refresh()
                if attempt == _ATTEMPTS - 1:
                    raise
            else:
                return answer.next_available if isinstance(answer, Missing) else answer.value
        raise AssertionError("the last attempt returns or raises")

    async def _write_group(self, reader: SlicedGroupReader) -> None:
        sequence, count, size = self.sequence, 0, 0
        try:
            while frames := await self._read(reader):
                await self.sink.write_frames(sequence, count, frames)
                count += len(frames)
                size += sum(len(frame.payload) for frame in frames)
        except ReplayError as error:
            await self._add_gap(sequence + 1, error)
            return
        finally:
            reader.close()
        await self.sink.end_group(sequence, count, size)
        self.groups += 1
        self.frames += count
        self.bytes += size
        self.sequence += 1

    async def _read(self, reader: SlicedGroupReader) -> Sequence[Frame]:
        """The next frames; none at the end. Raises ReplayError."""
        for attempt in range(_ATTEMPTS):
            try:
                while isinstance(answer := reader.poll_frames(_PIECE_BYTES), Pending):
                    await answer.wait()
            except ReplayError as error:
                if not error.retryable or attempt == _ATTEMPTS - 1:
                    await self.store.refresh()
                    raise
            else:
                return answer.value if isinstance(answer, Ready) else ()
        raise AssertionError("the last attempt returns or raises")

    async def _add_gap(self, end: int, error: ReplayError | None = None) -> None:
        """Go on after a gap. Neighbours of one kind become one gap."""
        start, self.sequence = self.sequence, end
        self.missing += end - start
        code, reason = 0, "not in the store"
        if error is not None:
            # What cannot be delivered has a code other than that of what is not there.
            code = error.code or StreamCode.EVICTED
            reason = str(error).removeprefix(f"group {start} ")
        gap = self._gap
        if gap is not None and (gap.end, gap.code, gap.reason) == (start, code, reason):
            gap.end = end
            return
        await self._write_gap()
        self._gap = _Gap(start, end, code, reason)

    async def _write_gap(self) -> None:
        gap, self._gap = self._gap, None
        if gap is not None:
            await self.sink.write_gap(gap.start, gap.end, gap.code, gap.reason)
