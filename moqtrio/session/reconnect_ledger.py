"""Which groups of one subscription are accounted for, over all its connections."""

from __future__ import annotations

from ..model import RangeSet
from .subscription import Gap

_MAX_RANGES = 65536


class Ledger:
    """Sees to it that every group is accounted for once, and none is missed.

    Attributes:
        start: the first sequence there is to account for; None until a publisher has said.
        last: the largest sequence of a group that was taken.
    """

    def __init__(self) -> None:
        self.start: int | None = None
        self.last: int | None = None
        self._first = 0
        self._skipped_to = 0
        self._seen = RangeSet(limit=_MAX_RANGES)

    @property
    def next(self) -> int | None:
        """The first sequence that is not accounted for."""
        if self.start is None:
            return None
        return self._seen.end_of(self._first) or self._first

    @property
    def is_untouched(self) -> bool:
        """Whether nothing is accounted for yet."""
        return not self._seen

    def begin(self, start: int) -> list[Gap]:
        """A publisher says that ``start`` is the first group it will send; returns what it
        does not have of what is wanted."""
        if self.start is None:
            self.start = self._first = start
            self._add(start, self._skipped_to)
            return []
        assert self.next is not None
        return self.drop(Gap(self.next, start, 0))

    def settle(self) -> None:
        """The publisher will not say any more where it began: it is where what has come does."""
        if self.start is None and self._seen:
            self.begin(self._seen.ranges()[0][0])

    def take(self, sequence: int) -> bool:
        """A group has come; False where it is accounted for already."""
        if sequence < self._first or sequence in self._seen:
            return False
        self._add(sequence, sequence + 1)
        self.last = sequence if self.last is None else max(self.last, sequence)
        return True

    def drop(self, gap: Gap) -> list[Gap]:
        """Groups will not come; returns those that are not accounted for already."""
        gaps = []
        at = max(gap.start, self._first)
        while at < gap.end:
            seen_to = self._seen.end_of(at)
            if seen_to is None:
                seen_to = min(self._seen.next_start(at) or gap.end, gap.end)
                gaps.append(Gap(at, seen_to, gap.code))
            at = seen_to
        self._add(gap.start, gap.end)
        return gaps

    def skip_to(self, start: int) -> None:
        """What is below ``start`` is not wanted any more."""
        self._skipped_to = max(self._skipped_to, start)
        if self.start is not None:
            self._add(self._first, start)

    def _add(self, start: int, end: int) -> None:
        forgotten = self._seen.add(max(start, self._first), end)
        if forgotten is not None:
            self._first = forgotten[1]
