"""Which slices may have a sequence."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import islice

import attrs


@attrs.define(slots=True, eq=False)
class Span:
    """The smallest and the largest sequence of one track's groups that begin in a slice."""

    first: int
    last: int
    slice: int


@attrs.frozen
class Stretch:
    """Sequences in ``[start, end)``, any of which only ``slices`` may have.

    ``end_exists`` says that there is a group with sequence ``end``.
    """

    start: int
    end: int
    end_exists: bool
    slices: tuple[int, ...]


class SpanIndex:
    """The spans of one track. They are disjoint and rising but for what came out of order."""

    def __init__(self) -> None:
        self._spans: list[Span] = []  # sorted by first
        self._by_slice: dict[int, Span] = {}
        self._reach: list[int] = []  # the largest `last` up to here; rebuilt when emptied

    def __bool__(self) -> bool:
        return bool(self._spans)

    @property
    def oldest(self) -> int | None:
        """The smallest sequence."""
        return self._spans[0].first if self._spans else None

    @property
    def latest(self) -> int | None:
        """The largest sequence."""
        return self.end - 1 if self._spans else None

    @property
    def end(self) -> int:
        """One more than the largest sequence; 0 where there is none."""
        return self._reaches()[-1] + 1 if self._spans else 0

    def firsts(self) -> dict[int, int]:
        """By slice, the smallest sequence that begins in it."""
        return {span.slice: span.first for span in self._spans}

    def extend(self, slice_number: int, first: int, last: int) -> None:
        """A slice now also has groups from ``first`` to ``last``."""
        spans = self._spans
        span = self._by_slice.get(slice_number)
        if span is None:
            span = self._by_slice[slice_number] = Span(first, last, slice_number)
            if not spans or first >= spans[-1].first:
                spans.append(span)
                if len(self._reach) == len(spans) - 1:
                    self._reach.append(max(last, self._reach[-1]) if self._reach else last)
                return
            spans.append(span)
        elif first >= span.first and span is spans[-1]:
            # The slice being written is nearly always the last one.
            if last > span.last:
                span.last = last
                if self._reach:
                    self._reach[-1] = max(self._reach[-1], last)
            return
        else:
            span.first, span.last = min(span.first, first), max(span.last, last)
        spans.sort(key=lambda span: span.first)
        self._reach.clear()

    def remove(self, slice_number: int) -> Span | None:
        """A slice is gone; returns what it had."""
        span = self._by_slice.pop(slice_number, None)
        if span is not None:
            self._spans.remove(span)
            self._reach.clear()
        return span

    def after(self, sequence: int) -> Iterator[Span]:
        """The spans that begin above ``sequence``, in order."""
        index = bisect_right(self._spans, sequence, key=lambda span: span.first)
        yield from islice(self._spans, index, None)

    def covering(self, sequence: int) -> list[Span]:
        """The spans that have ``sequence`` in them."""
        reach = self._reaches()
        index = bisect_right(self._spans, sequence, key=lambda span: span.first) - 1
        found = []
        while index >= 0 and reach[index] >= sequence:
            if self._spans[index].last >= sequence:
                found.append(self._spans[index])
            index -= 1
        return found

    def stretch(self, sequence: int) -> Stretch:
        """The longest stretch from ``sequence`` on that the same slices have all of."""
        found = self.covering(sequence)
        ends = [span.last + 1 for span in found]
        index = bisect_right(self._spans, sequence, key=lambda span: span.first)
        following = self._spans[index].first if index < len(self._spans) else None
        if following is not None:
            ends.append(following)
        end = min(ends, default=max(self.end, sequence))
        slices = tuple(sorted(span.slice for span in found))
        return Stretch(sequence, end, end == following, slices)

    def _reaches(self) -> list[int]:
        if not self._reach:
            reach = -1
            for span in self._spans:
                reach = max(reach, span.last)
                self._reach.append(reach)
        return self._reach
