"""Looking at a store without opening it: it may be in use, or on another's disk."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import attrs

from ..target import GapWrite
from .catalog import ACTIVE, SliceRow, TrackRow
from .errors import describe
from .looking import CatalogView, looking_at, read_catalog
from .records import Content
from .schema import file_bytes
from .slices import count_contents


@attrs.frozen
class StoredTrack:
    """What a store holds of one track.

    Attributes:
        broadcast, name: which track.
        epoch: identifies its numbering.
        oldest, latest: the smallest and the largest sequence held; None where there is none.
        next_sequence: where a publisher would go on if the store were opened now.
        groups, frames, bytes: how much is held; bytes of payload.
        first_timestamp_us, last_timestamp_us: the smallest and the largest timestamp.
        slices: how many files hold some of it.
        gaps: where groups were lost before they could be recorded.
        created: when it was first recorded, in seconds since the Unix epoch.
    """

    broadcast: str
    name: str
    epoch: int
    oldest: int | None
    latest: int | None
    next_sequence: int
    groups: int
    frames: int
    bytes: int
    first_timestamp_us: int | None
    last_timestamp_us: int | None
    slices: int
    gaps: Sequence[GapWrite]
    created: float

    @property
    def missing(self) -> int:
        """How many sequences between the oldest and the latest are of no group held: never
        used, lost before they were recorded, or in a file that cannot be read."""
        if self.oldest is None or self.latest is None:
            return 0
        return max(self.latest + 1 - self.oldest - self.groups, 0)


@attrs.frozen
class StoredSlice:
    """One file of a store.

    Attributes:
        path: the file.
        state: ``sealed``, or ``active`` while it is written and after a kill.
        created, recorded: when it was begun, and last written to, in seconds since the Unix
            epoch; for an active one ``recorded`` is when it was begun.
        bytes: what it takes on the disk.
        problem: why its contents are not counted, if they are not.
    """

    path: Path
    state: str
    created: float
    recorded: float
    bytes: int
    problem: str | None


@attrs.frozen
class StoreInfo:
    """What is in a store.

    Attributes:
        path: the store.
        format_version: of its files.
        tracks: in the order they were first recorded.
        slices: the files, oldest first.
    """

    path: Path
    format_version: int
    tracks: Sequence[StoredTrack]
    slices: Sequence[StoredSlice]

    @property
    def bytes(self) -> int:
        """What the slices take on the disk."""
        return sum(each.bytes for each in self.slices)


def inspect_store(path: str | os.PathLike[str]) -> StoreInfo:
    """Look at the store in directory ``path``, changing nothing; it may be in use.

    Blocks: in a Trio program, call it in a worker thread. Raises ReplayError where there is
    no store, or one of a newer version.
    """
    directory = Path(path)
    view = read_catalog(directory)
    rows = view.slices
    slices = [look_at_slice(view, row) for row in rows]
    return StoreInfo(directory, view.version, [_sum_up(view, each) for each in view.tracks], slices)


def look_at_slice(view: CatalogView, row: SliceRow) -> StoredSlice:
    """What there is to say of a slice; what is in an active one is counted into ``row``."""
    file = view.file(row)
    path = file.path
    problem = None if path.exists() else f"{path}: the file is gone"
    if problem is None and row.state == ACTIVE:
        try:
            with looking_at(file) as connection:
                row.contents = count_contents(connection)
        except sqlite3.Error as error:
            problem = describe(error, path)
    return StoredSlice(path, row.state, row.created, row.recorded, file_bytes(path), problem)


def _sum_up(view: CatalogView, track: TrackRow) -> StoredTrack:
    contents = [row.contents[track.id] for row in view.slices if track.id in row.contents]
    total = Content()
    for content in contents:
        total.add(content)
    next_sequence = track.reserved_end if track.next_sequence is None else track.next_sequence
    return StoredTrack(
        track.broadcast,
        track.name,
        track.epoch,
        total.first,
        total.last,
        next_sequence,
        total.groups,
        total.totals.frames,
        total.totals.bytes,
        total.totals.first_us,
        total.totals.last_us,
        len(contents),
        tuple(view.gaps.get(track.id, ())),
        track.created,
    )
