"""How the groups of a track that lies in slices are looked up, wherever the slices are.

Nothing here does any I/O: what is not in the cache is read by a worker thread while the
answer is :class:`~moqtrio.replay.Pending`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Generic, TypeVar

import attrs
import trio

from ...errors import ReplayError, StreamCode
from ...model.source import Missing, Pending, Ready
from ..gaps import Gaps
from ..target import GapWrite
from .cache import Cache, TrackCache
from .chunks import FrameRun
from .extents import Damage, Extent, Piece
from .loads import Reading, TrackLoads
from .pool import SliceRetired
from .reader import SlicedGroupReader, evicted
from .records import OPEN
from .spans import SpanIndex
from .times import SliceTimes

_STEPS = 4  # stretches of sequences read at once, at most
_FILES = 4  # slices one group is read from at once, at most

F = TypeVar("F")


@attrs.frozen
class TrackKey:
    """A track as the loader needs it: its number in the files, its name in messages."""

    id: int
    label: str


@attrs.frozen
class Step(Generic[F]):
    """Groups that begin in ``[start, end)``, and every slice that may have some of them."""

    start: int
    end: int
    files: Sequence[F]


@attrs.frozen
class RangeRequest(Generic[F]):
    """Read groups from ``start`` on, step after step.

    Attributes:
        end_exists: whether the last step's end is the sequence of a group.
        open: which groups are still being recorded.
        continued: which groups go on in a later slice.
        budget: stop after about this many bytes.
    """

    track: TrackKey
    start: int
    steps: Sequence[Step[F]]
    end_exists: bool
    open: frozenset[int]
    continued: frozenset[int]
    budget: int


@attrs.frozen
class PieceRequest(Generic[F]):
    """Read one group from ``frame`` on.

    Attributes:
        files: the slices it may lie in, in order, from the one with ``frame`` on.
        more: whether there are further ones.
        was_open: whether the group is still being recorded.
    """

    track: TrackKey
    sequence: int
    frame: int
    files: Sequence[F]
    more: bool
    was_open: bool
    budget: int


class SlicedTrack(ABC, Generic[F]):
    """A track in slices, without what is particular to where they are.

    Attributes:
        broadcast: the path of the broadcast the track belongs to.
        name: the track's name within its broadcast.
        gaps: what was published and could not be recorded.
    """

    def __init__(
        self,
        track_id: int,
        broadcast: str,
        name: str,
        cache: Cache,
        reading: Reading,
        gaps: Iterable[GapWrite] = (),
    ) -> None:
        self.broadcast: str = broadcast
        self.name: str = name
        self.key: TrackKey = TrackKey(track_id, f"{broadcast}/{name}")
        self.gaps: Gaps = Gaps(gaps)
        self.reading = reading
        self.spans: SpanIndex = SpanIndex()
        self._continued: dict[int, list[tuple[int, int]]] = {}  # (first frame, slice), rising
        self.times: SliceTimes = SliceTimes(self.spans, self._continued)
        self._cache = TrackCache(cache)
        self._loads = TrackLoads(reading, self._cache, self)
        self._changed = trio.Event()

    # What depends on where the slices are.

    @abstractmethod
    def check_open(self) -> None:
        """Raise ReplayError once the store is closed."""

    @abstractmethod
    def has_slice(self, number: int) -> bool:
        """Whether a slice is still there."""

    @abstractmethod
    def file(self, number: int) -> F:
        """Where a slice is."""

    @abstractmethod
    def mean_group_bytes(self) -> int:
        """The mean size of the groups; 0 where there are none."""

    @abstractmethod
    def open_groups(self) -> Iterable[int]:
        """The groups that more may come of."""

    @abstractmethod
    def recorded_frames(self, sequence: int) -> int | None:
        """How many frames there are of a group that more may come of; None for others."""

    @abstractmethod
    def created(self, number: int) -> float:
        """A time before the first commit of a slice."""

    @abstractmethod
    def recorded(self, number: int) -> float:
        """When the last commit of a slice was."""

    @abstractmethod
    def find_in_slice(self, file: F, when: float, *, oldest: int, unreadable: int) -> int | None:
        """The smallest sequence recorded since in one slice, in a worker thread; see
        :func:`.times.find_in_slice`. Raises ReplayError (retryable) and SliceRetired."""

    @abstractmethod
    def load_range(self, request: RangeRequest[F]) -> Extent:
        """Read an extent, in a worker thread. Raises ReplayError (retryable)."""

    @abstractmethod
    def load_piece(self, request: PieceRequest[F]) -> Piece:
        """Read frames of one group, in a worker thread. Raises ReplayError (retryable)."""

    # For whoever asks for groups.

    def poll_group(
        self, sequence: int, *, priority: int = 0
    ) -> Ready[SlicedGroupReader] | Pending | Missing:
        """Look for one group; see :class:`~moqtrio.replay.ReplaySource`.

        Raises ReplayError: not retryable for a group that is damaged, was lost before it was
        recorded or has lost its slice, and for a store that is closed; retryable where the
        medium failed.
        """
        answer = self._look_up(sequence)
        return self._check_absence(sequence, answer) if isinstance(answer, Missing) else answer

    def _look_up(self, sequence: int) -> Ready[SlicedGroupReader] | Pending | Missing:
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
            raise found.error.again()
        if sequence >= extent.middle and not extent.read_ahead:
            self._read_ahead(extent)
        return Ready(SlicedGroupReader(self, sequence, found))

    def _check_absence(self, sequence: int, missing: Missing) -> Missing | Pending:
        """What becomes of the answer that no slice has ``sequence``. Raises ReplayError where
        it was lost."""
        return self.gaps.check(sequence, missing)

    async def find_time(self, when: float) -> int | None:
        """The smallest sequence of which anything was recorded at or after ``when``; see
        :class:`~moqtrio.replay.TimeIndex`. Looks into one slice at most."""
        await trio.lowlevel.checkpoint()
        async with self.reading.lookups:
            while True:
                self._check_readable()
                place = self.times.find(when, self.recorded)
                if place is None or self.created(place.slice) >= when:
                    return None if place is None else place.lowest
                look = partial(
                    self.find_in_slice,
                    self.file(place.slice),
                    when,
                    oldest=self.spans.oldest or 0,
                    unreadable=place.lowest,
                )
                try:
                    found = [await self.reading.look_up(look), place.later]
                except SliceRetired:
                    continue  # it has expired meanwhile
                return min((each for each in found if each is not None), default=None)

    # For readers.

    def check_readable(self, sequence: int, head: int) -> None:
        """Raise ReplayError where the store is closed, or slice ``head`` was evicted."""
        self._check_readable()
        if not self.has_slice(head):
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
            raise piece.error.again()
        if piece.cut:
            return self._loads.want_piece(sequence, frame)
        if piece.was_open:
            recorded = self.recorded_frames(sequence)
            if recorded is not None and recorded <= frame:
                return Pending(self._changed.wait)
            return self._loads.want_piece(sequence, frame)
        raise ReplayError(
            f"group {sequence} is truncated after {frame} frames: what recorded it stopped there",
            code=StreamCode.INTERNAL,
            retryable=False,
        )

    # For loads.

    def plan_range(
        self, sequence: int, stop: int | None, budget: int
    ) -> Callable[[], Extent] | None:
        """How to read the groups from ``sequence`` on, not beyond ``stop``; None where there
        are none."""
        steps: list[Step[F]] = []
        start, end_exists = sequence, False
        limit = self.spans.end if stop is None else min(stop, self.spans.end)
        while len(steps) < _STEPS and start < limit:
            stretch = self.spans.stretch(start)
            end = min(stretch.end, limit)
            steps.append(Step(start, end, [self.file(each) for each in stretch.slices]))
            end_exists = end == stretch.end and stretch.end_exists
            start = end
        if not steps:
            return None
        request = RangeRequest(
            self.key,
            sequence,
            steps,
            end_exists,
            frozenset(self.open_groups()),
            frozenset(self._continued),
            budget,
        )
        return partial(self.load_range, request)

    def plan_piece(self, sequence: int, frame: int, budget: int) -> Callable[[], Piece] | None:
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
        request = PieceRequest(
            self.key,
            sequence,
            frame,
            [self.file(number) for number in numbers[:_FILES]],
            len(numbers) > _FILES,
            self.recorded_frames(sequence) is not None,
            budget,
        )
        return partial(self.load_piece, request)

    def expected_end(self, sequence: int, budget: int) -> int:
        """About where ``budget`` bytes of groups from ``sequence`` on end."""
        return sequence + max(budget // max(self.mean_group_bytes(), 1), 1)

    # For the store.

    def add_continuations(self, slice_number: int, frames: dict[int, int]) -> None:
        """Note which groups go on in a slice, and with which frame."""
        for sequence, frame in frames.items():
            self._continued.setdefault(sequence, []).append((frame, slice_number))
            self.times.clear()

    def remove_slice(self, slice_number: int, continued: Iterable[int]) -> None:
        """A slice is gone, and its groups with it, whatever later slices have of them."""
        span = self.spans.remove(slice_number)
        self.times.clear()
        for sequence in continued:
            self._continued.pop(sequence, None)
        if span is not None:
            # An extent may end just below what is gone, and say that it is there.
            self._loads.invalidate(span.first - 1, span.last)

    def wake(self) -> None:
        """Something changed that a reader of an open group may wait for."""
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    def close(self) -> None:
        """The store closes: let everyone who waits ask again."""
        self._loads.wake()
        self.wake()

    def _check_readable(self) -> None:
        self.check_open()
        if self.reading.closed:
            raise ReplayError(f"the store of {self.key.label} is being closed", retryable=False)

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
