"""Sets of sequence numbers, kept as half-open ranges."""

from __future__ import annotations

from bisect import bisect_left, bisect_right


class RangeSet:
    """A set of integers as disjoint, sorted, half-open ranges.

    Adding at the upper end, which is what sequences do, costs nothing. ``limit`` bounds
    how many ranges are kept: beyond it the lowest are forgotten.
    """

    __slots__ = ("_ends", "_limit", "_starts")

    def __init__(self, limit: int | None = None) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._limit = limit

    def add(self, start: int, end: int) -> None:
        """Add every integer in ``[start, end)``."""
        if start >= end:
            return
        first = bisect_left(self._ends, start)
        last = bisect_right(self._starts, end)
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]
        if self._limit is not None and len(self._starts) > self._limit:
            del self._starts[0], self._ends[0]

    def discard(self, value: int) -> None:
        """Take ``value`` out, if it is in."""
        index = bisect_right(self._starts, value) - 1
        if index < 0 or value >= self._ends[index]:
            return
        start, end = self._starts[index], self._ends[index]
        kept = [(low, high) for low, high in ((start, value), (value + 1, end)) if low < high]
        self._starts[index : index + 1] = [low for low, _ in kept]
        self._ends[index : index + 1] = [high for _, high in kept]

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
