"""What a store remembers of groups it never got."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator

from ..errors import ReplayError
from ..model.source import Missing
from .target import GapWrite

_MOST = 1024


class Gaps:
    """The recorded gaps of one track: disjoint and rising.

    They say nothing about the groups that are stored, which may lie in them. That is why
    they may be merged across such groups where there would be too many to keep.

    Args:
        most: how many are kept. Beyond it the two that are nearest to each other become one.
    """

    def __init__(self, gaps: Iterable[GapWrite] = (), *, most: int = _MOST) -> None:
        self._gaps: list[GapWrite] = []
        self._most = most
        for gap in gaps:
            self.add(gap)

    def __iter__(self) -> Iterator[GapWrite]:
        return iter(self._gaps)

    def __len__(self) -> int:
        return len(self._gaps)

    def add(self, gap: GapWrite) -> None:
        """Take in a gap. Those it overlaps, or continues, become one with it."""
        gaps = self._gaps
        last = bisect_right(gaps, gap.end, key=lambda each: each.start)
        first = last
        while first > 0 and gaps[first - 1].end >= gap.start:
            first -= 1
        self._merge(first, last, gap)
        if len(gaps) > self._most:
            nearest = min(
                range(1, len(gaps)), key=lambda index: gaps[index].start - gaps[index - 1].end
            )
            self._merge(nearest - 1, nearest + 1, gaps[nearest])

    def discard_below(self, sequence: int) -> None:
        """Forget what is below ``sequence``."""
        gaps = self._gaps
        count = bisect_right(gaps, sequence, key=lambda each: each.end)
        del gaps[:count]
        if gaps and gaps[0].start < sequence:
            gaps[0] = GapWrite(sequence, gaps[0].end, gaps[0].code)

    def check(self, sequence: int, missing: Missing) -> Missing:
        """What becomes of the answer that ``sequence`` is not stored.

        Raises ReplayError where it is in a gap. Otherwise the answer may not skip one.
        """
        gaps = self._gaps
        index = bisect_right(gaps, sequence, key=lambda each: each.end)
        if index == len(gaps):
            return missing
        gap = gaps[index]
        if gap.start <= sequence:
            raise ReplayError(
                f"group {sequence} was published, but could not be recorded",
                code=gap.code,
                retryable=False,
            )
        if missing.next_available is None or gap.start < missing.next_available:
            return Missing(gap.start)
        return missing

    def _merge(self, first: int, last: int, gap: GapWrite) -> None:
        merged = [*self._gaps[first:last], gap]
        start, end = min(each.start for each in merged), max(each.end for each in merged)
        self._gaps[first:last] = [GapWrite(start, end, gap.code)]
