"""Reading objects: one call reads one range of a track, in order, up to a number of bytes.

The counterpart of :mod:`moqtrio.replay.sqlite.loader`, with the same manners: everything
blocks, and belongs in a worker thread; what cannot be read because it is damaged or gone is
part of the answer; a ReplayError is raised only where asking again may help.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from functools import partial
from operator import attrgetter

import attrs

from ...errors import ReplayError
from ..sqlite.chunks import CHUNK_BYTES, DamagedChunk, Pack, key_checksum, open_run
from ..sqlite.errors import damage_error
from ..sqlite.extents import Damage, Extent, Piece
from ..sqlite.lookup import PieceRequest, RangeRequest, Step, TrackKey
from ..sqlite.records import OPEN
from .answers import ObjectMissing
from .index import IndexCache, ObjectFile
from .layout import ChunkRecord, PackRecord, PartRecord, TrackIndex

_FIRST, _LAST = (-1, -1), (2**63, 2**63)  # below and above any key
_CHUNK_MEMORY = 128  # bytes of memory a chunk takes beside its data, roughly


@attrs.define(slots=True, eq=False)
class _PackItem:
    sequence: int
    record: PackRecord
    reader: _ObjectReader


@attrs.define(slots=True, eq=False)
class _HeadItem:
    sequence: int
    record: PartRecord
    reader: _ObjectReader


@attrs.define(slots=True, eq=False)
class _DamageItem:
    sequence: int
    damage: Damage


_Item = _PackItem | _HeadItem | _DamageItem


def load_range(indexes: IndexCache, request: RangeRequest[ObjectFile]) -> Extent:
    """Read an extent. Raises ReplayError (retryable)."""
    extent = Extent(request.start, request.budget)
    for step in request.steps:
        streams = [_items(indexes, file, request, step) for file in step.files]
        for item in heapq.merge(*streams, key=attrgetter("sequence")):
            if extent.size >= request.budget and item.sequence > request.start:
                return extent.finish(item.sequence, True)
            _add_item(extent, request, item)
    return extent.finish(request.steps[-1].end, request.end_exists)


def load_piece(indexes: IndexCache, request: PieceRequest[ObjectFile]) -> Piece:
    """Read frames of one group. Raises ReplayError (retryable)."""
    piece = Piece(request.sequence, request.frame, request.was_open, request.budget)
    for file in request.files:
        if piece.size >= request.budget:
            piece.cut = True
            break
        reader = _ObjectReader(indexes, file, request.track, request.budget)
        try:
            part = reader.part(request.sequence)
        except (DamagedChunk, ObjectMissing) as error:
            piece.error = reader.damaged(f"group {request.sequence}", error)
        else:
            if part is not None:
                reader.read_chunks(piece, part)
        if piece.error is not None or piece.cut or piece.ending != OPEN:
            break
    else:
        piece.cut = request.more
    return piece


def find_recorded_since(
    indexes: IndexCache, file: ObjectFile, when: float, *, oldest: int, unreadable: int
) -> int | None:
    """The smallest sequence with something recorded at or after ``when`` in one object.

    Groups below ``oldest`` count only where they begin here. Where the object is damaged it
    cannot be told, and the answer is ``unreadable``. Raises ReplayError (retryable).
    """
    since = int(when * 1_000_000)
    fetch = partial(indexes.block, file)
    try:
        index = indexes.track(file)
        packs = (
            record.first
            for record in index.packs.records(fetch, _FIRST, _LAST)
            if record.recorded_us >= since
        )
        parts = (
            record.sequence
            for record in index.parts.records(fetch, _FIRST, _LAST)
            if record.recorded_us >= since
            and (record.first_frame == 0 or record.sequence >= oldest)
        )
        found = [next(packs, None), next(parts, None)]  # the tables are sorted
    except (DamagedChunk, ObjectMissing):
        return unreadable
    return min((each for each in found if each is not None), default=None)


class _ObjectReader:
    """Reads one object for one track: what lies together in one request."""

    def __init__(self, indexes: IndexCache, file: ObjectFile, track: TrackKey, budget: int) -> None:
        self.file = file
        self._indexes = indexes
        self._track = track
        self._ahead = budget + CHUNK_BYTES  # the last chunk goes beyond the budget
        self._window = b""
        self._window_at = 0

    def packs(self, start: int, end: int) -> Iterator[_PackItem]:
        """The packs with groups in ``[start, end)``."""
        table = self._index.packs
        before = table.before(self._fetch, (start, -1))
        if before is not None and before.last >= start:
            yield _PackItem(start, before, self)
        for record in table.records(self._fetch, (start, -1), (end, -1)):
            yield _PackItem(record.first, record, self)

    def heads(self, start: int, end: int) -> Iterator[_HeadItem]:
        """The groups with a part of their own that begin here, in ``[start, end)``."""
        for record in self._index.parts.records(self._fetch, (start, -1), (end, -1)):
            if record.first_frame == 0:
                yield _HeadItem(record.sequence, record, self)

    def part(self, sequence: int) -> PartRecord | None:
        """What the object has of a group."""
        parts = self._index.parts.records(self._fetch, (sequence, -1), (sequence + 1, -1))
        return next(iter(parts), None)

    def pack(self, record: PackRecord) -> Pack | Damage:
        """Read a pack's data."""
        try:
            data = self._read(record.offset, record.length)
            return Pack(data, record.first, key_checksum(self.file.key, record.first, 0))
        except (DamagedChunk, ObjectMissing, ValueError) as error:
            where = f"groups {record.first} to {record.last}, chunk of whole groups"
            return Damage(record.first, record.last, self.damaged(where, error))

    def read_chunks(self, piece: Piece, part: PartRecord) -> None:
        """Append to ``piece`` the frames of ``part`` that follow it, within its budget."""
        expected = piece.end_frame
        end = part.first_frame + part.frames
        try:
            if expected < end:
                expected = self._append_chunks(piece, part, end)
            if not piece.cut and expected < end:
                raise DamagedChunk(f"it should go on to frame {end}")
        except (DamagedChunk, ObjectMissing) as error:
            where = f"group {piece.sequence}, chunk at frame {piece.end_frame}"
            piece.error = self.damaged(where, error)
            return
        if not piece.cut:
            piece.ending = part.ending

    def _append_chunks(self, piece: Piece, part: PartRecord, end: int) -> int:
        """Returns where the frames end that were there."""
        sequence = piece.sequence
        table = self._index.chunks
        head = table.before(self._fetch, (sequence, piece.end_frame + 1))
        if head is None or head.sequence != sequence:
            raise DamagedChunk("its first frames are not there")
        expected: int = head.first_frame
        for record in table.records(self._fetch, head[:2], (sequence, end)):
            if piece.size >= piece.budget and piece.end_frame > piece.first_frame:
                piece.cut = True
                break
            if record.first_frame != expected:
                raise DamagedChunk(f"the frames from {expected} on are not there")
            expected = self._append_chunk(piece, record)
        return expected

    def _append_chunk(self, piece: Piece, record: ChunkRecord) -> int:
        data = self._read(record.offset, record.length)
        key = key_checksum(self.file.key, record.sequence, record.first_frame)
        run = open_run(data, key)
        piece.append(run, record.first_frame, len(data) + _CHUNK_MEMORY)
        return record.first_frame + run.count

    def damaged(self, where: str, error: Exception) -> ReplayError:
        """The error for groups that were archived and cannot be read."""
        place = f"track {self._track.label}, {where}, in object {self.file.name}"
        gone = isinstance(error, ObjectMissing)
        return damage_error(place, "the object is gone" if gone else str(error))

    @property
    def _index(self) -> TrackIndex:
        return self._indexes.track(self.file)

    @property
    def _fetch(self) -> partial[list[ChunkRecord]]:
        return partial(self._indexes.block, self.file)

    def _read(self, offset: int, length: int) -> bytes:
        start = offset - self._window_at
        if start < 0 or start + length > len(self._window):
            end = min(offset + max(length, self._ahead), self._index.data_end)
            self._window = self._indexes.client.read_range(self.file.name, offset, end)
            self._window_at, start = offset, 0
        data = self._window[start : start + length]
        if len(data) != length:
            raise DamagedChunk("the object ends before it")
        return data


