"""Reading slices: one call reads one range of a track, in order, up to a number of bytes.

Everything here blocks, and belongs in a worker thread. What cannot be read because it is
damaged is part of the answer; a ReplayError is raised only where asking again may help.
"""

from __future__ import annotations

import heapq
import sqlite3
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from operator import attrgetter
from typing import Any

import attrs

from ...errors import ReplayError
from .chunks import DamagedChunk, Pack, key_checksum, open_run
from .errors import damage_error, describe, is_damage, store_error
from .extents import Damage, Extent, Piece
from .lookup import PieceRequest, RangeRequest, Step, TrackKey
from .pool import ConnectionPool
from .records import OPEN, Part, SliceFile, Totals
from .schema import part_checksum

_CHUNK_MEMORY = 128  # bytes of memory a chunk takes beside its data, roughly

_PACKS = (
    "SELECT first_sequence, last_sequence FROM pack"
    " WHERE track=? AND first_sequence>=? AND first_sequence<? ORDER BY first_sequence LIMIT ?"
)
_PACK_BEFORE = (
    "SELECT first_sequence, last_sequence FROM pack"
    " WHERE track=? AND first_sequence<? ORDER BY first_sequence DESC LIMIT 1"
)
_PACK_DATA = "SELECT data FROM pack WHERE track=? AND first_sequence=?"
_PART_COLUMNS = "SELECT sequence, first_frame, frames, bytes, ending, checksum FROM part"
_HEADS = (
    f"{_PART_COLUMNS} WHERE track=? AND sequence>=? AND sequence<? AND first_frame=0"
    " ORDER BY sequence LIMIT ?"
)
_PART = f"{_PART_COLUMNS} WHERE track=? AND sequence=?"
_CHUNKS = (
    "SELECT first_frame, data FROM chunk"
    " WHERE track=? AND sequence=? AND first_frame>=? AND first_frame<?"
    " ORDER BY first_frame LIMIT ?"
)
_CHUNK_WITH = "SELECT max(first_frame) FROM chunk WHERE track=? AND sequence=? AND first_frame<=?"
_FIRST_PAGE, _LARGEST_PAGE = 4, 64  # rows fetched at a time


@attrs.define(slots=True, eq=False)
class _PackItem:
    sequence: int
    first: int
    last: int
    reader: _SliceReader


@attrs.define(slots=True, eq=False)
class _HeadItem:
    sequence: int
    part: Part
    reader: _SliceReader


@attrs.define(slots=True, eq=False)
class _DamageItem:
    sequence: int
    damage: Damage


_Item = _PackItem | _HeadItem | _DamageItem


def load_range(pool: ConnectionPool, request: RangeRequest[SliceFile]) -> Extent:
    """Read an extent, which ends early where reading fails but for its first group. Raises
    ReplayError (retryable) and SliceRetired."""
    extent = Extent(request.start, request.budget)
    read_end = request.start
    try:
        for step in request.steps:
            read_end = step.start
            with ExitStack() as stack:
                streams = [_items(stack, pool, file, request.track, step) for file in step.files]
                for item in heapq.merge(*streams, key=attrgetter("sequence")):
                    if extent.size >= request.budget and item.sequence > request.start:
                        return extent.finish(item.sequence, True)
                    read_end = item.sequence
                    _add_item(extent, request, item)
                    read_end += 1
    except ReplayError:
        if read_end == request.start:
            raise
        return extent.finish(read_end, False)  # Who gets that far asks again, and is told.
    return extent.finish(request.steps[-1].end, request.end_exists)


def load_piece(pool: ConnectionPool, request: PieceRequest[SliceFile]) -> Piece:
    """Read frames of one group. Raises ReplayError (retryable) and SliceRetired."""
    piece = Piece(request.sequence, request.frame, request.was_open, request.budget)
    loss: str | None = None
    for file in request.files:
        if piece.size >= request.budget:
            piece.cut = True
            break
        with ExitStack() as stack:
            try:
                reader = _SliceReader.open(stack, pool, file, request.track)
                loss = loss or reader.loss
                part = reader.part(request.sequence)
                if part is not None:
                    reader.read_chunks(piece, part)
            except DamagedChunk as error:
                where = f"track {request.track.label}, group {request.sequence}, in {file.path}"
                piece.error = damage_error(where, str(error))
            except sqlite3.Error as error:
                _note_damage(piece, file, request.track, error)
        if piece.error is not None or piece.cut or piece.ending != OPEN:
            break
    else:
        piece.cut = request.more
        if loss is not None and piece.ending == OPEN and not (piece.cut or piece.was_open):
            where = f"track {request.track.label}, group {request.sequence}"
            piece.error = damage_error(where, loss)
    piece.end_frame = max(piece.end_frame, piece.first_frame)
    return piece


