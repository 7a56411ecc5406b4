"""Finding by time of day: which slice to look into, and what to look for there.

A store's clock never runs backwards, so slices in the order of their numbers are in the
order of time as well. Of all that was recorded since an instant, the older part is in one
slice, and what follows is in those after it, of which only the smallest sequence matters.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

import attrs

from .errors import is_damage, store_error
from .pool import ConnectionPool
from .records import SliceFile
from .spans import SpanIndex

_FIRST_PACK = "SELECT min(first_sequence) FROM pack WHERE track=? AND recorded>=?"
_FIRST_PART = (
    "SELECT min(sequence) FROM part WHERE track=? AND recorded>=?"
    " AND (first_frame=0 OR sequence>=?)"
)


@attrs.frozen
class Place:
    """Where something recorded since an instant begins.

    Attributes:
        slice: the first slice with something recorded since then.
        lowest: the smallest sequence in it or in any later one.
        later: the smallest sequence in a later one; None where there is none.
    """

    slice: int
    lowest: int
    later: int | None


class SliceTimes:
    """The slices of one track in the order of time. What it knows is worked out anew, when
    it is next asked for, after slices have come or gone.

    Args:
        spans: what begins in each slice.
        continued: by group, (first frame, slice) of each slice it goes on in.
    """

    def __init__(
        self, spans: SpanIndex, continued: Mapping[int, Sequence[tuple[int, int]]]
    ) -> None:
        self._spans = spans
        self._continued = continued
        self._slices: list[int] = []  # rising
        self._lowest: list[int] = []  # the smallest sequence in each or in any later one

    def note_written(self, slice_number: int, first: int) -> None:
        """The youngest slice now has groups from ``first`` on."""
        if self._slices and (slice_number != self._slices[-1] or first < self._lowest[-1]):
            self.clear()

    def clear(self) -> None:
        """Something else has changed."""
        self._slices.clear()
        self._lowest.clear()

    def find(self, when: float, recorded: Callable[[int], float]) -> Place | None:
        """Where to look; None where nothing is that young.

        ``recorded`` is the time of a slice's last commit.
        """
        if not self._slices:
            self._work_out()
        index = bisect_left(self._slices, when, key=recorded)
        if index == len(self._slices):
            return None
        later = self._lowest[index + 1] if index + 1 < len(self._lowest) else None
        return Place(self._slices[index], self._lowest[index], later)

    def _work_out(self) -> None:
        lowest = self._spans.firsts()
        oldest = self._spans.oldest
        for sequence, entries in self._continued.items():
            if oldest is None or sequence < oldest:
                continue  # its beginning has expired, and so it is not to be had
            for _, number in entries:
                lowest[number] = min(lowest.get(number, sequence), sequence)
        self._slices = sorted(lowest)
        self._lowest = list(accumulate((lowest[each] for each in reversed(self._slices)), min))
        self._lowest.reverse()


def find_in_slice(
    pool: ConnectionPool,
    file: SliceFile,
    track: int,
    when: float,
    *,
    oldest: int,
    unreadable: int,
) -> int | None:
    """The smallest sequence with something recorded at or after ``when`` in one slice.

    Blocks; belongs in a worker thread. Reads the heads of the rows, not their data. Groups
    below ``oldest`` count only where they begin here. Where the slice is damaged it cannot
    be told, and the answer is ``unreadable``. Raises ReplayError (retryable) and
    SliceRetired.
    """
    try:
        with pool.connection(file) as connection:
            if pool.find_loss(connection, file) is not None:
                return unreadable
            ((pack,),) = connection.execute(_FIRST_PACK, (track, when)).fetchall()
            ((part,),) = connection.execute(_FIRST_PART, (track, when, oldest)).fetchall()
    except sqlite3.Error as error:
        if is_damage(error, file.path):
            return unreadable
        raise store_error(error, file.path) from error
    found = [each for each in (pack, part) if each is not None]
    if not all(isinstance(each, int) for each in found):
        return unreadable
    return min(found, default=None)
