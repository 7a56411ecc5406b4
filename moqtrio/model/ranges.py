"""Sets of sequence numbers, kept as half-open ranges."""

from __future__ import annotations

from bisect import bisect_left, bisect_right


class RangeSet:
    """A set of integers as disjoint, sorted, half-open ranges.

    Adding at the upper end, which is what sequences do, costs nothing. ``limit`` bounds
    how many ranges are kept: beyond it the lowest is forgotten.
    """

    __slots__ = ("_ends", "_limit", "_starts")

    def __init__(self, limit: int | None = None) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._limit = limit

    def add(self, start: int, end: int) -> tuple[int, int] | None:
        """Add every integer in ``[start, end)``. Returns the range that was forgotten for
        it, if one had to be."""
        if start >= end:
            return None
        first = bisect_left(self._ends, start)
        last = bisect_right(self._starts, end)
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]
        if self._limit is None or len(self._starts) <= self._limit:
            return None
        return self._starts.pop(0), self._ends.pop(0)

    def discard(self, value: int) -> None:
        """Take ``value`` out, if it is in."""
        self.discard_range(value, value + 1)

    def discard_range(self, start: int, end: int) -> None:
        """Take every integer in ``[start, end)`` out, as far as they are in."""
        first = bisect_right(self._ends, start)
        last = bisect_left(self._starts, end)
        if start >= end or first >= last:
            return
        kept = [
            (low, high)
            for low, high in ((self._starts[first], start), (end, self._ends[last - 1]))
            if low < high
        ]
        self._starts[first:last] = [low for low, _ in kept]
        self._ends[first:last] = [high for _, high in kept]

    def __contains__(self, value: int) -> bool:
        return self.end_of(value) is not None

    def end_of(self, value: int) -> int | None:
        """The end of the range that holds ``value``, or None where none does."""
        index = bisect_right(self._starts, value) - 1
        if index >= 0 and value < self._ends[index]:
            return self._ends[index]
        return None

    def next_start(self, value: int) -> int | None:
        """The smallest start of a range above ``value``, or None."""
        index = bisect_right(self._starts, value)
        return self._starts[index] if index < len(self._starts) else None

    def discard_below(self, value: int) -> None:
        """Forget every integer below ``value``."""
        index = bisect_right(self._ends, value)
        del self._starts[:index], self._ends[:index]
        if self._starts and self._starts[0] < value:
            self._starts[0] = value

    def ranges(self) -> list[tuple[int, int]]:
        """The ranges, in order."""
        return list(zip(self._starts, self._ends, strict=True))

    def __len__(self) -> int:
        return sum(self._ends) - sum(self._starts)

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __repr__(self) -> str:
        return f"RangeSet({self.ranges()})"