def find_recorded(
    pool: ConnectionPool, files: Sequence[SliceFile], track: TrackKey, sequences: Sequence[int]
) -> int | None:
    """The first of ``sequences`` that has a group in ``files``, as far as they can be read.

    Raises ReplayError (retryable).
    """
    for file in files:
        with ExitStack() as stack:
            try:
                reader = _SliceReader.open(stack, pool, file, track)
                for sequence in sequences:
                    if reader.has_group(sequence):
                        return sequence
            except DamagedChunk:
                continue
            except sqlite3.Error as error:
                if not is_damage(error, file.path):
                    raise store_error(error, file.path) from error
    return None


class _SliceReader:
    """Reads one slice, within one read transaction, for one track."""

    def __init__(
        self, file: SliceFile, connection: sqlite3.Connection, track: TrackKey, loss: str | None
    ) -> None:
        self.file = file
        self.track = track
        self.loss = loss
        self._connection = connection

    @classmethod
    def open(
        cls, stack: ExitStack, pool: ConnectionPool, file: SliceFile, track: TrackKey
    ) -> _SliceReader:
        """Begin to read; ``stack`` ends it. Raises sqlite3.Error and SliceRetired."""
        connection = stack.enter_context(pool.connection(file))
        return cls(file, connection, track, pool.find_loss(connection, file))

    def packs(self, start: int, end: int) -> Iterator[_PackItem]:
        """The packs with groups in ``[start, end)``."""
        for first, last in self._query(_PACK_BEFORE, start):
            _check_numbers(first, last)
            if last >= start:
                yield _PackItem(start, first, last, self)
        for first, last in self._pages(_PACKS, (), start, end):
            _check_numbers(last)
            yield _PackItem(first, first, last, self)

    def heads(self, start: int, end: int) -> Iterator[_HeadItem | _DamageItem]:
        """The groups with rows of their own that begin here, in ``[start, end)``."""
        for row in self._pages(_HEADS, (), start, end):
            sequence = row[0]
            try:
                yield _HeadItem(sequence, self._checked_part(row), self)
            except DamagedChunk as error:
                trouble = self._damaged(f"group {sequence}", error)
                yield _DamageItem(sequence, Damage(sequence, sequence, trouble))

    def pack(self, item: _PackItem) -> Pack | Damage:
        """Read a pack's data."""
        try:
            ((data,),) = self._query(_PACK_DATA, item.first)
            return Pack(data, item.first, key_checksum(self.track.id, item.first, 0))
        except (DamagedChunk, sqlite3.DatabaseError, ValueError) as error:
            if isinstance(error, sqlite3.Error) and not is_damage(error, self.file.path):
                raise store_error(error, self.file.path) from error
            where = f"groups {item.first} to {item.last}, chunk of whole groups"
            return Damage(item.first, item.last, self._damaged(where, error))

    def part(self, sequence: int) -> Part | None:
        """What this slice holds of a group. Raises DamagedChunk."""
        for row in self._query(_PART, sequence):
            return self._checked_part(row)
        return None

    def has_group(self, sequence: int) -> bool:
        """Whether a group begins in this slice. Raises DamagedChunk."""
        if self.part(sequence) is not None:
            return True
        for item in self.packs(sequence, sequence + 1):
            pack = self.pack(item)
            if isinstance(pack, Damage):
                raise DamagedChunk(str(pack.error))
            return pack.find(sequence) is not None
        return False

    def read_chunks(self, piece: Piece, part: Part) -> None:
        """Append to ``piece`` the frames of ``part`` that follow it, within its budget."""
        start = piece.end_frame
        if start < part.end_frame:
            ((first,),) = self._query(_CHUNK_WITH, piece.sequence, start)
            self._append_chunks(piece, part, start if first is None else first)
        if piece.error is None and not piece.cut:
            piece.ending = part.ending

    def _append_chunks(self, piece: Piece, part: Part, first: int) -> None:
        sequence = piece.sequence
        expected = first
        for frame, data in self._pages(_CHUNKS, (sequence,), first, part.end_frame):
            if piece.size >= piece.budget and piece.end_frame > piece.first_frame:
                piece.cut = True
                return
            try:
                if frame != expected:
                    raise DamagedChunk(f"the frames from {expected} on are not there")
                run = open_run(data, key_checksum(self.track.id, sequence, frame))
            except DamagedChunk as error:
                where = f"group {sequence}, chunk at frame {expected}"
                piece.error = self._damaged(where, error)
                return
            piece.append(run, frame, len(data) + _CHUNK_MEMORY)
            expected = frame + run.count
        if expected != part.end_frame:
            where = f"group {sequence}, chunk at frame {expected}"
            missing = DamagedChunk(f"it should go on to frame {part.end_frame}")
            piece.error = self._damaged(where, missing)

    def _query(self, statement: str, *parameters: int) -> list[Any]:
        return self._connection.execute(statement, (self.track.id, *parameters)).fetchall()

    def _pages(
        self, statement: str, parameters: tuple[int, ...], start: int, end: int
    ) -> Iterator[Any]:
        """The rows of ``statement`` with a key in ``[start, end)``, some at a time: no
        statement is left half-way, which would keep the transaction from ending.

        Raises sqlite3.DatabaseError where they are not in order, as in a damaged file.
        """
        limit = _FIRST_PAGE
        while True:
            rows = self._query(statement, *parameters, start, end, limit)
            for row in rows:
                _check_numbers(row[0])
                if row[0] < start:
                    raise sqlite3.DatabaseError(f"key {row[0]} follows {start - 1}")
                start = row[0] + 1
                yield row
            if len(rows) < limit:
                return
            limit = min(limit * 2, _LARGEST_PAGE)

    def _checked_part(self, row: tuple[int, int, int, int, int, int]) -> Part:
        sequence, first_frame, frames, size, ending, checksum = row
        part = Part(self.file.number, first_frame, Totals(frames, size), ending)
        try:
            found = part_checksum(self.track.id, sequence, part)
        except (struct.error, TypeError) as error:
            raise DamagedChunk("its entry holds no numbers") from error
        if found != checksum:
            raise DamagedChunk("its entry fails its checksum")
        return part

    def _damaged(self, where: str, error: Exception) -> ReplayError:
        place = f"track {self.track.label}, {where}, in {self.file.path}"
        return damage_error(place, str(error))


