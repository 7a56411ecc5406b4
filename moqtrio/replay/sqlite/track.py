"""One recorded track: what is known of it in memory, and how it is polled."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import attrs

from ...model.source import Bounds, Missing, Pending
from ..batch import GroupDelta, merge_writes, refused
from ..earlier import EarlierLogs
from ..target import GapWrite, GroupWrite
from .cache import Cache
from .catalog import TrackRow
from .extents import Extent, Piece
from .loader import load_piece, load_range
from .loads import Reading
from .lookup import PieceRequest, RangeRequest, SlicedTrack
from .records import OpenGroup, SliceFile
from .slices import Written
from .times import find_in_slice

if TYPE_CHECKING:
    from .shelf import Shelf

_LARGEST_SEQUENCE = 2**62 - 1


class SqliteTrack(SlicedTrack[SliceFile]):
    """One track of a :class:`SqliteStore`: a :class:`~moqtrio.replay.ReplayTarget`.

    Polls never touch the disk: what is not in the cache is read by a worker thread while
    the answer is :class:`~moqtrio.replay.Pending`.
    """

    def __init__(
        self,
        shelf: Shelf,
        row: TrackRow,
        cache: Cache,
        reading: Reading,
        gaps: Iterable[GapWrite] = (),
    ) -> None:
        super().__init__(row.id, row.broadcast, row.name, cache, reading, gaps)
        self.row: TrackRow = row
        self.earlier: EarlierLogs = EarlierLogs()
        self.in_use = False  # whether the catalog knows that sequences are being used
        self._shelf = shelf
        self._first_free = row.reserved_end if row.next_sequence is None else row.next_sequence
        self._used_end = self._first_free
        self._durable_end = self._first_free
        self._open: dict[int, OpenGroup] = {}
        self._cut_short: set[int] = set()  # evicted while open: the rest is not wanted

    def bounds(self) -> Bounds:
        """What the store holds of the track."""
        return Bounds(self.spans.oldest, self._durable_end, self.row.epoch, self.spans.latest)

    def _check_absence(self, sequence: int, missing: Missing) -> Missing | Pending:
        answer = self.earlier.check(sequence, missing)
        if isinstance(answer, Pending):
            return answer
        return super()._check_absence(sequence, answer)

    def now(self) -> float:
        """The time on the store's clock, in seconds since the Unix epoch; see
        :meth:`SqliteStore.open`."""
        return self._shelf.now()

    async def find_time(self, when: float) -> int | None:
        """The smallest sequence of which anything was recorded at or after ``when``; see
        :class:`~moqtrio.replay.TimeIndex`. Looks into one slice at most."""
        earlier = self.earlier.first()  # in this order: it may be recorded meanwhile
        found = [earlier, await super().find_time(when)]
        return min((each for each in found if each is not None), default=None)

    @property
    def reserved_end(self) -> int:
        """Every sequence below this may have been used; it is durable."""
        # What a clean close gave back is not reserved again before the catalog knows: until
        # then a kill would leave where that close said to go on.
        return self.row.reserved_end if self.in_use else self._first_free

    @property
    def next_sequence(self) -> int:
        """The first sequence that was never used, as far as the store knows."""
        return self._used_end

    def mark_used(self, end: int) -> None:
        """Say that sequences below ``end`` were used, recorded or not: none of them is
        ``next_sequence`` again after a clean close. Cheap: kept in memory until then."""
        self._used_end = max(self._used_end, end)

    def skip_to(self, first_free: int) -> None:
        """Sequences below ``first_free`` may have been used elsewhere. Only before anything
        is recorded; kept in memory until then."""
        self.row = attrs.evolve(self.row, reserved_end=max(self.row.reserved_end, first_free))
        self._first_free = max(self._first_free, first_free)
        self._durable_end = max(self._durable_end, first_free)
        self.mark_used(first_free)

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

    async def write_gaps(self, gaps: Sequence[GapWrite]) -> None:
        """Record that groups are lost; see :class:`~moqtrio.replay.ReplayTarget`.

        Raises ReplayError, retryable where the disk is full or failed.
        """
        await self._shelf.write_gaps(self, gaps)

    def set_durable_end(self, end: int) -> None:
        """Move ``bounds().durable_end`` up to ``end``. Sequences below it count as used."""
        self._durable_end = max(self._durable_end, self.earlier.durable_end(end))
        self.mark_used(end)

    # For looking up.

    def check_open(self) -> None:
        """Raise ReplayError once the store is closed."""
        self._shelf.check_open()

    def has_slice(self, number: int) -> bool:
        """Whether a slice has not been evicted."""
        return self._shelf.has_slice(number)

    def file(self, number: int) -> SliceFile:
        """Where a slice is."""
        return self._shelf.file(number)

    def created(self, number: int) -> float:
        """A time before the first commit of a slice."""
        return self._shelf.created(number)

    def recorded(self, number: int) -> float:
        """When the last commit of a slice was."""
        return self._shelf.recorded(number)

    def mean_group_bytes(self) -> int:
        """The mean size of the groups; 0 where there are none."""
        return self._shelf.mean_group_bytes(self.row.id)

    def open_groups(self) -> Iterable[int]:
        """The groups that are being recorded."""
        return self._open

    def open_parts(self) -> dict[int, OpenGroup]:
        """What is known of the groups that are being recorded."""
        return dict(self._open)

    def open_heads(self) -> set[int]:
        """The slices that groups begin in which are being recorded."""
        return {group.head for group in self._open.values()}

    def recorded_frames(self, sequence: int) -> int | None:
        """How many frames of a group are durable that is being recorded; None for others."""
        group = self._open.get(sequence)
        return None if group is None else group.frames

    def find_in_slice(
        self, file: SliceFile, when: float, *, oldest: int, unreadable: int
    ) -> int | None:
        """See :meth:`SlicedTrack.find_in_slice`."""
        pool, track = self._shelf.pool, self.key.id
        return find_in_slice(pool, file, track, when, oldest=oldest, unreadable=unreadable)

    def load_range(self, request: RangeRequest[SliceFile]) -> Extent:
        """Read an extent, in a worker thread. Raises ReplayError (retryable) and SliceRetired."""
        return load_range(self._shelf.pool, request)

    def load_piece(self, request: PieceRequest[SliceFile]) -> Piece:
        """Read frames of one group, in a worker thread. Raises as :meth:`load_range` does."""
        return load_piece(self._shelf.pool, request)

    # For the shelf.

    def merge(self, writes: Sequence[GroupWrite]) -> list[GroupDelta]:
        """What ``writes`` do to each group. Raises ReplayError where they may not."""
        for write in writes:
            if not 0 <= write.sequence <= _LARGEST_SEQUENCE:
                raise refused(f"{write.sequence} is not a sequence")
        return merge_writes(writes, self._frames_before)

    def begun(self, deltas: Iterable[GroupDelta]) -> dict[int, OpenGroup]:
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
            self.times.note_written(slice_number, content.first)
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

    def read_again(self, first: int, last: int) -> None:
        """What can be read of the groups from ``first`` to ``last`` may have changed."""
        self._loads.invalidate(first - 1, last)

    def drop_slice(self, slice_number: int, continued: Iterable[int]) -> int:
        """A slice was evicted: its groups are gone, whatever later slices have of them.

        Returns the oldest sequence there is now, below which gaps are forgotten, too.
        """
        end = self.spans.end
        self.remove_slice(slice_number, continued)
        oldest = self.spans.oldest
        oldest = end if oldest is None else oldest
        self.gaps.discard_below(oldest)
        for sequence in [each for each, group in self._open.items() if group.head == slice_number]:
            del self._open[sequence]
            self._cut_short.add(sequence)
        self.wake()
        return oldest

    def _frames_before(self, sequence: int) -> int | None:
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