def _items(
    indexes: IndexCache,
    file: ObjectFile,
    request: RangeRequest[ObjectFile],
    step: Step[ObjectFile],
) -> Iterator[_Item]:
    """What one object has in a step, in order; where it fails, the rest of it is damage."""
    position = step.start
    reader = _ObjectReader(indexes, file, request.track, request.budget)
    try:
        items: Iterator[_PackItem | _HeadItem] = heapq.merge(
            reader.packs(step.start, step.end),
            reader.heads(step.start, step.end),
            key=attrgetter("sequence"),
        )
        for item in items:
            position = item.sequence
            yield item
    except (DamagedChunk, ObjectMissing) as error:
        trouble = reader.damaged(f"groups {position} to {step.end - 1}", error)
        yield _DamageItem(position, Damage(position, step.end - 1, trouble))


def _add_item(extent: Extent, request: RangeRequest[ObjectFile], item: _Item) -> None:
    if isinstance(item, _DamageItem):
        extent.add_damage(item.damage)
    elif isinstance(item, _PackItem):
        pack = item.reader.pack(item.record)
        if isinstance(pack, Damage):
            extent.add_damage(pack)
        else:
            extent.add_pack(pack, item.reader.file.number)
    else:
        extent.add_piece(_first_piece(request, item, request.budget - extent.size))


def _first_piece(request: RangeRequest[ObjectFile], item: _HeadItem, budget: int) -> Piece:
    sequence = item.sequence
    piece = Piece(sequence, 0, sequence in request.open, budget, item.reader.file.number)
    item.reader.read_chunks(piece, item.record)
    if piece.ending == OPEN and piece.error is None and sequence in request.continued:
        piece.cut = True
    piece.budget = request.budget
    return piece
