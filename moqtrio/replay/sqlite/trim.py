"""Removing the oldest part of a store that nobody has open."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path

import attrs

from .catalog import ACTIVE, SliceRow, TrackRow
from .looking import find_catalog, read_catalog, select_track
from .records import Content
from .recovery import open_directory
from .removal import find_oldest, remove_slices
from .schema import file_bytes
from .shelf import Slice


@attrs.frozen
class TrimmedTrack:
    """What was removed of one track.

    Attributes:
        broadcast, name: which track.
        start, end: the sequences, half-open, that the groups lay in.
        groups, bytes: how many groups began there, and their payload.
        first_timestamp_us, last_timestamp_us: the smallest and the largest timestamp.
    """

    broadcast: str
    name: str
    start: int
    end: int
    groups: int
    bytes: int
    first_timestamp_us: int | None
    last_timestamp_us: int | None


@attrs.frozen
class TrimReport:
    """What was removed, or would be.

    Attributes:
        path: the store.
        dry_run: whether nothing was removed.
        slices: how many files.
        bytes: what they took on the disk.
        created, recorded: when the first was begun and the last was last written to, in
            seconds since the Unix epoch; None where there are none.
        tracks: what was in them.
        kept_slices, kept_bytes: what is left.
    """

    path: Path
    dry_run: bool
    slices: int
    bytes: int
    created: float | None
    recorded: float | None
    tracks: Sequence[TrimmedTrack]
    kept_slices: int
    kept_bytes: int


@attrs.frozen(kw_only=True)
class TrimLimits:
    """What to keep: what any of the limits gives up goes. Without any, everything stays.

    Attributes:
        before: groups of one track with lower sequences are given up.
        broadcast, track: which track ``before`` is about; needed where there are several.
        older_than: what was last written to that many seconds ago is given up.
        keep_bytes: the oldest files are given up until the rest take no more on the disk.
    """

    before: int | None = None
    broadcast: str | None = None
    track: str | None = None
    older_than: float | None = None
    keep_bytes: int | None = None


def trim_store(
    path: str | os.PathLike[str],
    limits: TrimLimits,
    *,
    dry_run: bool = False,
    wall_clock: Callable[[], float] = time.time,
) -> TrimReport:
    """Remove the oldest files of the store in directory ``path``, whole, as ``limits`` say.

    Files go from the oldest on, never one out of the middle, each with all there is in it of
    any track; one that holds anything to be kept stays. Killed at any point it leaves a store
    in order. Sequences that were used are not used again.

    Blocks: in a Trio program, call it in a worker thread.

    Args:
        path: the store. Nobody else may have it open, but for a dry run.
        limits: what to keep.
        dry_run: say what would go, and change nothing. The file that is being written, or
            was when a process was killed, counts as one that stays.
        wall_clock: seconds since the Unix epoch; a store whose own clock is ahead goes by
            that.

    Raises:
        ReplayError: there is no store or no such track, it is of a newer version or in use,
            or the disk refuses.
    """
    directory = Path(path)
    if dry_run:
        view = read_catalog(directory)
        for row in view.slices:
            row.bytes = row.bytes or file_bytes(view.file(row).path)
        now = max([wall_clock(), view.clock, *(row.recorded for row in view.slices)])
        numbers = _choose(directory, view.slices, view.tracks, limits, now)
        sealed = [row.number for row in takewhile(lambda row: row.state != ACTIVE, view.slices)]
        return _report(directory, True, view.slices, view.tracks, numbers[: len(sealed)])
    find_catalog(directory)
    opened = open_directory(directory)
    try:
        now = max(wall_clock(), opened.clock)
        numbers = _choose(directory, opened.slices, opened.tracks, limits, now)
        if numbers:
            oldest = find_oldest(opened.tracks, opened.slices, numbers)
            remove_slices(directory, opened.catalog, numbers, oldest)
        return _report(directory, False, opened.slices, opened.tracks, numbers)
    finally:
        opened.catalog.close()
        opened.lock.release()


_Slices = Sequence[Slice | SliceRow]


def _choose(
    directory: Path,
    slices: _Slices,
    tracks: Sequence[TrackRow],
    limits: TrimLimits,
    now: float,
) -> list[int]:
    """The numbers of the slices that go."""
    counts = [0]
    if limits.before is not None:
        track = select_track(directory, tracks, limits.broadcast, limits.track)
        counts.append(_count_before(slices, track.id, limits.before))
    if limits.older_than is not None:
        counts.append(_count_until(slices, now - limits.older_than))
    if limits.keep_bytes is not None:
        counts.append(_count_beyond(slices, limits.keep_bytes))
    return [each.number for each in slices[: max(counts)]]


def _count_before(slices: _Slices, track: int, sequence: int) -> int:
    """How many slices there are up to the last that has only groups below ``sequence``."""
    count = 0
    for index, each in enumerate(slices):
        last = each.contents.get(track, Content()).last
        if last is not None and last >= sequence:
            break
        if last is not None:
            count = index + 1
    return count


def _count_until(slices: _Slices, instant: float) -> int:
    young = (index for index, each in enumerate(slices) if each.recorded > instant)
    return next(young, len(slices))


def _count_beyond(slices: _Slices, size: int) -> int:
    total = sum(each.bytes for each in slices)
    count = 0
    while total > size:
        total -= slices[count].bytes
        count += 1
    return count


def _report(
    directory: Path,
    dry_run: bool,
    slices: _Slices,
    tracks: Sequence[TrackRow],
    numbers: Sequence[int],
) -> TrimReport:
    gone = [each for each in slices if each.number in numbers]
    kept = [each for each in slices if each.number not in numbers]
    return TrimReport(
        directory,
        dry_run,
        len(gone),
        sum(each.bytes for each in gone),
        min((each.created for each in gone), default=None),
        max((each.recorded for each in gone), default=None),
        list(_sum_up(gone, tracks)),
        len(kept),
        sum(each.bytes for each in kept),
    )


def _sum_up(
    slices: Sequence[Slice | SliceRow], tracks: Sequence[TrackRow]
) -> Iterator[TrimmedTrack]:
    for track in tracks:
        total = Content()
        for each in slices:
            total.add(each.contents.get(track.id, Content()))
        if total.first is None or total.last is None:
            continue
        totals = total.totals
        yield TrimmedTrack(
            track.broadcast,
            track.name,
            total.first,
            total.last + 1,
            total.groups,
            totals.bytes,
            totals.first_us,
            totals.last_us,
        )