def _check_numbers(*keys: object) -> None:
    """Raise sqlite3.DatabaseError for what only a damaged file has in place of a number."""
    if not all(isinstance(key, int) for key in keys):
        raise sqlite3.DatabaseError("a key is not a number")


def _items(
    stack: ExitStack, pool: ConnectionPool, file: SliceFile, track: TrackKey, step: Step[SliceFile]
) -> Iterator[_Item]:
    """What one slice has in a step, in order; where it fails, the rest of it is damage."""
    position = step.start
    try:
        reader = _SliceReader.open(stack, pool, file, track)
        if reader.loss is not None:
            trouble = damage_error(f"track {track.label}", reader.loss)
            yield _DamageItem(position, Damage(step.start, step.end - 1, trouble))
        streams = (reader.packs(step.start, step.end), reader.heads(step.start, step.end))
        for item in heapq.merge(*streams, key=attrgetter("sequence")):
            position = item.sequence
            yield item
    except (sqlite3.Error, TypeError) as error:
        if isinstance(error, sqlite3.Error) and not is_damage(error, file.path):
            raise store_error(error, file.path) from error
        trouble = damage_error(f"track {track.label}", describe(error, file.path))
        yield _DamageItem(position, Damage(position, step.end - 1, trouble))


def _add_item(extent: Extent, request: RangeRequest[SliceFile], item: _Item) -> None:
    if isinstance(item, _DamageItem):
        extent.add_damage(item.damage)
    elif isinstance(item, _PackItem):
        pack = item.reader.pack(item)
        if isinstance(pack, Damage):
            extent.add_damage(pack)
        else:
            extent.add_pack(pack, item.reader.file.number)
    else:
        extent.add_piece(_first_piece(request, item, request.budget - extent.size))


def _first_piece(request: RangeRequest[SliceFile], item: _HeadItem, budget: int) -> Piece:
    sequence = item.sequence
    piece = Piece(sequence, 0, sequence in request.open, budget, item.reader.file.number)
    try:
        item.reader.read_chunks(piece, item.part)
    except sqlite3.Error as error:
        _note_damage(piece, item.reader.file, request.track, error)
    if piece.ending == OPEN and piece.error is None and sequence in request.continued:
        piece.cut = True
    piece.budget = request.budget
    return piece


def _note_damage(piece: Piece, file: SliceFile, track: TrackKey, error: sqlite3.Error) -> None:
    """What follows in ``piece`` is lost. Raises ReplayError where that is not certain."""
    if not is_damage(error, file.path):
        raise store_error(error, file.path) from error
    where = f"track {track.label}, group {piece.sequence}, from frame {piece.end_frame} on"
    piece.error = damage_error(where, describe(error, file.path))
