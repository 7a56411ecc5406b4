"""The cache of a store: what was read last, up to a number of bytes, for all its tracks."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict

import attrs

from .extents import Extent, Piece

_ALWAYS_KEPT = 8
"""So many of the newest entries stay whatever their size. What a load brought must still be
there when the task that waited for it runs, or readers of huge frames would never get on."""


class Cache:
    """Least recently used first out. An entry is charged for the bytes it holds."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes: int = 0
        self._entries: OrderedDict[Extent | Piece, TrackCache] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entry: Extent | Piece, owner: TrackCache) -> None:
        """Take in ``entry``, and let go of what no longer fits."""
        self._entries[entry] = owner
        self.bytes += entry.size
        while self.bytes > self.limit and len(self._entries) > _ALWAYS_KEPT:
            oldest = next(iter(self._entries))
            self._entries[oldest].discard(oldest)

    def touch(self, entry: Extent | Piece) -> None:
        """Note that ``entry`` was used."""
        self._entries.move_to_end(entry)

    def remove(self, entry: Extent | Piece) -> None:
        """Let go of ``entry``."""
        del self._entries[entry]
        self.bytes -= entry.size


@attrs.define(slots=True, eq=False)
class TrackCache:
    """The entries of one track, found by what they cover.

    Extents never overlap. Pieces here continue a group whose first piece is in an extent.
    """

    cache: Cache
    _starts: list[int] = attrs.Factory(list)
    _extents: dict[int, Extent] = attrs.Factory(dict)
    _piece_keys: list[tuple[int, int]] = attrs.Factory(list)
    _pieces: dict[tuple[int, int], Piece] = attrs.Factory(dict)

    def extent(self, sequence: int) -> Extent | None:
        """The extent that covers ``sequence``."""
        index = bisect_right(self._starts, sequence) - 1
        if index < 0:
            return None
        extent = self._extents[self._starts[index]]
        if sequence >= extent.end:
            return None
        self.cache.touch(extent)
        return extent

    def next_start(self, sequence: int) -> int | None:
        """Where the first extent at or above ``sequence`` begins."""
        index = bisect_left(self._starts, sequence)
        return self._starts[index] if index < len(self._starts) else None

    def piece(self, sequence: int, frame: int) -> Piece | None:
        """The piece that has ``frame``, or ends just before it."""
        index = bisect_right(self._piece_keys, (sequence, frame)) - 1
        if index < 0:
            return None
        piece = self._pieces[self._piece_keys[index]]
        if piece.sequence != sequence or frame > piece.end_frame:
            return None
        self.cache.touch(piece)
        return piece

    def add(self, entry: Extent | Piece) -> None:
        """Take in what was loaded, in place of what it overlaps."""
        if isinstance(entry, Extent):
            self._discard_extents(entry.start, entry.end - 1)
            insort(self._starts, entry.start)
            self._extents[entry.start] = entry
        else:
            before = self._pieces.get(entry.key)
            if before is not None:
                self.discard(before)
            insort(self._piece_keys, entry.key)
            self._pieces[entry.key] = entry
        self.cache.add(entry, self)

    def discard(self, entry: Extent | Piece) -> None:
        """Let go of ``entry``."""
        if isinstance(entry, Extent):
            del self._extents[entry.start]
            del self._starts[bisect_left(self._starts, entry.start)]
        else:
            del self._pieces[entry.key]
            del self._piece_keys[bisect_left(self._piece_keys, entry.key)]
        self.cache.remove(entry)

    def invalidate(self, first: int, last: int) -> None:
        """Let go of all that says something about sequences from ``first`` to ``last``."""
        self._discard_extents(first, last)
        low = bisect_left(self._piece_keys, (first, 0))
        high = bisect_left(self._piece_keys, (last + 1, 0))
        for key in self._piece_keys[low:high]:
            self.discard(self._pieces[key])

    def _discard_extents(self, first: int, last: int) -> None:
        index = max(bisect_right(self._starts, first) - 1, 0)
        for start in self._starts[index : bisect_right(self._starts, last)]:
            extent = self._extents[start]
            if extent.end > first:
                self.discard(extent)
