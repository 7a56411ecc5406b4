"""What checking a store comes to."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import attrs

from .catalog import SliceRow, TrackRow
from .examine import SliceExaminer
from .records import Content

PROBLEMS_KEPT = 1000
"""In memory: a store may have any number."""


@attrs.frozen
class Problem:
    """One thing that is wrong with a store. As text it is one line that says all of it.

    Attributes:
        path: the file.
        detail: what is wrong.
        broadcast, track: whose groups it concerns; None where that cannot be told, or all.
        start, end: which groups, half-open; None where that cannot be told. With ``end``
            alone None, those from ``start`` on that are in this file.
        first_frame, end_frame: which frames of the one group ``start``, half-open; None
            where all of it is concerned. ``end_frame`` is None where it cannot be told.
    """

    path: Path
    detail: str
    broadcast: str | None = None
    track: str | None = None
    start: int | None = None
    end: int | None = None
    first_frame: int | None = None
    end_frame: int | None = None

    def __str__(self) -> str:
        where = [self.path.name]
        if self.track is not None:
            where.append(f"track {self.broadcast}/{self.track}")
        if self.start is not None:
            where.append(_describe_range("group", self.start, self.end))
        if self.first_frame is not None:
            where.append(_describe_range("frame", self.first_frame, self.end_frame))
        return f"{', '.join(where)}: {self.detail}"


def _describe_range(what: str, start: int, end: int | None) -> str:
    if end is None:
        return f"{what}s from {start} on"
    return f"{what} {start}" if end == start + 1 else f"{what}s {start} to {end - 1}"


@attrs.frozen
class VerifyProgress:
    """How far a check has come.

    Attributes:
        path: the file being read.
        bytes: how much has been read, roughly.
        total_bytes: how much there is.
    """

    path: Path
    bytes: int
    total_bytes: int


@attrs.frozen
class VerifyReport:
    """What was checked, and what is wrong.

    Attributes:
        path: the store.
        slices, groups, frames, bytes: how much was read and found in order; bytes of payload.
        unfinished: groups without an end: still being recorded, or cut short when what
            recorded them was stopped. Those are no damage.
        gaps: recorded gaps: where groups were lost before they could be recorded, which
            subscribers are told. Those are no damage either.
        problem_count: how many problems there are.
        problems: the first 1000 of them.
    """

    path: Path
    slices: int
    groups: int
    frames: int
    bytes: int
    unfinished: int
    gaps: int
    problem_count: int
    problems: Sequence[Problem]

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problem_count


class SliceFindings:
    """What is wrong with one slice.

    Attributes:
        problems: the first 1000.
        count: how many there are.
    """

    def __init__(self, path: Path, names: Mapping[int, TrackRow]) -> None:
        self.problems: list[Problem] = []
        self.count: int = 0
        self._path = path
        self._names = names

    def __call__(
        self,
        detail: str,
        track: int | None = None,
        *,
        start: int | None = None,
        end: int | None = None,
        first_frame: int | None = None,
        end_frame: int | None = None,
    ) -> None:
        """Take in one problem; see :class:`~.examine.Report`."""
        row = None if track is None else self._names.get(track)
        broadcast, name = (row.broadcast, row.name) if row is not None else (None, None)
        where = (start, end, first_frame, end_frame)
        problem = Problem(self._path, detail, broadcast, name, *where)
        if problem not in self.problems[-1:]:
            self.count += 1
            if len(self.problems) < PROBLEMS_KEPT:
                self.problems.append(problem)

    def check_name(self, track: int) -> None:
        """Check that the catalog knows a track that has rows here."""
        if track not in self._names:
            self(f"it has groups of track number {track}, which the catalog does not have")

    def tell_lost(
        self, detail: str, contents: Mapping[int, Content], wanted: Collection[int] | None
    ) -> None:
        """Tell that nothing can be read, and what was there."""
        for track, content in contents.items():
            if content.first is None or content.last is None:
                continue
            if wanted is None or track in wanted:
                self(detail, track, start=content.first, end=content.last + 1)
        if not self.count:
            self(detail)

    def check_catalog(
        self, row: SliceRow, examiner: SliceExaminer, wanted: Collection[int] | None
    ) -> None:
        """Check that what is here is what the catalog says."""
        for track in sorted({*row.contents, *examiner.contents}):
            if track in examiner.ambiguous or (wanted is not None and track not in wanted):
                continue
            expected = row.contents.get(track, Content())
            content = examiner.contents.get(track, Content())
            if content != expected:
                self(
                    f"the catalog says it has {_describe(expected)}, and it has "
                    f"{_describe(content)}",
                    track,
                )
            if _of(track, row.continuations) != _of(track, examiner.continuations):
                self("the catalog is wrong about which groups go on in it", track)


def _of(track: int, continuations: Mapping[tuple[int, int], int]) -> dict[int, int]:
    return {key[1]: frame for key, frame in continuations.items() if key[0] == track}


def _describe(content: Content) -> str:
    totals = content.totals
    which = "no groups"
    if content.first is not None and content.last is not None:
        which = f"{content.groups} groups from {content.first} to {content.last}"
    return (
        f"{which} ({totals.frames} frames of {totals.bytes} bytes, timestamps "
        f"{totals.first_us} to {totals.last_us})"
    )
