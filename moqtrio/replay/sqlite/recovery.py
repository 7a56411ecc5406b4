"""Opening a store: what a killed process left half done is finished or undone.

Everything here blocks, and belongs in a worker thread.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import attrs

from ...errors import ReplayError
from ..target import GapWrite
from .catalog import ACTIVE, CREATING, DROPPING, SEALED, Catalog, SliceRow, TrackRow
from .errors import store_error
from .lock import DirectoryLock
from .records import Content
from .removal import find_oldest
from .schema import file_bytes, remove_files, slice_number, slice_path, sync_directory
from .shelf import Slice
from .slices import recover

logger: logging.Logger = logging.getLogger("moqtrio.store")


@attrs.frozen
class OpenedStore:
    """A store's directory, locked and in order.

    ``gaps`` is by track. ``clock`` is the latest time, by the store's own clock, that it
    knows of.
    """

    directory: Path
    lock: DirectoryLock
    catalog: Catalog
    tracks: list[TrackRow]
    gaps: dict[int, list[GapWrite]]
    slices: list[Slice]
    next_number: int
    clock: float


def open_directory(directory: Path) -> OpenedStore:
    """Lock and open a store's directory, made if need be. Raises ReplayError."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise store_error(error, directory) from error
    lock = DirectoryLock(directory)
    try:
        catalog = Catalog.open(directory)
        try:
            return _open(directory, lock, catalog)
        except BaseException:
            catalog.close()
            raise
    except BaseException:
        lock.release()
        raise


def _open(directory: Path, lock: DirectoryLock, catalog: Catalog) -> OpenedStore:
    tracks = catalog.tracks()
    rows = catalog.slices()
    undone = [row for row in rows if row.state in (CREATING, DROPPING)]
    _remove_files(directory, undone)
    slices: list[Slice] = []
    for row in rows:
        if row.state in (CREATING, DROPPING):
            continue
        sealed = row.state != ACTIVE or _finish(directory, catalog, row, tracks, slices)
        slices.append(
            Slice(
                row.number,
                row.created,
                row.recorded,
                row.bytes,
                sealed,
                row.contents,
                row.continuations,
            )
        )
    if undone:
        gone = [row.number for row in undone]
        catalog.finish_drop(gone, find_oldest(tracks, [*undone, *slices], gone))
    numbers = [row.number for row in rows] + _numbers_on_disk(directory)
    next_number = max(numbers, default=0) + 1
    clock = max([catalog.clock(), *(each.recorded for each in slices)])
    return OpenedStore(directory, lock, catalog, tracks, catalog.gaps(), slices, next_number, clock)


def _remove_files(directory: Path, rows: Sequence[SliceRow]) -> None:
    """Of slices that were never written to, or were on their way out."""
    if not rows:
        return
    try:
        for row in rows:
            remove_files(slice_path(directory, row.number))
        sync_directory(directory)
    except OSError as error:
        raise store_error(error, directory) from error


def _finish(
    directory: Path,
    catalog: Catalog,
    row: SliceRow,
    tracks: Iterable[TrackRow],
    before: Sequence[Slice],
) -> bool:
    """Seal a slice that was being written when its process ended, or could not be sealed
    before that, if the disk allows."""
    path = slice_path(directory, row.number)
    known = bool(row.contents)
    sealed = True
    try:
        found, sealed = recover(path, known=known)
        if not known:  # else there may be less now
            row.contents, row.continuations = found.contents, found.continuations
        row.recorded = found.recorded or row.recorded
    except ReplayError as error:
        if error.retryable:
            raise
        logger.error("what was recorded last is lost: %s", error)
        if not known:
            row.contents = assumed_contents(tracks, before)
    row.bytes = file_bytes(path)
    if sealed:
        try:
            catalog.close_slice(
                row.number, SEALED, row.recorded, row.bytes, row.contents, row.continuations
            )
        except ReplayError as error:
            # It is in order, and will be found to be so again.
            logger.warning("slice %d is not marked as sealed: %s", row.number, error)
    return sealed


def assumed_contents(
    tracks: Iterable[TrackRow], before: Sequence[Slice | SliceRow]
) -> dict[int, Content]:
    """What an unreadable slice may have had: everything after what the others have. To take
    it for empty would make the loss look like sequences that were never used."""
    contents: dict[int, Content] = {}
    for track in tracks:
        if track.next_sequence is not None:
            continue
        known = (each.contents.get(track.id) for each in before)
        ends = [content.last + 1 for content in known if content and content.last is not None]
        first = max(ends, default=0)
        if first < track.reserved_end:
            contents[track.id] = Content(first, track.reserved_end - 1, 0)
    return contents


def _numbers_on_disk(directory: Path) -> list[int]:
    numbers = (slice_number(path) for path in directory.iterdir())
    return [number for number in numbers if number is not None]
