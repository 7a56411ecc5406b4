"""One recorded track: what is known of it in memory, and how it is polled."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import trio

from ...errors import ReplayError, StreamCode
from ...model.source import Bounds, Missing, Pending, Ready
from ..batch import GroupDelta, merge_writes, refused
from ..target import GroupWrite
from .cache import Cache, TrackCache
from .catalog import TrackRow
from .chunks import FrameRun
from .extents import Damage, Extent, Piece
from .loader import PieceRequest, RangeRequest, Step, TrackKey
from .loads import Reading, TrackLoads, copy_error
from .reader import SqliteGroupReader, evicted
from .records import OPEN, OpenGroup
from .slices import Written
from .spans import SpanIndex

if TYPE_CHECKING:
    from .shelf import Shelf

_STEPS = 4  # stretches of sequences read at once, at most
_FILES = 4  # slices one group is read from at once, at most
_LARGEST_SEQUENCE = 2**62 - 1


class SqliteTrack:
    """One track of a :class:`SqliteStore`: a :class:`~moqtrio.replay.ReplayTarget`.

    Polls never touch the disk: what is not in the cache is read by a worker thread while
    the answer is :class:`~moqtrio.replay.Pending`.
    """

    def __init__(self, shelf: Shelf, row: TrackRow, cache: Cache, reading: Reading) -> None:
        self.row = row
        self.reading = reading
        self.spans: SpanIndex = SpanIndex()
        self.key: TrackKey = TrackKey(row.id, f"{row.broadcast}/{row.name}")
        self.in_use = False  # whether the catalog knows that sequences are being used
        self._shelf = shelf
        self._first_free = row.reserved_end if row.next_sequence is None else row.next_sequence
        self._used_end = self._first_free
        self._durable_end = self._first_free
        self._open: dict[int, OpenGroup] = {}
        self._cut_short: set[int] = set()  # evicted while open: the rest is not wanted
        self._continued: dict[int, list[tuple[int, int]]] = {}  # (first frame, slice), rising
        self._cache = TrackCache(cache)
        self._loads = TrackLoads(reading, self._cache, self)
        self._changed = trio.Event()

    @property
    def broadcast(self) -> str:
        """The path of the broadcast the track belongs to."""
        return self.row.broadcast

    @property
    def name(self) -> str:
        """The track's name within its broadcast."""
        return self.row.name

    def bounds(self) -> Bounds:
        """What the store holds of the track."""
        spans = self.spans
        latest = spans.end - 1 if spans else None
        return Bounds(spans.oldest, self._durable_end, self.row.epoch, latest)

    def poll_group(
        self, sequence: int, *, priority: int = 0
    ) -> Ready[SqliteGroupReader] | Pending | Missing:
        """Look for one group; see :class:`~moqtrio.replay.ReplaySource`.

        Raises ReplayError: not retryable for a group that is damaged and for a store that
        is closed, retryable where the disk failed.
        """
        self._check_readable()
        oldest = self.spans.oldest
        if oldest is None or sequence >= self.spans.end:
            return Missing(None)
        if sequence < oldest:
            return Missing(oldest)
        extent = self._cache.extent(sequence)
        if extent is None:
            return self._loads.want_range(sequence)
        found = extent.find(sequence)
        if found is None:
            return self._next_available(extent, sequence)
        if isinstance(found, Damage):
            raise copy_error(found.error)
        if sequence >= extent.middle and not extent.read_ahead:
            self._read_ahead(extent)
        return Ready(SqliteGroupReader(self, sequence, found))

    @property
    def reserved_end(self) -> int:
        """Every sequence below this may have been used; it is durable."""
        return self.row.reserved_end

    @property
    def next_sequence(self) -> int:
        """The first sequence that was never used, as far as the store knows."""
        return self._used_end

    def mark_used(self, end: int) -> None:
        """Say that sequences below ``end`` were used, recorded or not: none of them is
        ``next_sequence`` again after a clean close. Cheap: kept in memory until then."""
        self._used_end = max(self._used_end, end)

    async def reserve(self, end: int) -> None:
        """Move ``reserved_end`` up to ``end``; see :class:`~moqtrio.replay.ReplayTarget`."""
        await self._shelf.reserve(self, end)

    async def write(self, writes: Sequence[GroupWrite]) -> None:
        """Record all of ``writes`` in one transaction.

        Raises ReplayError: not retryable where the writes are not contiguous, a group has
        ended already or its sequence may have been used before; retryable where the disk
        is full or failed.
        """
        await self._shelf.write(self, writes)

    def set_durable_end(self, end: int) -> None:
        """Move ``bounds().durable_end`` up to ``end``. Sequences below it count as used."""
        self._durable_end = max(self._durable_end, end)
        self.mark_used(end)

    # For readers.

    def check_readable(self, sequence: int, head: int) -> None:
        """Raise ReplayError where the store is closed, or slice ``head`` was evicted."""
        self._check_readable()
        if not self._shelf.has_slice(head):
            raise evicted(sequence)

    def find_frames(self, sequence: int, frame: int) -> tuple[FrameRun, int] | int | Pending:
        """The run with ``frame`` of a group that has rows of its own, and where the run
        begins; or how the group ended, where it has no such frame.

        Raises ReplayError where the frames are damaged or were never recorded.
        """
        piece = self._cache.piece(sequence, frame)
        if piece is None:
            extent = self._cache.extent(sequence)
            found = None if extent is None else extent.find(sequence)
            if not isinstance(found, Piece) or found.end_frame < frame:
                return self._loads.want_piece(sequence, frame)
            piece = found
        if frame < piece.end_frame:
            self._read_ahead_in(piece, frame)
            return piece.run_at(frame)
        if piece.ending != OPEN:
            return piece.ending
        if piece.error is not None:
            raise copy_error(piece.error)
        if piece.cut:
            return self._loads.want_piece(sequence, frame)
        if piece.was_open:
            group = self._open.get(sequence)
            if group is not None and group.frames <= frame:
                return Pending(self._changed.wait)
            return self._loads.want_piece(sequence, frame)
        raise ReplayError(
            f"group {sequence} is truncated after {frame} frames: what recorded it stopped there",
            code=StreamCode.INTERNAL,
            retryable=False,
        )

    # For loads.

    def plan_range(self, sequence: int, stop: int | None, budget: int) -> RangeRequest | None:
        """How to read the groups from ``sequence`` on, not beyond ``stop``; None where there
        are none."""
        steps: list[Step] = []
        start, end_exists = sequence, False
        limit = self.spans.end if stop is None else min(stop, self.spans.end)
        while len(steps) < _STEPS and start < limit:
            stretch = self.spans.stretch(start)
            end = min(stretch.end, limit)
            steps.append(Step(start, end, [self._shelf.file(each) for each in stretch.slices]))
            end_exists = end == stretch.end and stretch.end_exists
            start = end
        if not steps:
            return None
        return RangeRequest(
            self.key,
            sequence,
            steps,
            end_exists,
            frozenset(self._open),
            frozenset(self._continued),
            budget,
        )

    def plan_piece(self, sequence: int, frame: int, budget: int) -> PieceRequest | None:
        """How to read a group from ``frame`` on; None where its beginning is gone."""
        heads = {span.slice for span in self.spans.covering(sequence)}
        if not heads:
            return None
        continued = self._continued.get(sequence, [])
        index = bisect_right(continued, frame, key=lambda entry: entry[0])
        if index:
            heads, index = set(), index - 1
        # The slice a group begins in has a lower number than those it goes on in; others
        # that cover its sequence have nothing of it, and do no harm.
        numbers = sorted(heads.union(number for _, number in continued[index:]))
        return PieceRequest(
            self.key,
            sequence,
            frame,
            [self._shelf.file(number) for number in numbers[:_FILES]],
            len(numbers) > _FILES,
            sequence in self._open,
            budget,
        )

    def expected_end(self, sequence: int, budget: int) -> int:
        """About where ``budget`` bytes of groups from ``sequence`` on end."""
        return sequence + max(budget // max(self._shelf.mean_group_bytes(self.row.id), 1), 1)

    # For the shelf.

    def merge(self, writes: Sequence[GroupWrite]) -> list[GroupDelta]:
        """What ``writes`` do to each group. Raises ReplayError where they may not."""
        for write in writes:
            if not 0 <= write.sequence <= _LARGEST_SEQUENCE:
                raise refused(f"{write.sequence} is not a sequence")
        return merge_writes(writes, self._recorded_frames)

    def open_groups(self, deltas: Iterable[GroupDelta]) -> dict[int, OpenGroup]:
        """Those of the groups in ``deltas`` that have been recorded in part."""
        groups = ((delta.sequence, self._open.get(delta.sequence)) for delta in deltas)
        return {sequence: group for sequence, group in groups if group is not None}

    def late(self, deltas: Iterable[GroupDelta]) -> list[int]:
        """The new groups in ``deltas`` that come after groups with a higher sequence."""
        end = self.spans.end
        return [
            delta.sequence
            for delta in deltas
            if delta.sequence < end and delta.sequence not in self._open
        ]

    def apply(self, slice_number: int, written: Written) -> None:
        """What was written is durable now."""
        end = self.spans.end
        for sequence in written.heads:
            if sequence >= end:
                break
            self._loads.invalidate(sequence, sequence)
        content = written.content
        if content.first is not None and content.last is not None:
            self.spans.extend(slice_number, content.first, content.last)
            self.mark_used(content.last + 1)
        self._open.update(written.open)
        for sequence in written.ended:
            del self._open[sequence]
        self.add_continuations(slice_number, written.continued)
        self.wake()

    def forget_ended(self, writes: Iterable[GroupWrite]) -> None:
        """Groups that were cut short have ended: nothing more of them will come."""
        for write in writes:
            if write.end is not None:
                self._cut_short.discard(write.sequence)

    def add_continuations(self, slice_number: int, frames: dict[int, int]) -> None:
        """Note which groups go on in a slice, and with which frame."""
        for sequence, frame in frames.items():
            self._continued.setdefault(sequence, []).append((frame, slice_number))

    def drop_slice(self, slice_number: int, continued: Iterable[int]) -> None:
        """A slice was evicted: its groups are gone, whatever later slices have of them."""
        span = self.spans.remove(slice_number)
        for sequence in continued:
            self._continued.pop(sequence, None)
        for sequence in [each for each, group in self._open.items() if group.head == slice_number]:
            del self._open[sequence]
            self._cut_short.add(sequence)
        if span is not None:
            # An extent may end just below what is gone, and say that it is there.
            self._loads.invalidate(span.first - 1, span.last)
        self.wake()

    def wake(self) -> None:
        """Something changed that a reader of an open group may wait for."""
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    def close(self) -> None:
        """The store closes: let everyone who waits ask again."""
        self._loads.wake()
        self.wake()

    def _check_readable(self) -> None:
        self._shelf.check_open()
        if self.reading.closed:
            raise ReplayError(f"the store of {self.key.label} is being closed", retryable=False)

    def _recorded_frames(self, sequence: int) -> int | None:
        group = self._open.get(sequence)
        if group is not None:
            return group.frames
        if sequence in self._cut_short:
            return None
        if sequence < self._first_free:
            raise refused(
                f"group {sequence} may have been used before: the first free sequence was "
                f"{self._first_free} when the store was opened"
            )
        return 0

    def _next_available(self, extent: Extent, sequence: int) -> Missing | Pending:
        """The answer for a sequence that has no group, and lies in ``extent``."""
        while True:
            nearest = extent.next_from(sequence)
            if nearest is not None:
                return Missing(nearest)
            if extent.end_exists:
                return Missing(extent.end)
            sequence = extent.end
            if sequence >= self.spans.end:
                return Missing(None)
            following = self._cache.extent(sequence)
            if following is None:
                return self._loads.want_range(sequence)
            if following.find(sequence) is not None:
                return Missing(sequence)
            extent = following

    def _read_ahead(self, extent: Extent) -> None:
        extent.read_ahead = True
        if extent.end < self.spans.end and self._cache.extent(extent.end) is None:
            self._loads.read_ahead((extent.end, -1), extent.budget)

    def _read_ahead_in(self, piece: Piece, frame: int) -> None:
        if piece.read_ahead or not piece.past_middle(frame):
            return
        piece.read_ahead = True
        if piece.cut:
            if self._cache.piece(piece.sequence, piece.end_frame) in (None, piece):
                self._loads.read_ahead((piece.sequence, piece.end_frame), piece.budget)
        elif piece.ending != OPEN and piece.first_frame > 0:
            following = piece.sequence + 1
            if following < self.spans.end and self._cache.extent(following) is None:
                self._loads.read_ahead((following, -1), piece.budget)
