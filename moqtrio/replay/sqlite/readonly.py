"""Reading a store that another process may have open, as it was at one instant."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

from ...model.source import Bounds
from ...scope import open_scope
from .cache import Cache
from .catalog import ACTIVE, SliceRow, TrackRow
from .errors import store_error
from .extents import Extent, Piece
from .loader import load_piece, load_range
from .loads import Reading
from .looking import CatalogView, connect_looker, looking_at, read_catalog, select_track
from .lookup import PieceRequest, RangeRequest, SlicedTrack
from .pool import ConnectionPool
from .records import SliceFile
from .recovery import assumed_contents
from .slices import survey
from .times import find_in_slice

_CACHE_BYTES = 16 * 1024 * 1024
_THREADS = 2
_IDLE_CONNECTIONS = 4
_UNFINISHED = "SELECT track, sequence FROM part WHERE ending=-1"


@attrs.frozen
class _Survey:
    """What a catalog said, and what it did not say of the slices that are being written."""

    view: CatalogView
    unfinished: frozenset[tuple[int, int]]
    now: float


class ReadOnlyStore:
    """The tracks of a store, to read from and no more. Made by :meth:`open`.

    It has what was durable when it was opened, less what the process that writes to the
    store removes meanwhile; see :meth:`refresh`.
    """

    def __init__(self, found: _Survey, pool: ConnectionPool, reading: Reading) -> None:
        self._view = found.view
        self._slices = {row.number: row for row in found.view.slices}
        cache = Cache(_CACHE_BYTES)
        self._tracks = {
            row.id: ReadOnlyTrack(self, row, pool, cache, reading, found)
            for row in found.view.tracks
        }

    @classmethod
    @asynccontextmanager
    async def open(cls, path: str | os.PathLike[str]) -> AsyncIterator[ReadOnlyStore]:
        """Open the store in directory ``path`` to read from, whoever has it open.

        On the way out the tasks that read for it are cancelled and have ended.

        Raises ReplayError: there is no store, it is of a newer version, or the operating
        system refuses access.
        """
        found = await trio.to_thread.run_sync(_survey, Path(path))
        pool = ConnectionPool(_IDLE_CONNECTIONS, connect_looker)
        reading = Reading(trio.CapacityLimiter(_THREADS), _CACHE_BYTES)
        try:
            async with open_scope() as nursery:
                reading.start_soon = nursery.start_soon
                yield cls(found, pool, reading)
        finally:
            reading.closed = True
            pool.close()

    def track(self, broadcast: str | None = None, name: str | None = None) -> ReadOnlyTrack:
        """The track of that broadcast and name, either of which need not be said where there
        is no other. Raises ReplayError where there is none, or several, saying which are."""
        view = self._view
        return self._tracks[select_track(view.directory, view.tracks, broadcast, name).id]

    def tracks(self) -> list[ReadOnlyTrack]:
        """Every track, in the order they were first recorded."""
        return list(self._tracks.values())

    async def refresh(self) -> None:
        """Take notice of what has been removed. What cannot be read and is there no longer
        has expired; what is still there is damaged. Raises ReplayError."""
        directory = self._view.directory
        view = await trio.to_thread.run_sync(read_catalog, directory)
        kept = {row.number for row in view.slices}
        for number in [each for each in self._slices if each not in kept]:
            row = self._slices.pop(number)
            for track in self._tracks.values():
                track.expire(row)

    def slice(self, number: int) -> SliceRow:
        """One slice that is still there."""
        return self._slices[number]

    def has_slice(self, number: int) -> bool:
        """Whether a slice was there when last looked for."""
        return number in self._slices

    def file(self, number: int) -> SliceFile:
        """Where a slice is."""
        return self._view.file(self._slices[number])


class ReadOnlyTrack(SlicedTrack[SliceFile]):
    """One track of a :class:`ReadOnlyStore`: a :class:`~moqtrio.replay.ReplaySource`.

    Attributes:
        unfinished: the groups that had no end when the store was opened: they were being
            recorded, or what recorded them was stopped.
    """

    def __init__(
        self,
        store: ReadOnlyStore,
        row: TrackRow,
        pool: ConnectionPool,
        cache: Cache,
        reading: Reading,
        found: _Survey,
    ) -> None:
        gaps = found.view.gaps.get(row.id, ())
        super().__init__(row.id, row.broadcast, row.name, cache, reading, gaps)
        self.row = row
        self.unfinished: frozenset[int] = frozenset(
            sequence for track, sequence in found.unfinished if track == row.id
        )
        self._store = store
        self._pool = pool
        self._now = found.now
        groups = size = 0
        for each in found.view.slices:
            content = each.contents.get(row.id)
            if content is not None:
                groups += content.groups
                size += content.totals.bytes
                if content.first is not None and content.last is not None:
                    self.spans.extend(each.number, content.first, content.last)
            self.add_continuations(each.number, dict(_continued(each, row.id)))
        self._mean_group_bytes = size // max(groups, 1)

    def bounds(self) -> Bounds:
        """What there is of the track."""
        spans = self.spans
        return Bounds(spans.oldest, spans.end, self.row.epoch, spans.latest)

    def now(self) -> float:
        """When the store was opened, on its clock, in seconds since the Unix epoch."""
        return self._now

    def expire(self, row: SliceRow) -> None:
        """A slice has been removed."""
        end = self.spans.end
        self.remove_slice(row.number, [sequence for sequence, _ in _continued(row, self.row.id)])
        oldest = self.spans.oldest
        self.gaps.discard_below(end if oldest is None else oldest)

    # What the lookup asks for.

    def check_open(self) -> None:
        """It is open for as long as it is there."""

    def has_slice(self, number: int) -> bool:
        """Whether a slice was there when last looked for."""
        return self._store.has_slice(number)

    def file(self, number: int) -> SliceFile:
        """Where a slice is."""
        return self._store.file(number)

    def mean_group_bytes(self) -> int:
        """The mean size of the groups."""
        return self._mean_group_bytes

    def open_groups(self) -> Iterable[int]:
        """No more comes of any group."""
        return ()

    def recorded_frames(self, sequence: int) -> int | None:
        """No more comes of any group."""
        return None

    def created(self, number: int) -> float:
        """A time before the first commit of a slice."""
        return self._store.slice(number).created

    def recorded(self, number: int) -> float:
        """When the last commit of a slice was."""
        return self._store.slice(number).recorded

    def find_in_slice(
        self, file: SliceFile, when: float, *, oldest: int, unreadable: int
    ) -> int | None:
        """See :meth:`SlicedTrack.find_in_slice`."""
        pool, track = self._pool, self.key.id
        return find_in_slice(pool, file, track, when, oldest=oldest, unreadable=unreadable)

    def load_range(self, request: RangeRequest[SliceFile]) -> Extent:
        """See :func:`~.loader.load_range`."""
        return load_range(self._pool, request)

    def load_piece(self, request: PieceRequest[SliceFile]) -> Piece:
        """See :func:`~.loader.load_piece`."""
        return load_piece(self._pool, request)


def _continued(row: SliceRow, track: int) -> Iterator[tuple[int, int]]:
    for (owner, sequence), frame in row.continuations.items():
        if owner == track:
            yield sequence, frame


def _survey(directory: Path) -> _Survey:
    while True:
        now = time.time()  # once for each snapshot, as a store that is opened asks for it
        view = read_catalog(directory)
        unfinished: list[tuple[int, int]] = []
        try:
            for index, row in enumerate(view.slices):
                if row.state == ACTIVE:
                    unfinished += _look_into(view, index)
        except _Moved:
            continue
        clock = max([view.clock, *(row.recorded for row in view.slices)])
        return _Survey(view, frozenset(unfinished), max(now, clock))


class _Moved(Exception):
    """The store has gone on meanwhile."""


def _look_into(view: CatalogView, index: int) -> Sequence[tuple[int, int]]:
    """Find out what is in a slice that is being written; returns which groups have no end."""
    row = view.slices[index]
    file = view.file(row)
    try:
        with looking_at(file) as connection:
            connection.execute("BEGIN")
            found = survey(connection)
            unfinished = connection.execute(_UNFINISHED).fetchall()
    except sqlite3.Error as error:
        trouble = store_error(error, file.path)
        if trouble.retryable:
            raise trouble from error
        states = {each.number: each.state for each in read_catalog(view.directory).slices}
        if states.get(row.number) != ACTIVE:
            raise _Moved from error
        if not row.contents:
            row.contents = assumed_contents(view.tracks, view.slices[:index])
        return ()
    if not row.contents:  # else nothing more is written to it, and there may be less now
        row.contents, row.continuations = found.contents, found.continuations
    row.recorded = found.recorded or row.recorded
    return unfinished
