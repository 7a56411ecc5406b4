"""What has been read from slices, in the form it is looked up in and cached."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

import attrs

from ...errors import ReplayError
from .chunks import FrameRun, Pack
from .records import OPEN

_OVERHEAD = 512  # bytes of memory of an entry itself, roughly


@attrs.define(slots=True, eq=False)
class Piece:
    """Consecutive frames of one group that has rows of its own.

    Attributes:
        sequence: the group.
        first_frame: the index of its first frame.
        was_open: whether the group was still being recorded when this was read.
        budget: how many bytes were asked for.
        head: the number of the slice the group begins in; for a first piece.
        end_frame: one more than the index of its last frame.
        ending: how the group ended, where that follows the last frame here, else OPEN.
        cut: whether more was recorded than was read.
        error: what follows the last frame here cannot be read, because of this.
    """

    sequence: int
    first_frame: int
    was_open: bool
    budget: int
    head: int = -1
    end_frame: int = attrs.field(init=False)
    ending: int = OPEN
    cut: bool = False
    error: ReplayError | None = None
    size: int = _OVERHEAD
    read_ahead: bool = False
    _starts: list[int] = attrs.Factory(list)
    _runs: list[FrameRun] = attrs.Factory(list)

    def __attrs_post_init__(self) -> None:
        self.end_frame = self.first_frame

    @property
    def key(self) -> tuple[int, int]:
        """Where it begins."""
        return (self.sequence, self.first_frame)

    def append(self, run: FrameRun, frame: int, size: int) -> None:
        """Add the frames that follow; only the first run may begin before the piece does."""
        self._starts.append(frame)
        self._runs.append(run)
        self.end_frame = frame + run.count
        self.size += size

    def run_at(self, frame: int) -> tuple[FrameRun, int]:
        """The run that has ``frame``, and the index of the run's first frame."""
        index = bisect_right(self._starts, frame) - 1
        return self._runs[index], self._starts[index]

    def past_middle(self, frame: int) -> bool:
        """Whether at least half of it comes before the end of the run with ``frame``."""
        return 2 * bisect_right(self._starts, frame) >= len(self._starts)


@attrs.define(slots=True, eq=False)
class Damage:
    """Groups from ``first`` to ``last`` cannot be read unless they are found elsewhere."""

    first: int
    last: int
    error: ReplayError


@attrs.define(slots=True, eq=False)
class PackedAt:
    """One group in a pack."""

    pack: Pack
    index: int
    head: int


@attrs.define(slots=True, eq=False)
class Extent:
    """Everything about the groups that begin in ``[start, end)``: which there are, and
    either all of their frames or a first piece of them.

    Attributes:
        budget: how many bytes were asked for.
        end_exists: whether ``end`` is the sequence of a group.
        middle: from this sequence on, it is time to read what follows.
    """

    start: int
    budget: int
    end: int = -1
    end_exists: bool = False
    middle: int = -1
    size: int = _OVERHEAD
    read_ahead: bool = False
    _overlapping: bool = False
    _packs: list[Pack] = attrs.Factory(list)
    _pack_heads: list[int] = attrs.Factory(list)
    _pack_starts: list[int] = attrs.Factory(list)
    _pieces: dict[int, Piece] = attrs.Factory(dict)
    _piece_order: list[int] = attrs.Factory(list)
    _damage: list[Damage] = attrs.Factory(list)

    def add_pack(self, pack: Pack, head: int) -> None:
        """Add a pack of slice ``head``; they come in order."""
        first = pack.sequences[0]
        if self._packs and self._packs[-1].sequences[-1] > first:
            self._overlapping = True
        self._packs.append(pack)
        self._pack_heads.append(head)
        self._pack_starts.append(first)
        self._grow(pack.size, first)

    def add_piece(self, piece: Piece) -> None:
        """Add the first piece of a group; they come in order."""
        if piece.sequence in self._pieces:
            return
        self._pieces[piece.sequence] = piece
        self._piece_order.append(piece.sequence)
        self._grow(piece.size, piece.sequence)

    def add_damage(self, damage: Damage) -> None:
        """Say that groups in a range cannot be read."""
        self._damage.append(damage)
        self._grow(_OVERHEAD, damage.first)

    def find(self, sequence: int) -> Piece | PackedAt | Damage | None:
        """The group ``sequence``, which lies in ``[start, end)``; None where there is none."""
        piece = self._pieces.get(sequence)
        if piece is not None:
            return piece
        packs = self._packs
        # Packs of different slices may overlap, by what was recorded out of order.
        for position in range(bisect_right(self._pack_starts, sequence) - 1, -1, -1):
            index = packs[position].find(sequence)
            if index is not None:
                return PackedAt(packs[position], index, self._pack_heads[position])
            if not self._overlapping:
                break
        for damage in reversed(self._damage):  # what concerns all of a slice comes first
            if damage.first <= sequence <= damage.last:
                return damage
        return None

    def next_from(self, sequence: int) -> int | None:
        """The smallest sequence in ``[sequence, end)`` that has a group, readable or not."""
        candidates = [
            max(damage.first, sequence) for damage in self._damage if damage.last >= sequence
        ]
        index = bisect_left(self._piece_order, sequence)
        candidates += self._piece_order[index : index + 1]
        candidates += self._next_in_packs(sequence)
        nearest = min(candidates, default=self.end)
        return nearest if nearest < self.end else None

    def _next_in_packs(self, sequence: int) -> list[int]:
        found: list[int] = []
        after = bisect_right(self._pack_starts, sequence)
        found += self._pack_starts[after : after + 1]
        for position in range(after - 1, -1, -1):
            nearest = self._packs[position].next_from(sequence)
            if nearest is not None:
                found.append(nearest)
            if not self._overlapping:
                break
        return found

    def finish(self, end: int, end_exists: bool) -> Extent:
        """Say how far it reaches."""
        self.end, self.end_exists = end, end_exists
        if self.middle < 0:
            self.middle = self.start
        return self

    def _grow(self, size: int, sequence: int) -> None:
        self.size += size
        if self.middle < 0 and 2 * self.size >= self.budget:
            self.middle = max(sequence, self.start)
